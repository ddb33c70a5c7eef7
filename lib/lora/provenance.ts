/**
 * How an adapter records the form of the base that it was trained on.
 * @module
 */
import { adapterHash, type MergedAdapter, readAdapter } from "../formats/mod.ts";
import type { QuantizationConfig } from "../model/load.ts";

type Form = Pick<QuantizationConfig, "quantType" | "blocksize" | "doubleQuant">;

/**
 * `nf4`, `nf4+double`, `fp4/128`: code book, block size where it is not 64, double quantization.
 *
 * @example
 * ```ts
 * import { parseQuantization, quantizationName } from "./provenance.ts";
 * const name = quantizationName({ quantType: "nf4", blocksize: 128, doubleQuant: true });
 * if (name !== "nf4/128+double" || parseQuantization(name)?.blocksize !== 128) throw new Error(name);
 * ```
 */
export function quantizationName({ quantType, blocksize, doubleQuant }: Form): string {
  return `${quantType}${blocksize === 64 ? "" : `/${blocksize}`}${doubleQuant ? "+double" : ""}`;
}

/** The reverse of {@link quantizationName}; undefined for what it did not write. */
export function parseQuantization(name: string | undefined): Form | undefined {
  const parts = /^(nf4|fp4|int4)(?:\/(\d+))?(\+double)?$/.exec(name ?? "");
  if (!parts) return undefined;
  const [, quantType, blocksize, double] = parts;
  return {
    quantType: quantType as Form["quantType"],
    blocksize: Number(blocksize ?? 64),
    doubleQuant: double !== undefined,
  };
}

/** The record that a model keeps of an adapter that was merged into it. */
export function mergedRecord(folder: string, name = folder): MergedAdapter {
  const { base_model_name_or_path, revision, nibble } = readAdapter(folder).config;
  return {
    adapter: name,
    adapter_hash: adapterHash(folder),
    base: base_model_name_or_path,
    base_revision: revision,
    ...(nibble?.base_hash ? { base_hash: nibble.base_hash } : {}),
  };
}
