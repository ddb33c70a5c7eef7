/**
 * Settings as a recipe file.
 * @module
 */
import { stringify } from "@std/yaml";
import { defaultSettings, SETTING_GROUPS, settingOf, type TrainSettings } from "../train/settings.ts";
import { same } from "./coerce.ts";

/**
 * Writes settings as a recipe: everything that differs from its default, under a comment for each group.
 * Reading it again gives the same settings, secrets apart: a token is in no file that nibble writes.
 *
 * @example
 * ```ts
 * import { parseRecipe, recipeOf } from "./read.ts";
 * import { writeRecipe } from "./write.ts";
 * const { settings } = recipeOf({ model_name_or_path: "a/b", dataset_name: "c/d", lora_r: 8 });
 * if (parseRecipe(writeRecipe(settings)).settings.lora_r !== 8) throw new Error("lora_r must survive");
 * ```
 */
export function writeRecipe(settings: TrainSettings): string {
  const defaults = defaultSettings(settings.nibble_task ?? "sft", settings.dataset_mixer ? "legacy" : "main");
  const groups = SETTING_GROUPS.map(([title, names]) => {
    // The task is always written: a moved file must not change what is trained.
    const changed = names.filter((name) =>
      !settingOf(name).secret && (name === "nibble_task" || !same(settings[name], defaults[name]))
    );
    const values = Object.fromEntries(changed.map((name) => [name, settings[name]]));
    return changed.length ? `# ${title}\n${stringify(values)}` : "";
  });
  return groups.filter(Boolean).join("\n");
}
