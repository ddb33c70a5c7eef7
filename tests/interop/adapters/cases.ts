/**
 * The adapters that write.ts makes, and what write.ts and read.ts share.
 * @module
 */
import { join } from "@std/path";
import { writeSafetensors } from "../../../lib/formats/mod.ts";
import type { LoraOptions } from "../../../lib/api.ts";

/** A tiny Qwen2, which has biases and a tied head. */
export const BASE = new URL("../../parity/adapters/base", import.meta.url).pathname;
/** A tiny Llama with a tokenizer, for merging. */
export const LLAMA = new URL("../../../assets/models/tiny", import.meta.url).pathname;

/** Token ids of both models' vocabularies. */
export const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];

/** Settings by name; those that end in `nf4` train on a base in 4 bits. */
export const CASES: Readonly<Record<string, LoraOptions>> = {
  all_linear: { r: 4, lora_alpha: 6, target_modules: "all-linear" },
  patterns: {
    ...{ r: 3, lora_alpha: 5, use_rslora: true, target_modules: ["q_proj", "up_proj", "down_proj"] },
    rank_pattern: { "layers.0.self_attn.q_proj": 2 },
    alpha_pattern: { "1\\.mlp\\.(up|down)_proj": 7 },
    exclude_modules: ["layers.0.mlp.up_proj"],
  },
  layers: { r: 2, target_modules: ["q_proj", "v_proj"], layers_to_transform: [1], layers_pattern: "layers" },
  dora: { r: 2, lora_alpha: 3, use_dora: true, target_modules: "all-linear" },
  dora_nf4: { r: 2, lora_alpha: 3, use_dora: true, target_modules: ["q_proj", "down_proj"] },
  embeddings: { r: 2, target_modules: ["v_proj"], modules_to_save: ["lm_head", "embed_tokens"] },
  bias_all: { r: 2, target_modules: ["q_proj", "o_proj"], bias: "all" },
  bias_lora_only_nf4: { r: 2, target_modules: ["k_proj"], bias: "lora_only" },
  whole_mlp: { r: 2, target_modules: ["q_proj"], modules_to_save: ["1.mlp", "norm"] },
  pissa: { r: 2, lora_alpha: 6, init_lora_weights: "pissa", target_modules: ["q_proj", "gate_proj"] },
  pissa_dora: { r: 2, init_lora_weights: "pissa_niter_4", use_dora: true, target_modules: ["q_proj"] },
  pissa_nf4: { r: 2, lora_alpha: 6, init_lora_weights: "pissa", target_modules: ["q_proj", "gate_proj"] },
  olora: { r: 2, lora_alpha: 1, init_lora_weights: "olora", target_modules: ["v_proj", "down_proj"] },
  olora_nf4: { r: 2, lora_alpha: 1, init_lora_weights: "olora", target_modules: ["v_proj", "down_proj"] },
  loftq_nf4: { r: 4, init_lora_weights: "loftq", target_modules: ["v_proj", "down_proj"] },
};

/** NF4 in blocks of 64, double-quantized. */
export const NF4 = { quantType: "nf4", blocksize: 64, doubleQuant: true } as const;

/** Writes logits `[T, V]` where the Python side finds them. */
export function writeLogits(folder: string, name: string, logits: Float32Array): void {
  Deno.mkdirSync(folder, { recursive: true });
  writeSafetensors(join(folder, `${name}.safetensors`), [
    { name: "logits", dtype: "F32", shape: [IDS.length, logits.length / IDS.length], data: logits },
  ]);
}
