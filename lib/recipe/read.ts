/**
 * From a recipe's text and the command line to complete, typed settings.
 * @module
 */
import { parse } from "@std/yaml";
import { NibbleError } from "../errors.ts";
import {
  defaultSettings,
  type Dialect,
  noEffect,
  OLD_DIALECT,
  type SettingName,
  settingOf,
  type Task,
  type TrainSettings,
} from "../train/settings.ts";
import { splitOverrides, strayArgument } from "./arguments.ts";
import { checkComplete, checkSettings } from "./check.ts";
import { same, show } from "./coerce.ts";
import { collect, type Given, type IgnoredKey, type Origin, place } from "./collect.ts";
import { findKeys, type KeyLine } from "./lines.ts";
import { inferTask } from "./task.ts";

/** A recipe, read. */
export interface Recipe {
  /** Every setting of the run. */
  settings: TrainSettings;
  /** What is trained. */
  task: Task;
  /** Whose script the recipe was written for. */
  dialect: Dialect;
  /** The recipe's file, where there is one. */
  file?: string;
  /** Origin of every setting. */
  provenance: Map<SettingName, Origin>;
  /** Given keys that are no settings here. */
  ignored: IgnoredKey[];
  /** What a user should know: older names, assumptions, keys without effect. */
  notices: string[];
}

/** Options of {@link recipeOf}. */
export interface RecipeOptions {
  /** Name of the file, for messages, origins and the task. */
  file?: string;
  /** Lines of its keys. */
  lines?: ReadonlyMap<string, KeyLine>;
  /** Words of the command line: `--key=value`, `--key value`, `--flag`, `--no_flag`. */
  overrides?: readonly string[];
  /** Whether model and data must be named; true by default. */
  complete?: boolean;
}

const DATA_KEYS = ["dataset_mixture", "dataset_mixer", "dataset_name"] as const;

/**
 * Reads a recipe file in any of the handbook's dialects.
 *
 * @param path the YAML file
 * @param overrides words of the command line, which win over the file
 * @throws NibbleError of the room `recipe`, with file and line: a file that is missing or no YAML, an
 *   unknown key with its nearest name, a value of the wrong type, settings that contradict each other
 * @example
 * ```ts
 * import { readRecipe } from "./read.ts";
 * const path = Deno.makeTempFileSync({ suffix: ".yaml" });
 * Deno.writeTextFileSync(path, "model_name_or_path: a/b\ndataset_name: c/d\nmax_seq_length: 2048\n");
 * const { settings } = readRecipe(path, ["--learning_rate=1e-3"]);
 * if (settings.max_length !== 2048 || settings.learning_rate !== 1e-3) throw new Error("both must arrive");
 * ```
 */
export function readRecipe(path: string, overrides: readonly string[] = []): Recipe {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (cause) {
    const what = cause instanceof Deno.errors.NotFound
      ? "There is no such recipe"
      : cause instanceof Deno.errors.IsADirectory
      ? "A recipe is a file, and this is a folder"
      : "The recipe cannot be read";
    throw new NibbleError("recipe/unreadable", what, {
      where: path,
      remedy: "Give the path of a YAML file; recipes/ has some to begin with.",
      cause,
    });
  }
  return parseRecipe(text, { file: path, overrides });
}

/**
 * Reads a recipe's text. See {@link readRecipe}.
 *
 * @throws NibbleError as {@link readRecipe}
 */
export function parseRecipe(text: string, options: RecipeOptions = {}): Recipe {
  const file = options.file ?? "recipe";
  let values: unknown;
  try {
    values = parse(text);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    const line = /line (\d+)/.exec(message)?.[1];
    throw new NibbleError("recipe/bad-yaml", `The recipe is not YAML: ${message}`, {
      where: line ? `${file}:${line}` : file,
      remedy: "Mend that line: keys end with a colon and a space, and appear once.",
      cause,
    });
  }
  if (values === null || typeof values !== "object" || Array.isArray(values)) {
    const what = values === null
      ? "The recipe is empty: it takes `key: value` lines"
      : "A recipe is a list of `key: value` lines";
    throw new NibbleError("recipe/bad-yaml", what, {
      where: file,
      remedy: "Begin with one of recipes/, and change its keys.",
    });
  }
  return recipeOf(values as Record<string, unknown>, { lines: findKeys(text), ...options, file });
}

