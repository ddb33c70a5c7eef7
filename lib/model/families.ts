/**
 * The architectures, each a row of differences over the one block in block.ts.
 *
 * A family says how its checkpoints and PEFT name the modules, which norm and which feed-forward it has, where its
 * config.json departs from Llama's keys and defaults, and what varies from layer to layer. Nothing else in nibble
 * asks for a model's type. Dropout inside the base model (`attn_pdrop`, `resid_pdrop`, `embd_pdrop`,
 * `attention_dropout`) is the one thing of Transformers' training mode that is left out.
 * @module
 */

/** config.json as it was read. */
export type RawConfig = Readonly<Record<string, unknown>>;

/** Module paths, without the `.weight` and `.bias` that follow. */
export interface FamilyNames {
  embed: string;
  /** Learned positions. */
  positions?: string;
  /** The list of blocks; the names below are relative to one of them, `norm` is not. */
  layers: string;
  norm: string;
  inputNorm: string;
  /** The norm before the feed-forward. */
  postNorm: string;
  /** Three projections, or one whose rows are query, key and value in that order. */
  qkv: readonly string[];
  o: string;
  /** RMSNorm over each head, before rotary embedding. */
  qNorm?: string;
  kNorm?: string;
  /** Gate and up, or one fused of both; or one ungated projection. Relative to an expert where there are experts. */
  mlpIn: readonly string[];
  mlpOut: string;
  /** Mixture of experts: the router, and the list of experts. */
  router?: string;
  experts?: string;
}

/** A bias that is always there, or where this key of config.json is true. */
type BiasFlag = true | string;

/** One architecture. */
export interface Family {
  names: FamilyNames;
  /** `rmsPlusOne` multiplies by 1 + w (Gemma). */
  norm: "rms" | "rmsPlusOne" | "layer";
  /** Whether the feed-forward is `act(gate) * up` rather than `act(up)`. */
  gated: boolean;
  /** config.json's key where it is not Llama's. */
  keys: Readonly<Record<string, string>>;
  /** What Transformers' config class takes for an absent key. */
  defaults: RawConfig;
  bias: { qkv?: BiasFlag; o?: BiasFlag; mlp?: BiasFlag };
  /** `target_modules` where an adapter names none; PEFT's choice where it has one (not for phi3, starcoder2, smollm3). */
  loraTargets: readonly string[];
  /** Linear layers are Conv1D: stored `[in, out]`, which PEFT calls `fan_in_fan_out`. */
  conv1d?: boolean;
  /** Layers that add to the residual stream start smaller by sqrt(2 layers) (Radford et al. 2019, section 2.3). */
  residualInit?: boolean;
  /** The embedding is multiplied by sqrt(hidden_size). */
  scaledEmbedding?: boolean;
  /** `intermediate_size` over `hidden_size` where config.json leaves it open. */
  innerFactor?: number;
  /** Reads `partial_rotary_factor`. */
  partialRotary?: boolean;
  /** Other names of rope types. */
  ropeTypes?: Readonly<Record<string, string>>;
  /** Whether a layer sees `sliding_window` positions only; default: all of them. */
  slides?: (raw: RawConfig, layer: number) => boolean;
  /** Whether a layer has rotary positions; default: yes. */
  rotates?: (raw: RawConfig, layer: number) => boolean;
  /** Factor on the scores; default `headDim ** -0.5`. */
  scale?: (raw: RawConfig, layer: number, headDim: number) => number;
  /** Keys that change the computation in a way that is not supported, when they are set. */
  refuses?: readonly string[];
}

const LLAMA: Family = {
  names: {
    embed: "model.embed_tokens",
    layers: "model.layers",
    norm: "model.norm",
    inputNorm: "input_layernorm",
    postNorm: "post_attention_layernorm",
    qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    o: "self_attn.o_proj",
    mlpIn: ["mlp.gate_proj", "mlp.up_proj"],
    mlpOut: "mlp.down_proj",
  },
  norm: "rms",
  gated: true,
  keys: {},
  defaults: {
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
    initializer_range: 0.02,
  },
  bias: { qkv: "attention_bias", o: "attention_bias", mlp: "mlp_bias" },
  loraTargets: ["q_proj", "v_proj"],
};

const MISTRAL: Family = {
  ...LLAMA,
  defaults: {
    ...LLAMA.defaults,
    num_key_value_heads: 8,
    max_position_embeddings: 131072,
    sliding_window: 4096,
  },
  bias: {},
  slides: () => true,
};

const QWEN2: Family = {
  ...LLAMA,
  defaults: {
    ...LLAMA.defaults,
    num_key_value_heads: 32,
    max_position_embeddings: 32768,
    sliding_window: 4096,
  },
  bias: { qkv: true },
  slides: (raw, i) =>
    raw.use_sliding_window === true && slidingType(raw, i, i >= Number(raw.max_window_layers ?? 28)),
};

/** SmolLM3's rule: 1 in `no_rope_layers` means that the layer does rotate. */
const rotatesInSmolLM3 = (raw: RawConfig, i: number) =>
  Array.isArray(raw.no_rope_layers)
    ? Boolean(raw.no_rope_layers[i])
    : (i + 1) % Number(raw.no_rope_layer_interval ?? 4) !== 0;

