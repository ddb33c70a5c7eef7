/**
 * From what a recipe writes as `dataset_name` to files on this disk.
 * @module
 */
import { join, relative } from "@std/path";
import { NibbleError } from "../errors.ts";
import { readRef, readTree, type RepoFile, repoFolder, snapshotFolder } from "./cache.ts";
import { type Subject, TransientError } from "./http.ts";
import { findLocal, isHubId, type Looked, notFound } from "./local.ts";
import { fetchSnapshot } from "./remote.ts";
import { type FetchOptions, hubSettings } from "./settings.ts";
import { pickTable, type SplitTable, splitTables } from "./splits.ts";

/** What {@link fetchDataset} takes beside the id. */
export interface FetchDatasetOptions extends FetchOptions {
  /** Configuration (`dataset_config`). Default: `default`, or the only one. */
  config?: string;
  /** Splits to fetch. Default: all of the configuration. */
  splits?: string[];
}

/** The branch on which the Hub itself keeps every data set as Parquet, whatever its owner uploaded. */
const CONVERTED = "refs/convert/parquet";

/**
 * Finds a data set, or fetches it: a local folder or file is returned as it is; a Hub id is looked for in the local
 * cache, then on the Hub. Only the Parquet and JSON files of the splits asked for are fetched; where a repository has
 * none, the Hub's own conversion to Parquet is taken.
 *
 * @param id path of a file or folder, or `org/name`
 * @returns the path, or the folder of the snapshot; {@link datasetFiles} names the files of a split in it
 * @throws {NibbleError} `hub/not-found` with every place looked at, `hub/no-split`, and the Hub's refusals
 *
 * @example
 * ```ts
 * import { datasetFiles, fetchDataset } from "./mod.ts";
 * const file = await Deno.makeTempFile({ suffix: ".jsonl" });
 * const path = await fetchDataset(file);
 * if (datasetFiles(path, { split: "train" })[0] !== file) throw new Error("a file is any split");
 * await Deno.remove(file);
 * ```
 */
export async function fetchDataset(id: string, options: FetchDatasetOptions = {}): Promise<string> {
  const looked: Looked = [];
  const local = id && findLocal(id, options.base, looked);
  if (local) return local;
  if (!isHubId(id)) {
    throw notFound(
      "data set",
      id,
      looked,
      "Give a .jsonl, .json or .parquet file, a folder of such, or a Hub id.",
    );
  }
  const settings = hubSettings(options);
  const revision = options.revision ?? "main";
  const subject: Subject = { repo: id, kind: "dataset", revision };

  const folder = repoFolder(settings.cache, subject);
  for (const at of options.revision === undefined ? ["main", CONVERTED] : [revision]) {
    const commit = readRef(folder, at);
    const snapshot = commit && snapshotFolder(folder, commit);
    if (snapshot && isWhole(id, snapshot, readTree(folder, commit), options)) return snapshot;
    looked.push(
      snapshot ? `${snapshot}: in the cache, but not whole` : `${folder}: not in the cache at "${at}"`,
    );
  }
  if (settings.offline) {
    looked.push("the Hub: not asked, HF_HUB_OFFLINE is set");
    throw notFound(
      "data set",
      id,
      looked,
      "Unset HF_HUB_OFFLINE, or fetch it once on a machine with a network.",
    );
  }
  try {
    // README.md first: its head says which files are which split.
    const readme = await readmeOf(settings, subject, options);
    try {
      return await fetchSnapshot(
        settings,
        subject,
        (files) => choose(id, files, readme, options),
        options.onProgress,
      );
    } catch (error) {
      const convertible = error instanceof NibbleError && error.code === "hub/no-data" && revision === "main";
      if (!convertible) throw error;
      settings.note(`${id} holds no Parquet or JSON files; taking the Hub's own conversion (${CONVERTED})`);
      const converted = { ...subject, revision: CONVERTED };
      return await fetchSnapshot(
        settings,
        converted,
        (files) => choose(id, files, "", options),
        options.onProgress,
      );
    }
  } catch (error) {
    if (!(error instanceof TransientError)) throw error;
    looked.push(`the Hub at ${settings.endpoint}: ${error.message}`);
    const remedy = "Check the network (HF_ENDPOINT names another Hub), or give a local file or folder.";
    throw notFound("data set", id, looked, remedy, error);
  }
}

