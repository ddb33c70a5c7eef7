/**
 * GGUF's tensor names under Hugging Face's, and what a converter did to the values on the way.
 * @module
 */

/** How stored values become Hugging Face's. */
export type Restore =
  | { kind: "none" }
  /** Rows of each attention head were interleaved for ggml's rotary embedding; undo it. */
  | { kind: "unpermute"; heads: number }
  /** 1 was added (Gemma's norms); subtract it. */
  | { kind: "minusOne" };

/** Architectures that nibble reads from GGUF. */
export const GGUF_ARCHITECTURES = [
  "llama",
  "qwen2",
  "qwen3",
  "gemma",
  "gemma2",
  "gemma3",
  "phi3",
  "starcoder2",
  "smollm3",
] as const;

/** One of {@link GGUF_ARCHITECTURES}. */
export type GgufArchitecture = typeof GGUF_ARCHITECTURES[number];

const TOP: Record<string, string> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

const BLOCK: Record<string, string> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

const GEMMA_SANDWICH = {
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

/** Where an architecture departs from {@link BLOCK}. */
const DEPARTURES: Partial<Record<GgufArchitecture, Record<string, string>>> = {
  gemma2: GEMMA_SANDWICH,
  gemma3: GEMMA_SANDWICH,
  phi3: { attn_qkv: "self_attn.qkv_proj", ffn_up: "mlp.gate_up_proj" },
  starcoder2: { ffn_up: "mlp.c_fc", ffn_down: "mlp.c_proj" },
};

/**
 * Hugging Face name of a GGUF tensor, or `undefined` for one that Hugging Face's files don't have.
 *
 * @example
 * ```ts
 * import { hfTensorName } from "./gguf_names.ts";
 * const name = hfTensorName("llama", "blk.3.attn_q.weight");
 * if (name !== "model.layers.3.self_attn.q_proj.weight") throw new Error(name);
 * ```
 */
export function hfTensorName(arch: GgufArchitecture, name: string): string | undefined {
  const parts = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name);
  if (!parts) return undefined;
  const [, layer, stem, kind] = parts;
  if (layer === undefined) return Object.hasOwn(TOP, stem!) ? `${TOP[stem!]}.${kind}` : undefined;
  const names: Record<string, string> = { ...BLOCK, ...DEPARTURES[arch] };
  return Object.hasOwn(names, stem!) ? `model.layers.${layer}.${names[stem!]}.${kind}` : undefined;
}

/**
 * The reverse of {@link hfTensorName}: GGUF's name of a Hugging Face tensor, or `undefined` where it has none.
 *
 * @example
 * ```ts
 * import { ggufTensorName } from "./gguf_names.ts";
 * const name = ggufTensorName("llama", "model.layers.3.self_attn.q_proj.weight");
 * if (name !== "blk.3.attn_q.weight") throw new Error(name);
 * ```
 */
export function ggufTensorName(arch: GgufArchitecture, name: string): string | undefined {
  const parts = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name);
  if (!parts) return undefined;
  const [, layer, module, kind] = parts;
  const names: Record<string, string> = layer === undefined ? TOP : { ...BLOCK, ...DEPARTURES[arch] };
  const stem = Object.keys(names).find((key) => names[key] === module);
  if (stem === undefined) return undefined;
  return layer === undefined ? `${stem}.${kind}` : `blk.${layer}.${stem}.${kind}`;
}

/**
 * What turns a tensor's stored values into Hugging Face's.
 * @param hfName its Hugging Face name
 */
export function restoreOf(
  arch: GgufArchitecture,
  hfName: string,
  heads: { query: number; keyValue: number },
): Restore {
  if (arch === "llama" || arch === "smollm3") {
    if (/self_attn\.q_proj\./.test(hfName)) return { kind: "unpermute", heads: heads.query };
    if (/self_attn\.k_proj\./.test(hfName)) return { kind: "unpermute", heads: heads.keyValue };
  }
  if (arch.startsWith("gemma") && /norm\.weight$/.test(hfName)) return { kind: "minusOne" };
  return { kind: "none" };
}

/**
 * The stored row that holds row `row` of the Hugging Face tensor. A converter for ggml views the rows of a head as
 * (2, d/2) and swaps the two: row `half·d/2 + j` went to `2j + half`.
 * @param headRows rows of one head, d
 */
export function storedRow(row: number, headRows: number): number {
  const within = row % headRows;
  const half = headRows / 2;
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}
