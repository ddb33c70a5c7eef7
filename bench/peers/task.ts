/**
 * What `peers.ts` asks of a peer's process, and the numbers that both sides work with.
 * @module
 */
import { readConfig } from "../../lib/model/config.ts";
import { KNOWN_CONFIGS } from "../../lib/model/known_configs.ts";
import { repeatedSource } from "../../lib/model/random_source.ts";
import type { TensorSource } from "../../lib/formats/mod.ts";
import { numbers, type Product, RANK } from "../shapes.ts";

/** A piece of work that can be timed; see {@link StepTask} for how a model's numbers are made. */
export type Task =
  | { kind: "product"; product: Product }
  /** x Wᵀ with W in 4 bits: NF4 in nibble and bitsandbytes, whole numbers of 4 bits in onnxruntime. */
  | { kind: "product4"; product: Product }
  | StepTask
  /** `tokens` tokens after a prompt, greedily, the linear layers in 4 bits. */
  | { kind: "generate"; model: string; prompt: string; tokens: number };

/**
 * Forward, mean loss and the gradients of rank-16 adapters on all linear layers, of B x T random tokens, and perhaps
 * AdamW. The base is `weightsOf(config)`, adapters are `adapterValues`.
 */
export interface StepTask {
  kind: "step";
  config: Record<string, unknown>;
  /** A folder with the model in Transformers' files, for peers that read those. */
  folder?: string;
  /** The base's linear layers in NF4 with double quantization. */
  quantized: boolean;
  optimizer: boolean;
  batch: number;
  time: number;
}

/** Layers with adapters, in the order in which their values are drawn. */
export const MODULES = [
  ...["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
  ...["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
];

/** `lora_alpha / r`. */
export const LORA_SCALE = 2;

/** Two layers of the shape of SmolLM2-135M's with a small vocabulary. */
export const TOY: Record<string, unknown> = {
  ...KNOWN_CONFIGS["HuggingFaceTB/SmolLM2-135M"],
  ...{ num_hidden_layers: 2, vocab_size: 2048, max_position_embeddings: 512, initializer_range: 0.04 },
};

/** The base's weights: the same in every process. */
export function weightsOf(config: Record<string, unknown>): TensorSource {
  return repeatedSource(readConfig(config, "bench"), 1);
}

/** A or B of the i-th adapter (layer after layer, in the order of MODULES). */
export function adapterValues(i: number, half: "a" | "b", size: number): Float32Array<ArrayBuffer> {
  return numbers(size, 2 * i + (half === "a" ? 101 : 102)).map((v) => 0.05 * v);
}

/** Tokens of a step: `ids[n]` predicts `ids[n + 1]`, except at the end of a sequence. */
export function tokensOf({ batch, time, config }: StepTask): Uint32Array<ArrayBuffer> {
  const vocabulary = config.vocab_size as number;
  return Uint32Array.from(numbers(batch * time, 7), (v) => Math.floor((v + 1) / 2 * vocabulary) % vocabulary);
}

/** Numbers that share a scale in 4-bit products. */
export const BLOCK = { nibble: 64, onnxruntime: 32 };

/** onnxruntime's weight `[N, K]`: two codes a byte, the even column in the low half, value (code - 8) * scale. */
export function codes4(
  { N, K }: Product,
): { codes: Uint8Array<ArrayBuffer>; scales: Float32Array<ArrayBuffer> } {
  return {
    codes: Uint8Array.from(numbers(N * K / 2, 3), (v) => (v + 1) * 128),
    scales: numbers(N * K / BLOCK.onnxruntime, 4).map((v) => 0.02 * (v + 1.5)),
  };
}

export { numbers, RANK };
