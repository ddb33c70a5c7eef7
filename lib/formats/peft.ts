/**
 * LoRA adapters in PEFT's layout: a folder with `adapter_config.json` and `adapter_model.safetensors`.
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { CHUNK_BYTES, makeOutputFolder, openFile, readJsonIfThere, writeText } from "./file.ts";
import { type AdapterConfig, formatAdapterConfig, parseAdapterConfig } from "./peft_config.ts";
import { openSafetensors, type SafetensorsSource } from "./safetensors.ts";
import { writeSafetensors } from "./safetensors_write.ts";

/** Name of the settings file. */
export const ADAPTER_CONFIG = "adapter_config.json";
/** Name of the weights file. */
export const ADAPTER_WEIGHTS = "adapter_model.safetensors";

const PREFIX = "base_model.model.";

/** One tensor of an adapter. */
export interface AdapterTensor {
  /** Outermost dimension first. */
  shape: number[];
  /** Row-major values. */
  data: Float32Array;
}

/** An adapter: settings, and tensors under PEFT's full keys. */
export interface Adapter {
  /** What `adapter_config.json` says. */
  config: AdapterConfig;
  /** By full key, `base_model.model.….lora_A.weight`. */
  tensors: Map<string, AdapterTensor>;
}

/** What a tensor of an adapter is: `lora_A` is [r, in], `lora_B` [out, r], `lora_magnitude_vector` [out]. */
export type AdapterPart =
  | "lora_A"
  | "lora_B"
  | "lora_embedding_A"
  | "lora_embedding_B"
  | "lora_magnitude_vector"
  | "full";

/**
 * PEFT's key of a tensor.
 * @param module path in the base model, `model.layers.0.self_attn.q_proj`; with part `full` the whole
 * parameter name, `lm_head.weight`
 *
 * @example
 * ```ts
 * import { adapterKey, parseAdapterKey } from "./peft.ts";
 * const key = adapterKey("model.layers.0.self_attn.q_proj", "lora_A");
 * if (key !== "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight") throw new Error(key);
 * if (parseAdapterKey(key).module !== "model.layers.0.self_attn.q_proj") throw new Error("there and back");
 * ```
 */
export function adapterKey(module: string, part: AdapterPart): string {
  if (part === "full") return PREFIX + module;
  return `${PREFIX}${module}.${part}${part === "lora_A" || part === "lora_B" ? ".weight" : ""}`;
}

/** The module and part that a key of an adapter's file names. */
export function parseAdapterKey(key: string): { module: string; part: AdapterPart } {
  const bare = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key;
  const lora = /^(.+)\.(?:(lora_[AB])\.weight|(lora_embedding_[AB]|lora_magnitude_vector)(?:\.weight)?)$/
    .exec(bare);
  if (!lora) return { module: bare, part: "full" };
  return { module: lora[1]!, part: (lora[2] ?? lora[3]) as AdapterPart };
}

/**
 * Read an adapter; weights of any float type come as f32.
 * @throws NibbleError when a file is missing or malformed, or when an A has no matching B
 */
export function readAdapter(folder: string): Adapter {
  const configPath = join(folder, ADAPTER_CONFIG);
  const json = readJsonIfThere(configPath);
  if (json === undefined) {
    throw new NibbleError("formats/missing-file", `There is no ${ADAPTER_CONFIG}`, {
      where: folder,
      remedy: "Give the folder of a LoRA adapter (the output_dir of a training run, or a download).",
    });
  }
  const config = parseAdapterConfig(json, configPath);
  const source = openWeights(folder);
  try {
    const tensors = new Map<string, AdapterTensor>();
    for (const [key, info] of source.tensors) {
      tensors.set(key, { shape: [...info.shape], data: source.readF32(key) });
    }
    checkPairs(source.path, tensors);
    return { config, tensors };
  } finally {
    source.close();
  }
}

