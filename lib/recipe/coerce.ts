/**
 * Values as YAML or the command line give them, brought to the declared type of their setting.
 *
 * PyYAML reads `1e-6` as text and `no` as false; a YAML 1.2 reader does the opposite. Both come out the
 * same here, because the declaration decides and not the reader.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type Setting, type SettingName, settingOf } from "../train/settings.ts";
import { VALUE_ALIASES } from "./aliases.ts";
import { readMixer, readMixture } from "./mixture.ts";
import { nearest } from "../nearest.ts";

/** Where a value came from, for messages and for what the reader lost. */
export interface ValueSource {
  /** File and line, or the command-line argument. */
  where: string;
  /** The value's text in the file, so that a revision such as 12345e7 stays what was written. */
  raw?: string;
}

/**
 * Brings a value to its setting's type.
 *
 * @returns a value of the setting's TypeScript type
 * @throws NibbleError `recipe/bad-value`
 * @example
 * ```ts
 * import { coerce } from "./coerce.ts";
 * const source = { where: "config.yaml:3" };
 * if (coerce("learning_rate", "1e-6", source) !== 1e-6) throw new Error("text to number");
 * if (coerce("eval_strategy", false, source) !== "no") throw new Error("false to no");
 * ```
 */
export function coerce(name: SettingName, value: unknown, source: ValueSource): unknown {
  const row = settingOf(name);
  const fail = (expected: string, hint?: string): NibbleError =>
    new NibbleError("recipe/bad-value", `${name} must be ${expected}, got ${show(value)}`, {
      where: source.where,
      remedy: hint ?? `${row.doc} Default: ${show(row.default)}.`,
    });
  if (value === null || value === undefined) {
    if (row.type.endsWith("?")) return null;
    throw fail(describe(row), `Give a value, or remove the line: the default is ${show(row.default)}.`);
  }
  switch (row.type.replace("?", "")) {
    case "string":
      return toText(value, source.raw) ?? raise(fail("text"));
    case "bool":
      return toBool(value) ?? raise(fail("true or false"));
    case "int":
    case "float":
      return checkNumber(row, toNumber(value), fail);
    case "choice":
      return toChoice(name, row, value, source.raw, fail);
    case "list":
      return toList(value)?.map(String) ?? raise(fail("a list"));
    case "names":
      return toNames(value) ?? raise(fail("a list of names, all-linear or a regular expression"));
    case "mixer":
      return readMixer(value, source.where);
    case "mixture":
      return readMixture(value, source.where);
    default:
      if (typeof value === "object" && !Array.isArray(value)) return value;
      throw fail("a mapping of keys to values");
  }
}

/** A setting's type in words: `a whole number, at least 1`, `one of nf4, fp4, int4`. */
export function describe(row: Setting): string {
  const kind = row.type.replace("?", "");
  const words: Record<string, string> = {
    string: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    choice: "",
    list: "a list",
    names: "a list of names or text",
    map: "a mapping",
    mixer: "a mapping of data sets to shares",
    mixture: "a mapping with datasets, seed, test_split_size",
  };
  const parts = [words[kind]];
  if (row.choices) parts.push(`one of ${row.choices.join(", ")}`);
  if (row.min !== undefined) parts.push(`at least ${row.min}`);
  if (row.above !== undefined) parts.push(`above ${row.above}`);
  if (row.max !== undefined) parts.push(`at most ${row.max}`);
  if (row.below !== undefined) parts.push(`below ${row.below}`);
  if (row.type.endsWith("?")) parts.push("or null");
  return parts.filter(Boolean).join(", ");
}

/** Whether two values of a setting are the same. */
export function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** A value in one line of a message or table; JSON, with bare text where it reads as nothing else. */
export function show(value: unknown): string {
  const bare = /^(?!(null|true|false)$)[A-Za-z./][\w./@+-]*$/;
  if (typeof value === "string") return bare.test(value) ? value : JSON.stringify(value);
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3) return value.toExponential();
  return value === undefined ? "nothing" : JSON.stringify(value);
}

function raise(error: NibbleError): never {
  throw error;
}

function toText(value: unknown, raw: string | undefined): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "object" && !(value instanceof Date)) return undefined;
  return raw || String(value); // a number, a boolean or a date: what was written, where that is known
}

/** The words that YAML 1.1 and Python's argument parsers take for a boolean. */
export function toBool(value: unknown): boolean | undefined {
  if (typeof value === "boolean") return value;
  const word = String(value).toLowerCase();
  if (["true", "yes", "on", "y", "t", "1"].includes(word)) return true;
  if (["false", "no", "off", "n", "f", "0"].includes(word)) return false;
  return undefined;
}

function toNumber(value: unknown): number {
  if (typeof value === "number") return value;
  if (typeof value !== "string" || !/^[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value)) return NaN;
  return Number(value.replaceAll("_", "")); // YAML 1.1 writes 1_000
}

function checkNumber(row: Setting, number: number, fail: (expected: string) => NibbleError): number {
  const bad = !Number.isFinite(number) ||
    (row.type.startsWith("int") && !Number.isInteger(number)) ||
    (row.choices !== undefined && !row.choices.includes(number)) ||
    (row.min !== undefined && number < row.min) || (row.above !== undefined && number <= row.above) ||
    (row.max !== undefined && number > row.max) || (row.below !== undefined && number >= row.below);
  if (bad) throw fail(describe(row));
  return number;
}

function toChoice(
  name: SettingName,
  row: Setting,
  value: unknown,
  raw: string | undefined,
  fail: (expected: string, hint?: string) => NibbleError,
): string {
  const choices = (row.choices ?? []).map(String);
  // TRL 1.x takes a list of losses; a list of one is one.
  const single = Array.isArray(value) && value.length === 1 ? value[0] : value;
  const text = single === false ? "no" : toText(single, raw) ?? raise(fail(describe(row)));
  const lower = text.toLowerCase();
  const choice = VALUE_ALIASES[name]?.[lower] ?? lower;
  if (choices.includes(choice)) return choice;
  const close = nearest(choice, choices);
  throw fail(describe(row), close ? `Did you mean ${close}?` : undefined);
}

function toList(value: unknown): unknown[] | undefined {
  if (Array.isArray(value)) return value.some((v) => v !== null && typeof v === "object") ? undefined : value;
  return typeof value === "object" ? undefined : [value];
}

/** A lone plain word is a list of one; PEFT would take it for an expression that matches no module. */
function toNames(value: unknown): string | string[] | undefined {
  const list = toList(value)?.map(String);
  if (!list) return undefined;
  const plain = list.length !== 1 || (/^[\w.]+$/.test(list[0]) && list[0] !== "all-linear");
  return plain ? list : list[0];
}
