/**
 * The `config.json` that Hugging Face would write for a GGUF model, from its metadata.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { GgufValue } from "./gguf_header.ts";
import { GGUF_ARCHITECTURES, type GgufArchitecture } from "./gguf_names.ts";

/** Facts about the tensors that the metadata leaves open. */
export interface GgufTensorFacts {
  /** Whether a tensor of that Hugging Face name is there. */
  has(name: string): boolean;
  /** Rows of the embedding. */
  vocabSize: number;
  /** Values of a tensor that is in the file but not in Hugging Face's, such as `rope_freqs.weight`. */
  values(ggufName: string): Float32Array | undefined;
}

/** Typed access to metadata, with errors that name the key. */
export interface GgufMetadata {
  /** The file. */
  readonly path: string;
  /** All values as they are. */
  readonly values: ReadonlyMap<string, GgufValue>;
  /** A number, or `undefined` when the key is absent; a value of another type is an error, here and below. */
  number(key: string): number | undefined;
  /** A text. */
  string(key: string): string | undefined;
  /** A truth value. */
  boolean(key: string): boolean | undefined;
}

/** Wrap a metadata map. */
export function ggufMetadata(path: string, values: ReadonlyMap<string, GgufValue>): GgufMetadata {
  const typed = <T>(type: string) => (key: string): T | undefined => {
    const value = values.get(key);
    if (value === undefined || typeof value === type) return value as T | undefined;
    throw new NibbleError("formats/gguf-metadata", `The value is not a ${type}`, {
      where: `${path}, key "${key}"`,
      remedy:
        "The file is damaged, or its converter wrote what GGUF does not define: convert the model again.",
    });
  };
  return {
    path,
    values,
    number: typed<number>("number"),
    string: typed<string>("string"),
    boolean: typed<boolean>("boolean"),
  };
}

/** The architecture of a GGUF file, if nibble knows it. */
export function ggufArchitecture(meta: GgufMetadata): GgufArchitecture {
  const arch = meta.string("general.architecture");
  const known = GGUF_ARCHITECTURES.find((a) => a === arch);
  if (known) return known;
  throw new NibbleError(
    "formats/gguf-architecture",
    `Architecture ${JSON.stringify(arch)} cannot be read from GGUF`,
    {
      where: `${meta.path}, key "general.architecture"`,
      remedy: `Supported: ${
        GGUF_ARCHITECTURES.join(", ")
      }. For others take the Hugging Face folder of the model.`,
    },
  );
}

/** Attention heads (query and key/value), which the order of rows depends on. */
export function ggufHeads(meta: GgufMetadata, arch: GgufArchitecture): { query: number; keyValue: number } {
  const query = headCount(meta, `${arch}.attention.head_count`);
  if (query === undefined) throw missing(meta, `${arch}.attention.head_count`);
  return { query, keyValue: headCount(meta, `${arch}.attention.head_count_kv`) ?? query };
}

function headCount(meta: GgufMetadata, key: string): number | undefined {
  const value = meta.values.get(key);
  if (value === undefined) return undefined;
  const list = typeof value === "object" ? [...value] : [value];
  const first = list[0];
  if (typeof first !== "number" || !(first > 0) || !list.every((n) => n === first)) {
    throw new NibbleError("formats/gguf-metadata", "Layers with different numbers of heads cannot be read", {
      where: `${meta.path}, key "${key}"`,
      remedy: "Take a model whose layers are alike.",
    });
  }
  return first;
}

const MODEL: Record<GgufArchitecture, [modelType: string, architecture: string, activation: string]> = {
  llama: ["llama", "LlamaForCausalLM", "silu"],
  qwen2: ["qwen2", "Qwen2ForCausalLM", "silu"],
  qwen3: ["qwen3", "Qwen3ForCausalLM", "silu"],
  gemma: ["gemma", "GemmaForCausalLM", "gelu_pytorch_tanh"],
  gemma2: ["gemma2", "Gemma2ForCausalLM", "gelu_pytorch_tanh"],
  gemma3: ["gemma3_text", "Gemma3ForCausalLM", "gelu_pytorch_tanh"],
  phi3: ["phi3", "Phi3ForCausalLM", "silu"],
  starcoder2: ["starcoder2", "Starcoder2ForCausalLM", "gelu_pytorch_tanh"],
  smollm3: ["smollm3", "SmolLM3ForCausalLM", "silu"],
};

