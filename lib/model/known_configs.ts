/**
 * config.json of a few base models, for plans of recipes whose model is out of reach. Where the file itself can be had,
 * it is read instead.
 * @module
 */
import type { RawConfig } from "./families.ts";

const SMOLLM2 = {
  ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], hidden_act: "silu", vocab_size: 49152 },
  ...{ max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 100000, tie_word_embeddings: true },
  ...{ bos_token_id: 1, eos_token_id: 2, torch_dtype: "bfloat16" },
};

/** By name on the Hub. */
export const KNOWN_CONFIGS: Readonly<Record<string, RawConfig>> = {
  "mistralai/Mistral-7B-v0.1": {
    ...{
      model_type: "mistral",
      architectures: ["MistralForCausalLM"],
      hidden_act: "silu",
      vocab_size: 32000,
    },
    ...{ hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32 },
    ...{ num_attention_heads: 32, num_key_value_heads: 8, max_position_embeddings: 32768 },
    ...{ rms_norm_eps: 1e-5, rope_theta: 10000, sliding_window: 4096, tie_word_embeddings: false },
    ...{ bos_token_id: 1, eos_token_id: 2, torch_dtype: "bfloat16" },
  },
  "HuggingFaceTB/SmolLM2-135M": {
    ...SMOLLM2,
    ...{ hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30 },
    ...{ num_attention_heads: 9, num_key_value_heads: 3 },
  },
  "HuggingFaceTB/SmolLM2-360M": {
    ...SMOLLM2,
    ...{ hidden_size: 960, intermediate_size: 2560, num_hidden_layers: 32 },
    ...{ num_attention_heads: 15, num_key_value_heads: 5 },
  },
  "HuggingFaceTB/SmolLM2-1.7B": {
    ...SMOLLM2,
    ...{ hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 24, rope_theta: 130000 },
    ...{ num_attention_heads: 32, num_key_value_heads: 32 },
  },
};
