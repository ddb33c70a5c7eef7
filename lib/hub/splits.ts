/**
 * Which files of a data set folder are which split, by the three conventions of the Hub: the `configs` in the head
 * of README.md, file names (`train-00000-of-00002.parquet`, `test.jsonl`), and folders (`default/train/0000.parquet`).
 * @module
 */
import { parse } from "@std/yaml";

/** A configuration of a data set, each split with the files that hold it, in order. */
export interface SplitTable {
  /** Name of the configuration; `default` where a data set has but one. */
  config: string;
  /** Paths in the repository, by split. */
  splits: Map<string, string[]>;
}

const DATA_FILE = /\.(parquet|jsonl|ndjson|json)$/;
const SIDE_FILE = /(^|\/)(\.|dataset_infos?\.json$|state\.json$|config\.json$)/;
const NAMED = /^(.+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?|[-_.]\d+)?\.[a-z]+$/;
const WORDS: Record<string, RegExp> = {
  train: /(^|[^a-z])(train|training)([^a-z]|$)/i,
  validation: /(^|[^a-z])(validation|valid|val|dev)([^a-z]|$)/i,
  test: /(^|[^a-z])(test|testing|eval|evaluation)([^a-z]|$)/i,
};

/**
 * Sorts the files of a data set into configurations and splits.
 *
 * @param files paths relative to the data set's folder, with forward slashes
 * @param readme text of README.md, whose head may name the files of each split
 *
 * @example
 * ```ts
 * import { splitTables } from "./splits.ts";
 * const [table] = splitTables(["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"]);
 * if (table?.splits.get("test")?.length !== 1) throw new Error("one file of the test split");
 * ```
 */
export function splitTables(files: string[], readme = ""): SplitTable[] {
  const data = files.filter((f) => DATA_FILE.test(f) && !SIDE_FILE.test(f)).sort();
  const declared = fromReadme(data, readme);
  return declared.length > 0 ? declared : fromNames(data);
}

/** Picks a configuration: the one named, else `default`, else the only one, else none. */
export function pickTable(tables: SplitTable[], config?: string): SplitTable | undefined {
  // Recipes say `default` where a data set has one configuration, whatever that one is called.
  const named = tables.find((t) => t.config === (config ?? "default"));
  return named ?? ((config ?? "default") === "default" && tables.length === 1 ? tables[0] : undefined);
}

interface Declared {
  config_name?: string;
  data_dir?: string;
  data_files?:
    | string
    | (string | { split?: string; path?: string | string[] })[]
    | Record<string, string | string[]>;
}

function fromReadme(files: string[], readme: string): SplitTable[] {
  const head = /^---\r?\n([\s\S]*?)\r?\n---/.exec(readme)?.[1];
  if (!head) return [];
  let configs: unknown;
  try {
    configs = (parse(head) as { configs?: unknown } | null)?.configs;
  } catch {
    return []; // a README that is not sound says nothing about splits
  }
  if (!Array.isArray(configs)) return [];
  return (configs as Declared[]).map(({ config_name, data_dir, data_files }) => {
    const config = config_name ?? "default";
    const prefix = data_dir ? `${data_dir.replace(/\/+$/, "")}/` : "";
    if (data_files === undefined) {
      const inside = files.filter((f) => f.startsWith(prefix));
      return {
        config,
        splits: fromNames(inside.map((f) => f.slice(prefix.length)), prefix)[0]?.splits ?? new Map(),
      };
    }
    const splits = new Map<string, string[]>();
    const list = typeof data_files === "string" || Array.isArray(data_files)
      ? [data_files].flat().map((e) => typeof e === "string" ? { path: e } : e)
      : Object.entries(data_files).map(([split, path]) => ({ split, path }));
    for (const { split = "train", path = [] } of list) {
      const globs = [path].flat().map((g) => globToRegExp(prefix + g));
      const matched = files.filter((f) => globs.some((g) => g.test(f)));
      splits.set(split, [...new Set([...(splits.get(split) ?? []), ...matched])]);
    }
    return { config, splits };
  }).filter((t) => [...t.splits.values()].some((paths) => paths.length > 0));
}

function fromNames(files: string[], prefix = ""): SplitTable[] {
  const tables = new Map<string, Map<string, string[]>>();
  const placed = files.map((file) => ({ file: prefix + file, ...placeOf(file) }));
  for (const { file, config, name } of placed) {
    const word = splitWord(name);
    // `preferences_train.jsonl` is the split `train`, unless a `train.jsonl` beside it is.
    const taken = word !== name && placed.some((p) => p.config === config && p.name === word);
    const split = word === undefined || taken ? name : word;
    const splits = tables.get(config) ?? new Map<string, string[]>();
    tables.set(config, splits);
    splits.set(split, [...(splits.get(split) ?? []), file]);
  }
  return [...tables].map(([config, splits]) => {
    // Files whose names name no split are all of them `train`, as `datasets` takes them.
    const known = [...splits.keys()].some((s) => splitWord(s) !== undefined);
    return { config, splits: known ? splits : new Map([["train", [...splits.values()].flat().sort()]]) };
  });
}

/** Configuration and name (most often the split) of a file, by its folders and its own name. */
function placeOf(file: string): { config: string; name: string } {
  const parts = file.split("/");
  const stem = NAMED.exec(parts.pop()!)?.[1] ?? file;
  const folder = parts.at(-1);
  // A numbered file lies in a folder that is named for its split; any other is itself named for it.
  const byFolder = folder !== undefined && (/^\d+$/.test(stem) || (splitWord(folder) && !splitWord(stem)));
  const above = (byFolder ? parts.slice(0, -1) : parts).filter((part) => part !== "data");
  return { config: above.join("/") || "default", name: byFolder ? folder : stem };
}

/** The split that a name contains: itself when it starts with one (`train_sft`), else the usual word. */
function splitWord(name: string): string | undefined {
  const word = Object.keys(WORDS).find((split) => WORDS[split]!.test(name.replaceAll("_", "-")));
  if (word === undefined) return undefined;
  return /^(train|validation|test)(_\w+)?$/.test(name) ? name : word;
}

function globToRegExp(glob: string): RegExp {
  const text = glob.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(
    /\*\*\/?|\*|\?/g,
    (g) => g === "*" ? "[^/]*" : g === "?" ? "[^/]" : "(?:.*)",
  );
  return new RegExp(`^${text}$`);
}