/**
 * Write an adapter that PEFT loads. Weights go first and settings last; each file appears whole.
 * @param tensors under PEFT's full keys ({@link adapterKey})
 * @throws NibbleError `formats/adapter-tensors` when A and B don't match, `formats/cannot-write`
 *
 * @example
 * ```ts
 * import { adapterKey, readAdapter, writeAdapter } from "./peft.ts";
 * import { adapterConfig } from "./peft_config.ts";
 * const folder = await Deno.makeTempDir();
 * const a = { shape: [1, 3], data: new Float32Array([1, 2, 3]) };
 * const b = { shape: [2, 1], data: new Float32Array([0, 0]) };
 * const tensors = new Map([[adapterKey("m.q_proj", "lora_A"), a], [adapterKey("m.q_proj", "lora_B"), b]]);
 * writeAdapter(folder, adapterConfig({ r: 1, target_modules: ["q_proj"] }), tensors);
 * if (readAdapter(folder).tensors.size !== 2) throw new Error("two tensors");
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function writeAdapter(
  folder: string,
  config: AdapterConfig,
  tensors: ReadonlyMap<string, { shape: readonly number[]; data: Float32Array }>,
): void {
  checkPairs(folder, tensors);
  makeOutputFolder(folder);
  writeSafetensors(
    join(folder, ADAPTER_WEIGHTS),
    [...tensors].map(([name, { shape, data }]) => ({ name, dtype: "F32" as const, shape, data })),
  );
  writeText(join(folder, ADAPTER_CONFIG), formatAdapterConfig(config));
}

/** `sha256:<hex>` of an adapter's weights' file. */
export function adapterHash(folder: string): string {
  const file = openFile(join(folder, ADAPTER_WEIGHTS));
  try {
    const hash = createHash("sha256");
    for (let at = 0; at < file.size; at += CHUNK_BYTES) {
      const piece = new Uint8Array(Math.min(CHUNK_BYTES, file.size - at));
      file.readInto(piece, at);
      hash.update(piece);
    }
    return `sha256:${hash.digest("hex")}`;
  } finally {
    file.close();
  }
}

function openWeights(folder: string): SafetensorsSource {
  const path = join(folder, ADAPTER_WEIGHTS);
  try {
    return openSafetensors(path);
  } catch (e) {
    if (!(e instanceof NibbleError) || e.code !== "formats/missing-file") throw e;
    const pickle = [...Deno.readDirSync(folder)].some((entry) => entry.name === "adapter_model.bin");
    throw new NibbleError("formats/missing-file", `There is no ${ADAPTER_WEIGHTS}`, {
      where: folder,
      remedy: pickle
        ? "adapter_model.bin is a pickle, which runs code when read: save it with PEFT as safetensors."
        : "The adapter is incomplete: save or download it again.",
    });
  }
}

type Shapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;

/** Each lora_A [r, in] needs a lora_B [out, r], and the other way round. */
function checkPairs(path: string, tensors: Shapes): void {
  const bad = (key: string, what: string) =>
    new NibbleError("formats/adapter-tensors", what, {
      where: `${path}, tensor "${key}"`,
      remedy: "The adapter is damaged or incomplete: save or download it again.",
    });
  if (tensors.size === 0) {
    throw new NibbleError("formats/adapter-tensors", "The adapter has no tensors", {
      where: path,
      remedy: "Save or download it again; check that training had target_modules.",
    });
  }
  for (const [key, { shape }] of tensors) {
    const { part } = parseAdapterKey(key);
    if (!/_[AB]$/.test(part)) continue;
    const isA = part.endsWith("A");
    const letter = key.lastIndexOf(part) + part.length - 1;
    const partner = key.slice(0, letter) + (isA ? "B" : "A") + key.slice(letter + 1);
    const other = tensors.get(partner)?.shape;
    if (!other) throw bad(key, `Its partner "${partner}" is missing`);
    if (shape.length !== 2) throw bad(key, `It must be a matrix, not [${shape.join(", ")}]`);
    if (isA && shape[0] !== other[1]) {
      throw bad(key, `Ranks differ: A is [${shape.join(", ")}], B is [${other.join(", ")}]`);
    }
  }
}