/** Supported architectures by `model_type`, with the defaults of Transformers 4.57 and 5.23. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  llama: LLAMA,
  mistral: MISTRAL,
  // Each expert's matrices are linear layers of their own, as in Transformers 4: bitsandbytes quantizes them there, and
  // PEFT adapts them. Transformers 5 stacks them and leaves them in 16 bits; PEFT moves an adapter of these names over.
  mixtral: {
    ...MISTRAL,
    names: {
      ...LLAMA.names,
      router: "block_sparse_moe.gate",
      experts: "block_sparse_moe.experts",
      mlpIn: ["w1", "w3"],
      mlpOut: "w2",
    },
    defaults: {
      ...MISTRAL.defaults,
      rms_norm_eps: 1e-5,
      rope_theta: 1e6,
      sliding_window: undefined,
      num_local_experts: 8,
      num_experts_per_tok: 2,
      router_aux_loss_coef: 0.001,
    },
    refuses: ["router_jitter_noise"],
  },
  qwen2: QWEN2,
  qwen3: {
    ...QWEN2,
    names: { ...LLAMA.names, qNorm: "self_attn.q_norm", kNorm: "self_attn.k_norm" },
    defaults: { ...QWEN2.defaults, head_dim: 128 },
    bias: { qkv: "attention_bias", o: "attention_bias" },
  },
  smollm3: {
    ...LLAMA,
    defaults: {
      ...LLAMA.defaults,
      num_key_value_heads: 4,
      max_position_embeddings: 32768,
      rope_theta: 2e6,
      tie_word_embeddings: true,
    },
    rotates: rotatesInSmolLM3,
    slides: (raw, i) => raw.use_sliding_window === true && slidingType(raw, i, !rotatesInSmolLM3(raw, i)),
  },
  gemma: {
    ...LLAMA,
    norm: "rmsPlusOne",
    scaledEmbedding: true,
    // files say hidden_act "gelu" and mean the tanh form, so Transformers reads hidden_activation alone
    keys: { hidden_act: "hidden_activation" },
    defaults: {
      ...LLAMA.defaults,
      hidden_activation: "gelu_pytorch_tanh",
      head_dim: 256,
      num_key_value_heads: 16,
      max_position_embeddings: 8192,
      tie_word_embeddings: true,
    },
    bias: { qkv: "attention_bias", o: "attention_bias" },
    refuses: ["use_bidirectional_attention"],
  },
  starcoder2: {
    ...LLAMA,
    names: { ...LLAMA.names, mlpIn: ["mlp.c_fc"], mlpOut: "mlp.c_proj" },
    norm: "layer",
    gated: false,
    keys: { norm_eps: "norm_epsilon" },
    defaults: {
      ...LLAMA.defaults,
      hidden_act: "gelu_pytorch_tanh",
      norm_epsilon: 1e-5,
      num_key_value_heads: 2,
      max_position_embeddings: 4096,
      tie_word_embeddings: true,
      initializer_range: 0.018042,
      use_bias: true,
    },
    bias: { qkv: "use_bias", o: "use_bias", mlp: "use_bias" },
    slides: () => true,
  },
  gpt2: {
    ...LLAMA,
    names: {
      embed: "transformer.wte",
      positions: "transformer.wpe",
      layers: "transformer.h",
      norm: "transformer.ln_f",
      inputNorm: "ln_1",
      postNorm: "ln_2",
      qkv: ["attn.c_attn"],
      o: "attn.c_proj",
      mlpIn: ["mlp.c_fc"],
      mlpOut: "mlp.c_proj",
    },
    norm: "layer",
    gated: false,
    conv1d: true,
    residualInit: true,
    innerFactor: 4,
    keys: {
      hidden_size: "n_embd",
      intermediate_size: "n_inner",
      num_hidden_layers: "n_layer",
      num_attention_heads: "n_head",
      max_position_embeddings: "n_positions",
      norm_eps: "layer_norm_epsilon",
      hidden_act: "activation_function",
    },
    defaults: {
      ...LLAMA.defaults,
      activation_function: "gelu_new",
      layer_norm_epsilon: 1e-5,
      n_positions: 1024,
      tie_word_embeddings: true,
    },
    bias: { qkv: true, o: true, mlp: true },
    loraTargets: ["c_attn"],
    rotates: () => false,
    scale: (raw, i, headDim) =>
      (raw.scale_attn_weights === false ? 1 : headDim ** -0.5) /
      (raw.scale_attn_by_inverse_layer_idx === true ? i + 1 : 1),
    refuses: ["add_cross_attention"],
  },
  phi3: {
    ...LLAMA,
    names: { ...LLAMA.names, qkv: ["self_attn.qkv_proj"], mlpIn: ["mlp.gate_up_proj"] },
    defaults: {
      ...LLAMA.defaults,
      rms_norm_eps: 1e-5,
      max_position_embeddings: 4096,
      original_max_position_embeddings: 4096,
    },
    bias: {},
    loraTargets: ["qkv_proj"],
    partialRotary: true,
    ropeTypes: { su: "longrope", yarn: "longrope" },
    slides: () => true,
  },
};

/** What to say to someone whose model is not among them. */
export const SUPPORTED = `Supported model types: ${Object.keys(FAMILIES).join(", ")} ` +
  "(Llama, SmolLM, SmolLM2, SmolLM3, Mistral, Zephyr, Mixtral, Qwen2 and 2.5, Qwen3, Gemma, StarCoder2, GPT-2, " +
  "Phi-3 and their fine-tunes).";

function slidingType(raw: RawConfig, layer: number, otherwise: boolean): boolean {
  return Array.isArray(raw.layer_types) ? raw.layer_types[layer] === "sliding_attention" : otherwise;
}
