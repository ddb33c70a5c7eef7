/**
 * A fingerprint of a model, to tell whether an adapter meets the base that it was trained on.
 * @module
 */
import { createHash } from "node:crypto";
import { CHUNK_BYTES, isObject } from "./file.ts";
import { type ModelFiles, openModel } from "./model_files.ts";
import { MERGED_ADAPTERS, type MergedAdapter } from "./peft_config.ts";

/** Options of {@link contentHash}. */
export interface ContentHashOptions {
  /** Hash all of the data rather than the ends of each tensor: exact, at the speed of the disk. */
  whole?: boolean;
}

/** Bytes taken from the beginning and from the end of each tensor when sampling. */
const SAMPLE_BYTES = 32 * 1024;

/** Entries of a config that say who wrote it, not what the model is. */
const INCIDENTAL = new Set(["_name_or_path", "transformers_version"]);

/**
 * SHA-256 over the config, every tensor's name, dtype and shape, and the data: the first and last 32 KiB of each
 * tensor, or all of it with `whole`. The division into shards and the order of tensors in the file don't matter.
 * @param path what `openModel` takes
 * @returns `sha256-sampled:<hex>` or `sha256:<hex>`; the two are not comparable
 */
export function contentHash(path: string, options: ContentHashOptions = {}): string {
  const model = openModel(path);
  try {
    return contentHashOf(model, options);
  } finally {
    model.source.close();
  }
}

/** {@link contentHash} of a model that is open already. */
export function contentHashOf(
  model: Pick<ModelFiles, "config" | "source">,
  options: ContentHashOptions = {},
): string {
  const { config, source } = model;
  const hash = createHash("sha256");
  // where a merged adapter lay does not matter, only which it was
  const merged = (config[MERGED_ADAPTERS] as MergedAdapter[] | undefined)?.map((m) => m.adapter_hash);
  hash.update(sortedJson({ ...config, ...(merged ? { [MERGED_ADAPTERS]: merged } : {}) }, INCIDENTAL));
  const names = [...source.tensors.keys()].sort(); // by UTF-16 code unit: the same everywhere
  for (const name of names) {
    const { dtype, shape, bytes } = source.tensors.get(name)!;
    hash.update(`\n${JSON.stringify([name, dtype, shape])}\n`);
    if (options.whole || bytes <= 2 * SAMPLE_BYTES) {
      for (let at = 0; at < bytes; at += CHUNK_BYTES) {
        hash.update(source.readBytes(name, at, Math.min(at + CHUNK_BYTES, bytes)));
      }
    } else {
      hash.update(source.readBytes(name, 0, SAMPLE_BYTES));
      hash.update(source.readBytes(name, bytes - SAMPLE_BYTES, bytes));
    }
  }
  return `${options.whole ? "sha256" : "sha256-sampled"}:${hash.digest("hex")}`;
}

/** JSON with the keys of every object in order, so that equal values have equal text. */
function sortedJson(value: unknown, leaveOut: ReadonlySet<string> = new Set()): string {
  if (Array.isArray(value)) return `[${value.map((v) => sortedJson(v)).join(",")}]`;
  if (!isObject(value)) return JSON.stringify(value) ?? "null";
  const keys = Object.keys(value).filter((key) => !leaveOut.has(key)).sort();
  return `{${keys.map((key) => `${JSON.stringify(key)}:${sortedJson(value[key])}`).join(",")}}`;
}
