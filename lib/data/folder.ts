/**
 * Which files of a data set folder hold a split: the layouts that the Hugging Face Hub and `datasets` use.
 * @module
 */
import { join } from "@std/path";
import { parse as parseYaml } from "@std/yaml";
import { NibbleError } from "../errors.ts";

/** Which part of a data set to read. */
export interface SplitOptions {
  /** Split, such as `train`, `test` or `train_sft`. Default `train`. */
  split?: string | undefined;
  /** Configuration (`dataset_config`): a name in the data set's card, or a sub-folder. */
  config?: string | undefined;
}

const READABLE = /\.(parquet|(jsonl|ndjson|json)(\.gz)?)$/;
const OTHER_DATA = /\.(arrow|csv|tsv|txt|zst|xz|bz2|zip|tar|lz4)$/;
const NOT_DATA = /^(dataset_infos?|dataset_dict|state|config|package|tokenizer.*|.*_config)\.json$/;
const SYNONYMS: Record<string, string[]> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "dev", "val"],
  test: ["test", "testing", "eval", "evaluation"],
};

/**
 * The files that hold a split, sorted by name. A path to a file is its own answer. In a folder, in this order: what
 * the card (README.md, `configs:`) says; `SPLIT-00000-of-00001.EXT`; `SPLIT.EXT`; a folder `SPLIT/`; names that
 * contain the split as a word; and for `train` the files that name no split at all.
 *
 * Throws {@link NibbleError} `data/no-such-path`, `data/no-data-files`, `data/no-such-config`, `data/no-such-split`.
 */
export function findFiles(path: string, options: SplitOptions = {}): string[] {
  const { split = "train", config } = options;
  let info: Deno.FileInfo;
  try {
    info = Deno.statSync(path);
  } catch (cause) {
    throw new NibbleError("data/no-such-path", "There is no such file or folder", {
      where: path,
      remedy: "Check the path; a data set of the Hub is fetched under its id, such as user/name.",
      cause,
    });
  }
  if (info.isFile) return [path];
  const all = listFiles(path, "");
  const files = all.filter((file) => READABLE.test(file) && !NOT_DATA.test(file.split("/").at(-1)!));
  if (files.length === 0) {
    const other = all.filter((file) => OTHER_DATA.test(file));
    throw new NibbleError("data/no-data-files", "The folder has no .parquet, .jsonl or .json files", {
      where: path,
      remedy: other.length > 0
        ? `It has ${listing(other)}: write them as Parquet or JSON Lines (in Python: dataset.to_parquet).`
        : `It has ${all.length === 0 ? "no files" : listing(all)}.`,
    });
  }
  const chosen = byCard(path, files, split, config) ?? bySplit(inConfig(path, files, config), split);
  if (chosen.length === 0) {
    throw new NibbleError("data/no-such-split", `No files of the split "${split}"`, {
      where: path,
      remedy: `Found: ${listing(files)}. Set the split to one that is there.`,
    });
  }
  return chosen.sort().map((file) => join(path, file));
}

/** All files below a folder, with `/`, hidden ones left out. */
function listFiles(root: string, below: string): string[] {
  return [...Deno.readDirSync(join(root, below))].sort((a, b) => a.name < b.name ? -1 : 1).flatMap(
    (entry) => {
      if (entry.name.startsWith(".")) return [];
      const name = below === "" ? entry.name : `${below}/${entry.name}`;
      const isFolder = entry.isSymlink ? Deno.statSync(join(root, name)).isDirectory : entry.isDirectory;
      return isFolder ? listFiles(root, name) : [name];
    },
  );
}

function listing(files: string[], limit = 12): string {
  return files.slice(0, limit).join(", ") + (files.length > limit ? ` and ${files.length - limit} more` : "");
}

interface CardConfig {
  config_name?: string;
  default?: boolean;
  data_dir?: string;
  data_files?: string | (string | { split: string; path: string | string[] })[];
}

