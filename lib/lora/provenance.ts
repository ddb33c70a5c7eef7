/**
 * What an adapter records of the base that it was trained on, and whether that is the base in hand.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  type AdapterConfig,
  adapterHash,
  MERGED_ADAPTERS,
  type MergedAdapter,
  readAdapter,
} from "../formats/mod.ts";
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

/** The base that an adapter meets, as far as it is known. */
export interface BaseInHand {
  /** Hub name or folder, and the revision asked for; none is `main`. */
  name?: string | undefined;
  revision?: string | undefined;
  /** Its `contentHash`. */
  hash?: string | undefined;
  /** Its config.json, which lists the adapters merged into it. */
  config?: Readonly<Record<string, unknown>>;
}

/**
 * Refuses a base that is not the one an adapter was trained on. The content decides where the adapter records its hash,
 * whatever the revisions are called, since branch, tag and commit may be one. An adapter without a hash, as PEFT saves
 * them, is refused on another revision of the same base if it names its own.
 *
 * @throws NibbleError `lora/base-mismatch`
 * @example
 * ```ts
 * import { adapterConfig } from "../formats/mod.ts";
 * import { checkBase } from "./provenance.ts";
 * const saved = adapterConfig({ base_model_name_or_path: "org/base", revision: "v2" });
 * checkBase("adapter", saved, { name: "org/base", revision: "v2" });
 * let code = "";
 * try { checkBase("adapter", saved, { name: "org/base" }); } catch (error) { code = (error as { code: string }).code; }
 * if (code !== "lora/base-mismatch") throw new Error("main is not v2");
 * ```
 */
export function checkBase(folder: string, saved: AdapterConfig, inHand: BaseInHand): void {
  const { base_hash: recorded, parents = [] } = saved.nibble ?? {};
  const base = `${saved.base_model_name_or_path}${saved.revision ? `, revision ${saved.revision}` : ""}`;
  if (recorded && inHand.hash) {
    if (recorded === inHand.hash) return;
    const present = (inHand.config?.[MERGED_ADAPTERS] as MergedAdapter[] | undefined) ?? [];
    const missing = parents.find((p) => !present.some((q) => q.adapter_hash === p.adapter_hash));
    throw new NibbleError("lora/base-mismatch", "The adapter was trained on another base model", {
      where: `${folder}: base ${base}, ${recorded}; in hand ${inHand.hash}`,
      remedy: missing
        ? `It was trained on a base with ${missing.adapter} merged in: load that one, or merge that adapter first.`
        : "Load the base that adapter_config.json names.",
    });
  }
  if (!saved.revision || inHand.name !== saved.base_model_name_or_path) return;
  const revision = inHand.revision ?? "main";
  if (saved.revision === revision) return;
  throw new NibbleError(
    "lora/base-mismatch",
    `The adapter was trained on another revision of ${inHand.name}`,
    {
      where: `${folder}/adapter_config.json: revision ${saved.revision}; in hand ${revision}`,
      remedy:
        `Load the base with revision ${JSON.stringify(saved.revision)}, or, if its weights are the same, ` +
        "set revision in adapter_config.json to null.",
    },
  );
}
