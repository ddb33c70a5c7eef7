/**
 * A model as a user names it, which may be an adapter: the base that it belongs to and the adapters to merge into it.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import {
  type AdapterConfig,
  adapterHash,
  contentHashOf,
  isFile,
  MERGED_ADAPTERS,
  type MergedAdapter,
  type ModelFiles,
  openModel,
  readAdapter,
} from "../formats/mod.ts";
import { fetchModel, type FetchModelOptions } from "../hub/mod.ts";
import { mergedFiles } from "./merged_source.ts";
import { checkBase } from "./provenance.ts";

/** A base on this disk, and adapters to be merged into it, the oldest first. */
export interface ModelChain {
  /** Folder or file of the base. */
  path: string;
  /** What the base is called, and its revision: what an adapter trained on the chain records. */
  base: string;
  revision: string | undefined;
  adapters: readonly { name: string; folder: string }[];
}

/** Options of {@link resolveModel}. */
export interface ResolveOptions extends FetchModelOptions {
  /** Revision of the base where an adapter is named; default what the adapter records. */
  baseRevision?: string | undefined;
}

/**
 * Finds a model, or the base and all that an adapter stands on: `base_model_name_or_path` of its
 * adapter_config.json, which may be an adapter again, and the adapters that had been merged when it was trained.
 *
 * @param id as for `fetchModel`
 * @throws NibbleError `lora/no-base`, `lora/parent-changed`, and those of `fetchModel`
 * @example
 * ```ts
 * import { resolveModel } from "./chain.ts";
 * const folder = await Deno.makeTempDir();
 * const { base, adapters } = await resolveModel(folder); // a model, not an adapter: nothing is merged into it
 * if (base !== folder || adapters.length !== 0) throw new Error("a model is itself");
 * await Deno.remove(folder);
 * ```
 */
export async function resolveModel(id: string, options: ResolveOptions = {}): Promise<ModelChain> {
  const { baseRevision, ...fetch } = options;
  const path = await fetchModel(id, fetch);
  if (!isAdapter(path)) return { path, base: id, revision: fetch.revision, adapters: [] };
  const { config } = readAdapter(path);
  const base = config.base_model_name_or_path;
  if (!base) {
    throw new NibbleError("lora/no-base", "The adapter does not say on which base it was trained", {
      where: `${path}/adapter_config.json, base_model_name_or_path`,
      remedy: "Add the base's Hub name or folder.",
    });
  }
  const { revision: _, ...rest } = fetch;
  const revision = baseRevision ?? config.revision ?? undefined;
  const below = await resolveModel(base, { ...rest, ...(revision ? { revision } : {}) });
  const adapters = [...below.adapters];
  for (const parent of missingParents(config, below)) adapters.push(await fetchParent(parent, rest));
  return { ...below, adapters: [...adapters, { name: id, folder: path }] };
}

/** Adapters that had been merged before this one was trained and are neither in the chain nor in its base's files. */
function missingParents(config: AdapterConfig, below: ModelChain): MergedAdapter[] {
  const parents = config.nibble?.parents ?? [];
  if (parents.length === 0) return [];
  const there = new Set([
    ...below.adapters.map(({ folder }) => adapterHash(folder)),
    ...mergedInto(below.path).map((m) => m.adapter_hash),
  ]);
  return parents.filter((p) => !there.has(p.adapter_hash));
}

/** Adapters that a model's folder says were merged into it. */
function mergedInto(path: string): MergedAdapter[] {
  try {
    const config = JSON.parse(Deno.readTextFileSync(join(path, "config.json")));
    return Array.isArray(config[MERGED_ADAPTERS]) ? config[MERGED_ADAPTERS] : [];
  } catch {
    return []; // a .gguf file, or a fault that opening it will name
  }
}

/**
 * The model that an adapter was trained on, as `loadModel` takes it: its base, or where that does not have the
 * adapter's parents in it, the last parent, which stands for its own base with it merged in.
 *
 * @returns its name and, where the adapter records one, the revision; undefined for an adapter that names no base
 */
export async function baseOfAdapter(
  saved: AdapterConfig,
  options: ResolveOptions = {},
): Promise<{ name: string; revision?: string } | undefined> {
  const name = saved.base_model_name_or_path;
  if (!name) return undefined;
  const base = { name, ...(saved.revision ? { revision: saved.revision } : {}) };
  const parents = saved.nibble?.parents ?? [];
  if (parents.length === 0) return base;
  const below = await resolveModel(name, { ...options, ...base });
  return missingParents(saved, below).length > 0 ? { name: parents.at(-1)!.adapter } : base;
}

async function fetchParent(parent: MergedAdapter, options: FetchModelOptions) {
  const folder = await fetchModel(parent.adapter, options);
  if (adapterHash(folder) !== parent.adapter_hash) {
    throw new NibbleError("lora/parent-changed", `${parent.adapter} is not the adapter that was merged`, {
      where: folder,
      remedy: "It has been trained anew since: train what was trained on it anew too, or restore it.",
    });
  }
  return { name: parent.adapter, folder };
}

/** Whether a folder holds an adapter and no model. */
function isAdapter(path: string): boolean {
  const has = (name: string) => isFile(join(path, name));
  return has("adapter_config.json") && !has("model.safetensors") && !has("model.safetensors.index.json");
}

/**
 * Opens the base with every adapter merged in as it is read.
 *
 * @throws NibbleError `lora/base-mismatch` for an adapter that records another content of what is below it
 */
export function openChain({ path, adapters }: Pick<ModelChain, "path" | "adapters">): ModelFiles {
  let files = openModel(path);
  try {
    for (const { name, folder } of adapters) {
      const saved = readAdapter(folder).config;
      const hash = saved.nibble?.base_hash ? contentHashOf(files) : undefined;
      checkBase(folder, saved, { hash, config: files.config });
      files = mergedFiles(files, folder, name);
    }
  } catch (error) {
    files.source.close();
    throw error;
  }
  return files;
}
