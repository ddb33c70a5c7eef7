/**
 * The keys of one source, a file or a command line, brought to today's names and types.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { IGNORED_KEYS, isSetting, type SettingName, settingOf, UNBUILT_KEYS } from "../train/settings.ts";
import { ALIASES, PART_OF } from "./aliases.ts";
import { coerce, same, show } from "./coerce.ts";
import { nearestName } from "./names.ts";

/** Where a setting's value comes from. */
export interface Origin {
  /** Who gave it. */
  from: "default" | "recipe" | "command line";
  /** The recipe's file. */
  file?: string;
  /** Line in it, from 1. */
  line?: number;
  /** The name under which it was given, where that is another one. */
  as?: string;
  /** Why a default is what it is, where the task or an older dialect decides. */
  why?: string;
}

/** A key that was given, understood, and left alone. */
export interface IgnoredKey {
  /** The key as given. */
  key: string;
  /** Why it changes nothing here. */
  reason: string;
  /** Where it was given. */
  origin: Origin;
}

/** One given setting on its way. */
export interface Given {
  /** Value, in its setting's type. */
  value: unknown;
  /** Who gave it, and where. */
  origin: Origin;
}

/** What one source gave. */
export interface Collected {
  /** Settings. */
  given: Map<SettingName, Given>;
  /** Keys that are no settings here. */
  ignored: IgnoredKey[];
  /** Older names and values that were translated. */
  notices: string[];
}

/**
 * Takes the keys of one source.
 *
 * @param values key to value, as parsed
 * @param originOf origin of a key
 * @param rawOf a value's text, where known
 * @throws NibbleError `recipe/unknown-key` (all of them at once), `recipe/bad-value`, `recipe/bad-mixture`,
 *   `recipe/conflict` for two names of one setting with different values, `recipe/not-built`
 */
export function collect(
  values: ReadonlyMap<string, unknown>,
  originOf: (key: string) => Origin,
  rawOf: (key: string) => string | undefined = () => undefined,
): Collected {
  const collected: Collected = { given: new Map(), ignored: [], notices: [] };
  const unknown: [key: string, origin: Origin][] = [];
  for (const [key, value] of values) {
    const origin = originOf(key);
    const reason = IGNORED_KEYS.get(key);
    if (reason) collected.ignored.push({ key, reason, origin });
    else if (UNBUILT_KEYS.has(key)) refuseUnbuilt(key, value, origin);
    else if (values.has(PART_OF.get(key) ?? "")) continue;
    else if (isSetting(key) || ALIASES.has(key)) take(collected, key, values, origin, rawOf(key));
    else unknown.push([key, origin]);
  }
  if (unknown.length) throw unknownKeys(unknown);
  return collected;
}

function take(
  collected: Collected,
  key: string,
  values: ReadonlyMap<string, unknown>,
  origin: Origin,
  raw: string | undefined,
): void {
  const { given, notices } = collected;
  const alias = ALIASES.get(key);
  const value = alias?.convert ? alias.convert(values.get(key), values) : values.get(key);
  let name = alias?.name ?? (key as SettingName);
  // transformers 5 has no warmup_ratio: a number of steps below 1 is one.
  if (name === "warmup_steps" && Number(value) > 0 && Number(value) < 1) name = "warmup_ratio";
  const where = origin.from === "recipe" ? `${place(origin)}, ${key}` : `--${key}`;
  const typed = coerce(name, value, raw ? { where, raw } : { where });
  const before = given.get(name);
  if (before && !same(before.value, typed)) {
    throw new NibbleError("recipe/conflict", `${before.origin.as ?? name} and ${key} are the same setting`, {
      where: [...new Set([place(before.origin), place(origin)])].join(" and "),
      remedy: `Keep one of ${show(before.value)} and ${show(typed)}, as ${name}.`,
    });
  }
  if (name !== key) {
    origin.as = key;
    notices.push(`${place(origin)}: ${key} is read as ${name}`);
  } else if (typeof value === "string" && settingOf(name).choices && typed !== value) {
    notices.push(`${place(origin)}: ${key}: ${value} is read as ${show(typed)}`);
  }
  given.set(name, { value: typed, origin });
}

function unknownKeys(unknown: [key: string, origin: Origin][]): NibbleError {
  const names = unknown.map(([key]) => {
    const close = nearestName(key);
    return close ? `${key} (did you mean ${close}?)` : key;
  });
  const what = `Unknown ${unknown.length > 1 ? "keys" : "key"} ${names.join(", ")}`;
  return new NibbleError("recipe/unknown-key", what, {
    where: unknown.map(([, origin]) => place(origin)).join(", "),
    remedy: "Correct the name or remove the line; --help lists all settings.",
  });
}

function refuseUnbuilt(key: string, value: unknown, origin: Origin): void {
  const { off, reason } = UNBUILT_KEYS.get(key)!;
  const same = String(value).toLowerCase() === String(off) || Number(value) === off;
  if (value === null || off === undefined || same) return;
  throw new NibbleError(
    "recipe/not-built",
    `${key}: ${show(value)} asks for something not built: ${reason}`,
    {
      where: place(origin),
      remedy: `Remove ${key}.`,
    },
  );
}

/** `file:line`, as far as known. */
export function place(origin: Origin): string {
  if (origin.from !== "recipe") return origin.from;
  return `${origin.file ?? "recipe"}${origin.line ? `:${origin.line}` : ""}`;
}