/**
 * Build the config object.
 *
 * A `llama` file with a sliding window becomes `mistral`, which is the family with the same tensors that has one.
 * @throws NibbleError when a needed key is missing or the model is a mixture of experts
 */
export function ggufConfig(
  meta: GgufMetadata,
  arch: GgufArchitecture,
  facts: GgufTensorFacts,
): Record<string, unknown> {
  const key = (name: string) => `${arch}.${name}`;
  const need = (name: string) => meta.number(key(name)) ?? fail(missing(meta, key(name)));
  if ((meta.number(key("expert_count")) ?? 0) > 0) {
    throw new NibbleError("formats/gguf-architecture", "Mixtures of experts cannot be read from GGUF", {
      where: `${meta.path}, key "${key("expert_count")}"`,
      remedy: "Take a dense model.",
    });
  }
  const heads = ggufHeads(meta, arch);
  const hidden = need("embedding_length");
  const layers = need("block_count");
  const window = meta.number(key("attention.sliding_window")) || undefined; // converters of Phi-3 write 0 for none
  const headDim = meta.number(key("attention.key_length")) ??
    (arch === "phi3" ? undefined : meta.number(key("rope.dimension_count"))) ?? hidden / heads.query;
  const [modelType, architecture, activation] = arch === "llama" && window !== undefined
    ? ["mistral", "MistralForCausalLM", "silu"]
    : MODEL[arch];
  const config: Record<string, unknown> = {
    architectures: [architecture],
    model_type: modelType,
    hidden_size: hidden,
    intermediate_size: need("feed_forward_length"),
    num_hidden_layers: layers,
    num_attention_heads: heads.query,
    num_key_value_heads: heads.keyValue,
    head_dim: headDim,
    max_position_embeddings: need("context_length"),
    vocab_size: facts.vocabSize,
    tie_word_embeddings: !facts.has("lm_head.weight"),
    hidden_act: activation,
    rope_theta: decimal(meta.number(key("rope.freq_base")) ?? 10000),
    rope_scaling: ropeScaling(meta, arch, facts, headDim),
    bos_token_id: meta.number("tokenizer.ggml.bos_token_id") ?? null,
    eos_token_id: meta.number("tokenizer.ggml.eos_token_id") ?? null,
    pad_token_id: meta.number("tokenizer.ggml.padding_token_id") ?? null,
  };
  if (arch === "starcoder2") {
    config["norm_epsilon"] = decimal(need("attention.layer_norm_epsilon"));
    config["use_bias"] = facts.has("model.layers.0.self_attn.q_proj.bias");
  } else {
    config["rms_norm_eps"] = decimal(need("attention.layer_norm_rms_epsilon"));
  }
  if (arch === "llama" || arch === "qwen3" || arch === "smollm3") {
    config["attention_bias"] = facts.has("model.layers.0.self_attn.q_proj.bias");
    config["mlp_bias"] = facts.has("model.layers.0.mlp.up_proj.bias");
  }
  if (window !== undefined) config["sliding_window"] = window;
  if (arch.startsWith("gemma")) Object.assign(config, gemmaKeys(meta, arch, config));
  if (arch === "phi3") {
    const turned = meta.number(key("rope.dimension_count")) ?? headDim;
    config["partial_rotary_factor"] = turned / headDim;
    const original = meta.number(key("rope.scaling.original_context_length"));
    if (original !== undefined) config["original_max_position_embeddings"] = original;
  }
  if (arch === "smollm3") {
    // Every fourth layer goes without rotary positions; llama.cpp has this built in, so files don't say it.
    config["no_rope_layer_interval"] = 4;
    config["no_rope_layers"] = Array.from({ length: layers }, (_, i) => (i + 1) % 4 === 0 ? 0 : 1);
  }
  return config;
}

