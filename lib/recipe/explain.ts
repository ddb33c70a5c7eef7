/**
 * What a recipe came to, and what can be set: two texts for the terminal.
 * @module
 */
import { noEffect, type Setting, SETTING_GROUPS, type SettingName, settingOf } from "../train/settings.ts";
import { describe, show } from "./coerce.ts";
import { type Origin, place } from "./collect.ts";
import type { Recipe } from "./read.ts";

const VALUE_WIDTH = 40;

/**
 * A table of every setting: value, where it comes from (line of the file, command line, or whose default), and why it
 * has no effect where it has none; then the keys of the Python stack that are no settings here, each with its reason.
 *
 * @example
 * ```ts
 * import { explainRecipe } from "./explain.ts";
 * import { recipeOf } from "./read.ts";
 * const text = explainRecipe(recipeOf({ lora_r: 8 }, { complete: false }));
 * if (!/lora_r +8 +recipe +no effect: only with use_peft: true/.test(text)) throw new Error(text);
 * ```
 */
export function explainRecipe(recipe: Recipe): string {
  const blocks = SETTING_GROUPS.map(([title, names]): [string, string[][]] => [
    title,
    names.map((name) => {
      const origin = recipe.provenance.get(name) ?? { from: "default" };
      const reason = noEffect(name, recipe.settings);
      const row = settingOf(name);
      return [
        name,
        row.secret && recipe.settings[name] !== null ? "(kept secret)" : shorten(show(recipe.settings[name])),
        source(origin, row.from),
        reason ? `no effect: ${reason}` : "",
      ];
    }),
  ]);
  const ignored = recipe.ignored.map((
    { key, reason, origin },
  ) => [key, "", source(origin), `no effect: ${reason}`]);
  if (ignored.length) blocks.push(["Keys that are no settings here", ignored]);
  const rows = blocks.flatMap(([, lines]) => lines);
  const widths = [0, 1, 2].map((column) => Math.max(0, ...rows.map((row) => row[column].length)));
  const line = (row: string[]) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ").trimEnd();
  const text = blocks.filter(([, lines]) => lines.length)
    .map(([title, lines]) => `${title}\n${lines.map((row) => `  ${line(row)}`).join("\n")}`);
  const head = `${recipe.file ?? "settings"}: ${recipe.task} (${
    recipe.provenance.get("nibble_task")?.why ?? "given"
  })`;
  return [head, ...text, ...(recipe.notices.length ? [recipe.notices.join("\n")] : [])].join("\n\n") + "\n";
}

/** The text of `--help`: how to call, and every setting with its type, default and meaning. */
export function recipeHelp(): string {
  const groups = SETTING_GROUPS.map(([title, names]) => `${title}\n${names.map(helpOf).join("\n")}`);
  return `Usage: deno task train RECIPE.yaml [--key=value ...]
   or: deno run -A train.ts RECIPE.yaml [--key=value ...], where WebGPU finds an adapter

A recipe is a YAML file with the keys below; the alignment-handbook's recipes are read as they are.
The command line wins over the file: --key=value, --key value, --flag, --no_flag; lists at commas or as
--lora_target_modules='[q_proj, v_proj]'.

  --help      this text
  --explain   print every setting, its value and where it comes from; do not train
  --tune      measure again which kernels are fastest on this adapter; the first run on an adapter does so by itself
              (NIBBLE_TUNE=off, and CI: never; NIBBLE_TUNE=f16: tiles with operands in 16 bits may be chosen too)

${groups.join("\n\n")}
`;
}

function helpOf(name: SettingName): string {
  const row: Setting = settingOf(name);
  const byTask = Object.entries(row.byTask ?? {}).map(([task, value]) => `, ${task}: ${show(value)}`).join(
    "",
  );
  const facts = `${describe(row)}; default ${show(row.default)}${byTask} (${row.from})`;
  const effect = row.noEffect ? ` No effect here: ${row.noEffect}.` : "";
  return `  --${name}\n      ${row.doc}${effect}\n      ${facts}`;
}

/** `my.yaml:4 as max_seq_length`, `command line`, `default of TRL 0.19 (dpo)`. */
function source(origin: Origin, whose = ""): string {
  const as = origin.as ? ` as ${origin.as}` : "";
  const why = origin.why ? ` (${origin.why})` : "";
  const of = origin.from === "default" && whose ? ` of ${whose}` : "";
  const name = place(origin).split(/[\\/]/).at(-1);
  return `${name}${of}${as}${why}`;
}

function shorten(text: string): string {
  return text.length > VALUE_WIDTH ? `${text.slice(0, VALUE_WIDTH - 3)}...` : text;
}