/**
 * The files of one split of a data set on this disk, in order.
 *
 * @param path a file (which is any split), or a folder as {@link fetchDataset} returns it
 * @throws {NibbleError} `hub/no-split` naming the splits there are, `hub/no-data`
 */
export function datasetFiles(path: string, options: { split?: string; config?: string } = {}): string[] {
  if (!Deno.statSync(path).isDirectory) return [path];
  const readme = readText(join(path, "README.md"));
  const table = tableOf(path, walk(path), readme, options.config);
  const split = options.split ?? "train";
  const files = table.splits.get(split) ?? [];
  if (files.length === 0) throw noSplit(path, split, table);
  return files.map((file) => join(path, ...file.split("/")));
}

/** README.md of a revision, fetched into the cache; empty where there is none. */
async function readmeOf(
  settings: ReturnType<typeof hubSettings>,
  subject: Subject,
  options: FetchDatasetOptions,
): Promise<string> {
  const only = (files: RepoFile[]) => files.filter((f) => f.path === "README.md");
  return readText(join(await fetchSnapshot(settings, subject, only, options.onProgress), "README.md"));
}

function choose(id: string, files: RepoFile[], readme: string, options: FetchDatasetOptions): RepoFile[] {
  const table = tableOf(id, files.map((f) => f.path), readme, options.config);
  const wanted = new Set<string>();
  for (const split of options.splits ?? table.splits.keys()) {
    const paths = table.splits.get(split) ?? [];
    if (paths.length === 0) throw noSplit(id, split, table);
    paths.forEach((path) => wanted.add(path));
  }
  return files.filter((f) => wanted.has(f.path) || f.path === "README.md");
}

/** Are the files of the splits asked for all there? Without a list, a numbering (`-of-00003`) tells. */
function isWhole(
  id: string,
  snapshot: string,
  tree: RepoFile[] | undefined,
  options: FetchDatasetOptions,
): boolean {
  try {
    const present = new Set(walk(snapshot));
    const list = tree ?? [...present].map((path) => ({ path, size: 0, hash: "" }));
    const files = choose(id, list, readText(join(snapshot, "README.md")), options);
    return files.every((f) => present.has(f.path)) && (tree !== undefined || files.every(({ path }) => {
      const count = /-\d{5}-of-(\d{5})/.exec(path)?.[1];
      const family = (p: string) => p.replace(/-\d{5}-of.*/, "");
      return !count || [...present].filter((p) => family(p) === family(path)).length === Number(count);
    }));
  } catch {
    return false;
  }
}

function tableOf(where: string, files: string[], readme: string, config: string | undefined): SplitTable {
  const tables = splitTables(files, readme);
  if (tables.length === 0) {
    throw new NibbleError("hub/no-data", `${where} holds no .parquet, .jsonl or .json files`, {
      where: files.slice(0, 20).join(", "),
      remedy: "Convert the data to one of these.",
    });
  }
  const table = pickTable(tables, config);
  if (table) return table;
  throw new NibbleError("hub/no-config", `${where} has no configuration "${config ?? "default"}"`, {
    where: `there are ${tables.map((t) => t.config).join(", ")}`,
    remedy: "Set dataset_config to one of them.",
  });
}

function noSplit(where: string, split: string, table: SplitTable): NibbleError {
  return new NibbleError("hub/no-split", `${where} has no split "${split}"`, {
    where: `configuration ${table.config} has ${[...table.splits.keys()].join(", ")}`,
    remedy: "Set dataset_train_split and dataset_test_split (or dataset_splits) to splits that exist.",
  });
}

/** All files below a folder (links followed, hidden ones left out), relative to it, with forward slashes. */
function walk(folder: string, at = folder): string[] {
  return [...Deno.readDirSync(at)].flatMap((entry) => {
    const path = join(at, entry.name);
    if (entry.name.startsWith(".")) return [];
    if (entry.isDirectory) return walk(folder, path);
    return [relative(folder, path).replaceAll("\\", "/")];
  });
}

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}
