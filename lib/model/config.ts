/**
 * A model's config.json, read with the class defaults of Transformers.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { RopeScaling } from "../tensor/ops/rope.ts";

/** What the transformer block needs to know; names are config.json's. */
export interface ModelConfig {
  model_type: string;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  vocab_size: number;
  rms_norm_eps: number;
  rope_theta: number;
  rope_scaling: RopeScaling | undefined;
  max_position_embeddings: number;
  tie_word_embeddings: boolean;
  /** Positions that a token sees, itself included; undefined: all before it. */
  sliding_window: number | undefined;
  initializer_range: number;
  bos_token_id: number | undefined;
  eos_token_id: number[];
}

/** Supported `model_type`s and the defaults of their config classes in Transformers 4.57. */
const FAMILIES: Record<string, Partial<Record<keyof ModelConfig, unknown>>> = {
  llama: { rms_norm_eps: 1e-6, rope_theta: 10000, max_position_embeddings: 2048, tie_word_embeddings: false },
  mistral: {
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    max_position_embeddings: 131072,
    tie_word_embeddings: false,
    sliding_window: 4096,
    num_key_value_heads: 8,
  },
};

/**
 * Reads a config.json object.
 *
 * @throws NibbleError `model/unsupported` for another architecture, `model/config` for a missing or impossible key
 * @example
 * ```ts
 * import { readConfig } from "./config.ts";
 * const config = readConfig({
 *   model_type: "llama", hidden_size: 64, intermediate_size: 172, num_hidden_layers: 5,
 *   num_attention_heads: 8, num_key_value_heads: 4, vocab_size: 512,
 * }, "config.json");
 * if (config.head_dim !== 8 || config.rope_theta !== 10000) throw new Error("defaults");
 * ```
 */
export function readConfig(raw: Record<string, unknown>, where: string): ModelConfig {
  const type = String(raw.model_type ?? "");
  const defaults = FAMILIES[type];
  if (!defaults) {
    throw new NibbleError("model/unsupported", `The architecture '${type}' is not supported`, {
      where,
      remedy: `Supported: ${
        Object.keys(FAMILIES).join(", ")
      } (Llama, SmolLM2, Mistral and their fine-tunes).`,
    });
  }
  for (const key of ["attention_bias", "mlp_bias"]) {
    if (raw[key] === true) {
      throw new NibbleError("model/unsupported", `'${key}: true' is not supported`, { where });
    }
  }
  if (raw.hidden_act !== undefined && raw.hidden_act !== "silu") {
    throw new NibbleError("model/unsupported", `'hidden_act: ${raw.hidden_act}' is not supported`, {
      where,
      remedy: "Supported: silu.",
    });
  }
  const number = (key: keyof ModelConfig, fallback?: number): number => {
    const value = raw[key] ?? defaults[key] ?? fallback;
    if (typeof value !== "number" || !(value > 0)) {
      throw new NibbleError("model/config", `'${key}' is ${JSON.stringify(value)}, not a positive number`, {
        where,
      });
    }
    return value;
  };
  const hidden = number("hidden_size");
  const heads = number("num_attention_heads");
  const kv = number("num_key_value_heads", heads);
  const headDim = number("head_dim", hidden / heads);
  if (heads % kv !== 0 || !Number.isInteger(headDim) || headDim % 2 !== 0) {
    throw new NibbleError(
      "model/config",
      `${heads} heads of ${headDim} over ${kv} key-value heads do not fit`,
      { where },
    );
  }
  const parameters = (raw.rope_parameters ?? {}) as Record<string, unknown>; // Transformers 5 spelling
  const scaling = (raw.rope_scaling ?? raw.rope_parameters) as Record<string, unknown> | undefined;
  const window = raw.sliding_window === undefined ? defaults.sliding_window : raw.sliding_window;
  const eos = raw.eos_token_id;
  return {
    model_type: type,
    hidden_size: hidden,
    intermediate_size: number("intermediate_size"),
    num_hidden_layers: number("num_hidden_layers"),
    num_attention_heads: heads,
    num_key_value_heads: kv,
    head_dim: headDim,
    vocab_size: number("vocab_size"),
    rms_norm_eps: number("rms_norm_eps"),
    rope_theta: typeof parameters.rope_theta === "number" ? parameters.rope_theta : number("rope_theta"),
    rope_scaling: readScaling(scaling, number("max_position_embeddings")),
    max_position_embeddings: number("max_position_embeddings"),
    tie_word_embeddings: Boolean(raw.tie_word_embeddings ?? defaults.tie_word_embeddings),
    sliding_window: typeof window === "number" && type === "mistral" ? window : undefined,
    initializer_range: typeof raw.initializer_range === "number" ? raw.initializer_range : 0.02,
    bos_token_id: typeof raw.bos_token_id === "number" ? raw.bos_token_id : undefined,
    eos_token_id: Array.isArray(eos) ? eos as number[] : typeof eos === "number" ? [eos] : [],
  };
}

function readScaling(
  raw: Record<string, unknown> | undefined | null,
  positions: number,
): RopeScaling | undefined {
  const type = raw?.rope_type ?? raw?.type;
  if (!raw || type === undefined || type === "default") return undefined;
  return {
    ...(raw as Partial<RopeScaling>),
    rope_type: String(type),
    original_max_position_embeddings: Number(raw.original_max_position_embeddings ?? positions),
  };
}

/** Linear layers of one block, in the order of the forward pass, with `[out, in]`. */
export function blockLinears(c: ModelConfig): { module: string; shape: [number, number] }[] {
  const q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const { hidden_size: h, intermediate_size: i } = c;
  return [
    { module: "self_attn.q_proj", shape: [q, h] },
    { module: "self_attn.k_proj", shape: [kv, h] },
    { module: "self_attn.v_proj", shape: [kv, h] },
    { module: "self_attn.o_proj", shape: [h, q] },
    { module: "mlp.gate_proj", shape: [i, h] },
    { module: "mlp.up_proj", shape: [i, h] },
    { module: "mlp.down_proj", shape: [h, i] },
  ];
}

/** Every parameter of the model under Hugging Face's names, with its shape. */
export function parameterShapes(c: ModelConfig): { name: string; shape: number[]; linear: boolean }[] {
  const out: { name: string; shape: number[]; linear: boolean }[] = [
    { name: "model.embed_tokens.weight", shape: [c.vocab_size, c.hidden_size], linear: false },
  ];
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const at = `model.layers.${i}.`;
    out.push({ name: `${at}input_layernorm.weight`, shape: [c.hidden_size], linear: false });
    for (const { module, shape } of blockLinears(c)) {
      out.push({ name: `${at}${module}.weight`, shape, linear: true });
    }
    out.push({ name: `${at}post_attention_layernorm.weight`, shape: [c.hidden_size], linear: false });
  }
  out.push({ name: "model.norm.weight", shape: [c.hidden_size], linear: false });
  if (!c.tie_word_embeddings) {
    out.push({ name: "lm_head.weight", shape: [c.vocab_size, c.hidden_size], linear: false });
  }
  return out;
}
