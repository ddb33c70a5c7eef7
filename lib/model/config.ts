/**
 * A model's config.json, read with the class defaults of Transformers.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type Activation, isActivation } from "../tensor/ops/pointwise.ts";
import type { RopeScaling } from "../tensor/ops/rope.ts";
import { FAMILIES, type Family, type RawConfig, SUPPORTED } from "./families.ts";

export { blockLinears, parameterShapes } from "./parameters.ts";

/** What varies from layer to layer. */
export interface LayerConfig {
  /** Whether its queries and keys are rotated. */
  rope: boolean;
  /** Positions that a token sees, itself included; undefined: all before it. */
  window: number | undefined;
  /** Factor on the scores; undefined: `head_dim ** -0.5`. */
  scale: number | undefined;
}

/** What the transformer block needs to know; names are config.json's. */
export interface ModelConfig {
  model_type: string;
  family: Family;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  vocab_size: number;
  /** `rms_norm_eps`, `norm_epsilon` or `layer_norm_epsilon`. */
  norm_eps: number;
  hidden_act: Activation;
  rope_theta: number;
  rope_scaling: RopeScaling | undefined;
  /** Rotated part of each head. */
  rotary_dim: number;
  max_position_embeddings: number;
  tie_word_embeddings: boolean;
  /** One for each block. */
  layers: readonly LayerConfig[];
  /** Which linear layers have a bias. */
  bias: { qkv: boolean; o: boolean; mlp: boolean };
  /** Experts of a block, 0 where the feed-forward is one, and how many of them serve a token. */
  num_local_experts: number;
  num_experts_per_tok: number;
  /** Weight of the load-balancing loss; 0 without `output_router_logits`, which turns it on. */
  router_aux_loss_coef: number;
  initializer_range: number;
  bos_token_id: number | undefined;
  eos_token_id: number[];
}

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
export function readConfig(raw: RawConfig, where: string): ModelConfig {
  const type = String(raw.model_type ?? "");
  if (!Object.hasOwn(FAMILIES, type)) {
    throw new NibbleError("model/unsupported", `The architecture '${type}' is not supported`, {
      where,
      remedy: SUPPORTED,
    });
  }
  const family = FAMILIES[type]!;
  for (const key of family.refuses ?? []) {
    if (raw[key]) {
      throw new NibbleError("model/unsupported", `'${key}: ${raw[key]}' is not supported`, { where });
    }
  }
  /** Null means "as computed" in every config class, an absent key its default. */
  const value = (name: string): [key: string, value: unknown] => {
    const key = family.keys[name] ?? name;
    return [key, raw[key] === undefined ? family.defaults[key] : raw[key]];
  };
  const number = (name: string, fallback?: number): number => {
    const [key, given] = value(name);
    const v = given ?? fallback;
    if (typeof v !== "number" || !(v > 0)) {
      throw new NibbleError("model/config", `'${key}' is ${JSON.stringify(v)}, not a positive number`, {
        where,
      });
    }
    return v;
  };
  const [actKey, act] = value("hidden_act");
  if (typeof act !== "string" || !isActivation(act)) {
    throw new NibbleError("model/unsupported", `'${actKey}: ${act}' is not supported`, {
      where,
      remedy: "Supported: silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu.",
    });
  }
  const hidden = number("hidden_size");
  const heads = number("num_attention_heads");
  const kv = number("num_key_value_heads", heads);
  const headDim = number("head_dim", hidden / heads);
  if (heads % kv !== 0 || !Number.isInteger(headDim)) {
    throw new NibbleError(
      "model/config",
      `${heads} heads of ${headDim} over ${kv} key-value heads do not fit`,
      { where },
    );
  }
  if (headDim % 4 !== 0 || headDim > 256) {
    throw new NibbleError("model/unsupported", `'head_dim: ${headDim}' is not supported`, {
      where,
      remedy: "Attention takes heads of a multiple of 4 up to 256.",
    });
  }
  const positions = number("max_position_embeddings");
  const rope = {
    ...(raw.rope_scaling ?? raw.rope_parameters) as Record<string, unknown> | undefined, // Transformers 4 or 5
  };
  const partial = family.partialRotary
    ? Number(rope.partial_rotary_factor ?? raw.partial_rotary_factor ?? 1)
    : 1;
  const rotary = Math.trunc(headDim * partial);
  if (!(rotary > 0 && rotary <= headDim && rotary % 2 === 0)) {
    throw new NibbleError("model/config", `'partial_rotary_factor: ${partial}' of ${headDim} is not even`, {
      where,
    });
  }
  const layerCount = number("num_hidden_layers");
  const window = value("sliding_window")[1];
  const flag = (f: true | string | undefined) => f === true || (f !== undefined && value(f)[1] === true);
  const eos = raw.eos_token_id;
  return {
    model_type: type,
    family,
    hidden_size: hidden,
    intermediate_size: number("intermediate_size", family.innerFactor && family.innerFactor * hidden),
    num_hidden_layers: layerCount,
    num_attention_heads: heads,
    num_key_value_heads: kv,
    head_dim: headDim,
    vocab_size: number("vocab_size"),
    norm_eps: number(family.keys.norm_eps ?? "rms_norm_eps"),
    hidden_act: act,
    rope_theta: typeof rope.rope_theta === "number" ? rope.rope_theta : number("rope_theta"),
    rope_scaling: readScaling(rope, raw, family, positions),
    rotary_dim: rotary,
    max_position_embeddings: positions,
    tie_word_embeddings: Boolean(value("tie_word_embeddings")[1]),
    layers: Array.from({ length: layerCount }, (_, i) => ({
      rope: family.rotates?.(raw, i) ?? true,
      window: typeof window === "number" && family.slides?.(raw, i) ? window : undefined,
      scale: family.scale?.(raw, i, headDim),
    })),
    bias: { qkv: flag(family.bias.qkv), o: flag(family.bias.o), mlp: flag(family.bias.mlp) },
    num_local_experts: family.names.experts ? number("num_local_experts") : 0,
    num_experts_per_tok: family.names.experts ? number("num_experts_per_tok") : 0,
    router_aux_loss_coef: raw.output_router_logits === true ? number("router_aux_loss_coef") : 0,
    initializer_range: number("initializer_range"),
    bos_token_id: typeof raw.bos_token_id === "number" ? raw.bos_token_id : undefined,
    eos_token_id: Array.isArray(eos) ? eos as number[] : typeof eos === "number" ? [eos] : [],
  };
}

function readScaling(
  rope: Record<string, unknown>,
  raw: RawConfig,
  family: Family,
  positions: number,
): RopeScaling | undefined {
  const given = rope.rope_type ?? rope.type;
  const type = family.ropeTypes?.[String(given)] ?? given;
  if (type === undefined || type === "default") return undefined;
  // Phi-3 keeps the length of pre-training beside the scaling, and there it counts
  const outer = raw.original_max_position_embeddings ?? family.defaults.original_max_position_embeddings;
  const original = Number(outer ?? rope.original_max_position_embeddings ?? positions);
  return {
    ...(rope as Partial<RopeScaling>),
    rope_type: String(type),
    original_max_position_embeddings: type === "dynamic" ? positions : original,
    ...(type === "longrope" && typeof rope.factor !== "number" ? { factor: positions / original } : {}),
  };
}