/**
 * Reads a recipe from an object with the keys of a recipe file, as a notebook has it.
 *
 * @throws NibbleError as {@link readRecipe}
 * @example
 * ```ts
 * import { recipeOf } from "./read.ts";
 * const { settings } = recipeOf({ use_peft: true, load_in_4bit: true, lora_r: 8 }, { complete: false });
 * if (settings.lora_alpha !== 32) throw new Error("the default is filled in");
 * ```
 */
export function recipeOf(values: Record<string, unknown>, options: RecipeOptions = {}): Recipe {
  const { file, lines } = options;
  const fromFile = collect(new Map(Object.entries(values)), (key) => {
    const line = lines?.get(key)?.line;
    return { from: "recipe", ...(file ? { file } : {}), ...(line ? { line } : {}) };
  }, (key) => lines?.get(key)?.raw);

  const words = options.overrides ?? [];
  const { overrides, stray } = splitOverrides(words);
  if (stray.length) throw strayArgument(words[stray[0]]);
  const typed = new Map(overrides.map(({ key, value }) => [key, value])); // the last of equal keys wins
  const fromLine = collect(typed, () => ({ from: "command line" }));

  const notices = [...fromFile.notices, ...fromLine.notices];
  // Data named on the command line replaces the file's, in whatever dialect that names it.
  const named = DATA_KEYS.filter((key) => fromLine.given.has(key));
  for (const key of named.length ? DATA_KEYS : []) {
    const replaced = fromFile.given.get(key);
    if (!replaced || named.includes(key)) continue;
    fromFile.given.delete(key);
    notices.push(`${place(replaced.origin)}: ${key} gives way to --${named[0]}`);
  }
  const given = new Map([...fromFile.given, ...fromLine.given]);
  const recipe = assemble(given, options, notices);
  recipe.ignored = [...fromFile.ignored, ...fromLine.ignored];

  const where = (name: SettingName) => {
    const origin = recipe.provenance.get(name);
    return origin && origin.from !== "default" ? place(origin) : undefined;
  };
  checkSettings(recipe.settings, where);
  if (options.complete !== false) checkComplete(recipe.settings, where, file);
  recipe.notices.push(...withoutEffect(recipe, given));
  return recipe;
}

/** Lays what was given over the defaults of its task and dialect. */
function assemble(given: Map<SettingName, Given>, options: RecipeOptions, notices: string[]): Recipe {
  const plain = new Map([...given].map(([name, { value }]) => [name, value]));
  const { task, why } = inferTask(plain, options.file);
  if (task === "dpo" && !given.has("nibble_task") && !/\/$/.test(why)) {
    notices.push(`The task is taken to be dpo: ${why}. nibble_task: orpo would make it ORPO`);
  }
  const dialect: Dialect = given.has("dataset_mixer") ? "legacy" : "main";
  const settings = defaultSettings(task, dialect);
  const provenance = new Map<SettingName, Origin>();
  for (const name of Object.keys(settings) as SettingName[]) {
    const origin: Origin = { from: "default" };
    if (dialect === "legacy" && name in OLD_DIALECT[task]) {
      origin.why = "older dialect";
      const value = show(settings[name]);
      if (!given.has(name)) {
        notices.push(`${name}: ${value} is assumed, as the scripts for dataset_mixer did`);
      }
    } else if (task in (settingOf(name).byTask ?? {})) origin.why = task;
    provenance.set(name, origin);
  }
  provenance.set("nibble_task", { from: "default", why });
  for (const [name, { value, origin }] of given) {
    Object.assign(settings, { [name]: value });
    provenance.set(name, origin);
  }
  settings.nibble_task = task;
  return {
    settings,
    task,
    dialect,
    ...(options.file ? { file: options.file } : {}),
    provenance,
    ignored: [],
    notices,
  };
}

/** One notice a reason: keys that were given and change nothing in this run. */
function withoutEffect(recipe: Recipe, given: ReadonlyMap<SettingName, Given>): string[] {
  const reasons = new Map<string, string[]>();
  const note = (key: string, reason: string) => reasons.set(reason, [...(reasons.get(reason) ?? []), key]);
  for (const { key, reason } of recipe.ignored) note(key, reason);
  for (const [name, { value, origin }] of given) {
    const reason = noEffect(name, recipe.settings);
    if (reason && !same(value, settingOf(name).default)) note(origin.as ?? name, reason);
  }
  return [...reasons].map(([reason, keys]) => `No effect here: ${keys.join(", ")} (${reason})`);
}