function gemmaKeys(meta: GgufMetadata, arch: GgufArchitecture, config: Record<string, unknown>) {
  const keys: Record<string, unknown> = { hidden_activation: "gelu_pytorch_tanh" };
  if (arch === "gemma") return keys;
  // Not in the metadata: the 27B models (46 and 62 layers) scale by hidden/heads, all others by the head size.
  const large = arch === "gemma2" ? 46 : 62;
  keys["query_pre_attn_scalar"] = config["num_hidden_layers"] === large
    ? (config["hidden_size"] as number) / (config["num_attention_heads"] as number)
    : config["head_dim"];
  if (arch === "gemma2") {
    keys["attn_logit_softcapping"] = meta.number("gemma2.attn_logit_softcapping") ?? null;
    keys["final_logit_softcapping"] = meta.number("gemma2.final_logit_softcapping") ?? null;
  } else {
    keys["sliding_window_pattern"] = 6;
    keys["rope_local_base_freq"] = 10000;
  }
  return keys;
}

function ropeScaling(
  meta: GgufMetadata,
  arch: GgufArchitecture,
  facts: GgufTensorFacts,
  headDim: number,
): Record<string, unknown> | null {
  const at = (name: string) => meta.number(`${arch}.rope.scaling.${name}`);
  const long = facts.values("rope_factors_long.weight");
  const short = facts.values("rope_factors_short.weight");
  if (long && short) {
    return {
      rope_type: "longrope",
      long_factor: [...long].map(decimal),
      short_factor: [...short].map(decimal),
    };
  }
  const freqs = facts.values("rope_freqs.weight");
  if (freqs) return llama3Scaling(meta, arch, freqs, headDim);
  const type = meta.string(`${arch}.rope.scaling.type`);
  if (type === undefined || type === "none") return null;
  const factor = decimal(at("factor") ?? fail(missing(meta, `${arch}.rope.scaling.factor`)));
  if (type === "linear") return { rope_type: "linear", factor };
  if (type === "yarn") {
    const scaling: Record<string, unknown> = { rope_type: "yarn", factor };
    const original = at("original_context_length");
    if (original !== undefined) scaling["original_max_position_embeddings"] = original;
    return scaling;
  }
  throw new NibbleError("formats/gguf-metadata", `Rope scaling "${type}" is not supported`, {
    where: `${meta.path}, key "${arch}.rope.scaling.type"`,
    remedy: "Supported: none, linear, yarn, llama3 and longrope.",
  });
}

/**
 * Llama 3's scaling is stored as one divisor a frequency. Recover the four numbers of the config: `factor` is the
 * largest divisor, the others are those of all published models, and the divisors they give must be the stored ones.
 */
function llama3Scaling(
  meta: GgufMetadata,
  arch: GgufArchitecture,
  freqs: Float32Array,
  headDim: number,
): Record<string, unknown> {
  const factor = Math.max(...freqs);
  const theta = meta.number(`${arch}.rope.freq_base`) ?? 10000;
  const [low, high, original] = [1, 4, 8192];
  const fits = freqs.every((stored, i) => {
    const wavelength = 2 * Math.PI * theta ** (2 * i / headDim);
    let divisor = 1;
    if (wavelength > original / low) divisor = factor;
    else if (wavelength >= original / high) {
      const s = (original / wavelength - low) / (high - low);
      divisor = 1 / ((1 - s) / factor + s);
    }
    return Math.abs(stored - divisor) <= 1e-4 * divisor; // f32 powers on the converter's side
  });
  if (!fits) {
    throw new NibbleError("formats/gguf-metadata", "The rotary divisors are not those of Llama 3", {
      where: `${meta.path}, tensor "rope_freqs.weight"`,
      remedy: "Take the Hugging Face folder of this model, whose config.json says how positions are scaled.",
    });
  }
  return {
    rope_type: "llama3",
    factor: decimal(factor),
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: original,
  };
}

/** The shortest decimal that rounds to the same f32: 1e-5 rather than 0.000009999999747378752. */
export function decimal(x: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(x.toPrecision(digits));
    if (Math.fround(short) === x) return short;
  }
  return x;
}

function missing(meta: GgufMetadata, key: string): NibbleError {
  return new NibbleError("formats/gguf-metadata", "A needed key is missing", {
    where: `${meta.path}, key "${key}"`,
    remedy: "The file is not a complete model (a vocabulary or an adapter?): take a model's GGUF.",
  });
}

function fail(e: NibbleError): never {
  throw e;
}