/** Files by the card's `configs:`; undefined where the card has none, or names files that are not here. */
function byCard(
  root: string,
  files: string[],
  split: string,
  config: string | undefined,
): string[] | undefined {
  const configs = readCard(root);
  const named = config === undefined
    ? configs.find((c) => c.default) ?? configs.find((c) => c.config_name === "default") ??
      (configs.length === 1 ? configs[0] : undefined)
    : configs.find((c) => c.config_name === config);
  if (named === undefined) {
    if (configs.length < 2 || (config !== undefined && files.some((f) => f.split("/").includes(config)))) {
      return undefined;
    }
    const what = config === undefined
      ? "The data set has several configurations"
      : `No configuration "${config}"`;
    throw new NibbleError("data/no-such-config", what, {
      where: join(root, "README.md"),
      remedy: `Set dataset_config to one of: ${configs.map((c) => c.config_name).join(", ")}.`,
    });
  }
  const patterns = [named.data_files ?? []].flat().flatMap((entry) => {
    if (typeof entry === "string") return split === "train" ? [entry] : [];
    return entry.split === split ? [entry.path].flat() : [];
  });
  const prefix = named.data_dir === undefined ? "" : `${named.data_dir.replace(/\/$/, "")}/`;
  const found = files.filter((file) => patterns.some((pattern) => globToRegExp(prefix + pattern).test(file)));
  return found.length > 0 ? found : undefined;
}

function readCard(root: string): CardConfig[] {
  let text: string;
  try {
    text = Deno.readTextFileSync(join(root, "README.md"));
  } catch {
    return [];
  }
  const front = /^---\r?\n([\s\S]*?)\r?\n---/.exec(text);
  if (front === null) return [];
  try {
    const configs = (parseYaml(front[1]) as { configs?: CardConfig[] } | null)?.configs;
    return Array.isArray(configs) ? configs : [];
  } catch {
    return []; // a card is prose first: one that is not YAML is no reason to refuse the data
  }
}

function globToRegExp(pattern: string): RegExp {
  const wild: Record<string, string> = { "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]" };
  const parts = pattern.split(/(\*\*\/|\*\*|\*|\?)/).map((part) => wild[part] ?? RegExp.escape(part));
  return new RegExp(`^${parts.join("")}$`);
}

/** Keeps the files below a folder named as the configuration. */
function inConfig(root: string, files: string[], config: string | undefined): string[] {
  if (config === undefined) return files;
  const below = files.filter((file) => file.split("/").slice(0, -1).includes(config));
  if (below.length > 0) return below;
  if (config === "default") return files;
  const folders = [...new Set(files.flatMap((file) => file.split("/").slice(0, -1)))];
  throw new NibbleError("data/no-such-config", `No configuration "${config}"`, {
    where: root,
    remedy: folders.length > 0
      ? `Folders found: ${listing(folders)}.`
      : "The data set has none: leave dataset_config out.",
  });
}

function bySplit(files: string[], split: string): string[] {
  const names = SYNONYMS[split] ?? [split];
  const stem = (file: string) => file.split("/").at(-1)!.replace(READABLE, "");
  const word = (name: string) => new RegExp(`(^|[-._ 0-9])${RegExp.escape(name)}([-._ 0-9]|$)`);
  const tests: ((file: string) => boolean)[] = [
    (file) => /^(.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?$/.exec(stem(file))?.[1] === split,
    (file) => names.includes(stem(file)),
    (file) => file.split("/").slice(0, -1).some((folder) => names.includes(folder)),
    (file) => names.some((name) => word(name).test(stem(file))),
  ];
  for (const test of tests) {
    const found = files.filter(test);
    if (found.length > 0) return found;
  }
  if (split !== "train") return [];
  const other = [...SYNONYMS.validation, ...SYNONYMS.test].map(word);
  return files.filter((file) =>
    !other.some((test) => test.test(file.replaceAll("/", " ").replace(READABLE, "")))
  );
}
