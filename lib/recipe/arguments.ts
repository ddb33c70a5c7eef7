/**
 * The command line: a recipe's path and overrides of its keys, in the handbook's two styles.
 * @module
 */
import { parse } from "@std/yaml";
import { NibbleError } from "../errors.ts";
import { isSetting, settingOf } from "../train/settings.ts";
import { ALIASES } from "./aliases.ts";
import { toBool } from "./coerce.ts";
import { isKnown, nearestName } from "./names.ts";

/** What the training command was asked for. */
export interface TrainArguments {
  /** The recipe's file; undefined where none is named. */
  recipePath: string | undefined;
  /** Overrides as typed, for `readRecipe`. */
  overrides: string[];
  /** `--help` or `-h`. */
  help: boolean;
  /** `--explain`: print every setting, its value and origin, and do not train. */
  explain: boolean;
  /** `--tune`: measure again which kernels are fastest on this adapter. */
  tune: boolean;
}

/** One override: the key as typed and its value, text unless it is a flag or a list of words. */
export interface Override {
  /** Key, underscores restored. */
  key: string;
  /** Value. */
  value: unknown;
}

/**
 * Reads the words after `train.ts`. The recipe comes first or after `--config`.
 *
 * @throws NibbleError `recipe/unknown-key` for an option that is no setting, `recipe/stray-argument` for a
 *   second path, `recipe/no-value`
 * @example
 * ```ts
 * import { parseTrainArguments } from "./arguments.ts";
 * const args = parseTrainArguments(["recipe.yaml", "--lora_r=8", "--packing", "--max_steps", "-1"]);
 * if (args.recipePath !== "recipe.yaml" || args.overrides.length !== 4) throw new Error("three overrides");
 * ```
 */
export function parseTrainArguments(argv: readonly string[]): TrainArguments {
  const own = { help: false, explain: false, tune: false };
  const config: string[] = [];
  const words: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i];
    if (word === "--help" || word === "-h") own.help = true;
    else if (word === "--explain") own.explain = true;
    else if (word === "--tune") own.tune = true;
    else if (word.startsWith("--config=")) config.push(word.slice("--config=".length));
    else if (word === "--config" && i + 1 < argv.length) config.push(argv[++i]);
    else words.push(word);
  }
  const { stray } = splitOverrides(words);
  const paths = [...config, ...stray.map((i) => words[i])];
  if (paths.length > 1) throw strayArgument(paths[1]);
  return { recipePath: paths[0], overrides: words.filter((_, i) => !stray.includes(i)), ...own };
}

/**
 * Splits words into overrides: `--key=value`, `--key value`, `--flag`, `--no_flag`; a list takes all words
 * up to the next option.
 *
 * @returns the overrides in their order, and the positions of words that belong to none
 * @throws NibbleError `recipe/unknown-key`, `recipe/no-value`
 */
export function splitOverrides(words: readonly string[]): { overrides: Override[]; stray: number[] } {
  const overrides: Override[] = [];
  const stray: number[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    if (!word.startsWith("--")) {
      stray.push(i);
      continue;
    }
    const equals = word.indexOf("=");
    const { key, no } = optionKey(equals < 0 ? word.slice(2) : word.slice(2, equals), word);
    const kind = kindOf(key);
    const next = words[i + 1];
    if (equals >= 0) {
      overrides.push({ key, value: fromText(kind, word.slice(equals + 1), word) });
    } else if (no) {
      overrides.push({ key, value: false });
    } else if (kind === "bool" && (next === undefined || toBool(next) === undefined)) {
      overrides.push({ key, value: true });
    } else if (next === undefined || next.startsWith("--")) {
      if (kind !== "any") {
        throw new NibbleError("recipe/no-value", `${word} needs a value`, {
          where: "command line",
          remedy: `Write ${word}=VALUE; --help says what it may be.`,
        });
      }
      overrides.push({ key, value: true });
    } else {
      const taken = [words[++i]];
      if (kind === "list" || kind === "names") {
        while (words[i + 1] !== undefined && !/^--|\.ya?ml$/.test(words[i + 1])) taken.push(words[++i]);
      }
      overrides.push({ key, value: taken.length > 1 ? taken : fromText(kind, taken[0], word) });
    }
  }
  return { overrides, stray };
}

/** The error for a word that is neither an option nor the recipe. */
export function strayArgument(word: string): NibbleError {
  const option = word.replace(/^-+/, "");
  const meant = /^[\w-]+=/.test(option) && isKnown(option.split("=")[0].replaceAll("-", "_"));
  return new NibbleError("recipe/stray-argument", `What is "${word}"? Overrides are written --key=value`, {
    where: "command line",
    remedy: meant
      ? `Did you mean --${option}?`
      : "Give one recipe, then --key=value for each key to change; --help lists them.",
  });
}

function optionKey(text: string, word: string): { key: string; no: boolean } {
  const key = text.replaceAll("-", "_");
  if (isKnown(key)) return { key, no: false };
  const positive = key.replace(/^no_/, "");
  if (positive !== key && isKnown(positive) && ["bool", "any"].includes(kindOf(positive))) {
    return { key: positive, no: true };
  }
  const close = nearestName(key);
  throw new NibbleError("recipe/unknown-key", `Unknown option ${word.split("=")[0]}`, {
    where: "command line",
    remedy: close ? `Did you mean --${close}?` : "--help lists all settings.",
  });
}

/** A key's kind without `?`; `any` for keys that are no settings. */
function kindOf(key: string): string {
  const name = ALIASES.get(key)?.name ?? key;
  return isSetting(name) ? settingOf(name).type.replace("?", "") : "any";
}

/** Reads a value as its kind asks: lists at commas or as YAML, mappings as YAML, the rest as it stands. */
function fromText(kind: string, text: string, word: string): unknown {
  if (["null", "None", "~"].includes(text)) return null;
  const nested = ["map", "mixer", "mixture"].includes(kind);
  if (nested || ((kind === "list" || kind === "names") && text.startsWith("["))) {
    try {
      return parse(text);
    } catch (cause) {
      throw new NibbleError("recipe/bad-yaml", `The value of ${word.split("=")[0]} is not YAML: ${text}`, {
        where: "command line",
        remedy: "Quote the value, for example --lora_target_modules='[q_proj, v_proj]'.",
        cause,
      });
    }
  }
  // A regular expression may hold commas; a list of names holds nothing else besides letters and dots.
  if (kind === "list" || (kind === "names" && /^[\w.,\s-]+$/.test(text))) {
    return text.split(",").map((item) => item.trim()).filter(Boolean);
  }
  return text;
}
