/**
 * A tiny random Llama for tests, and the same model written again in plain f64 loops.
 * @module
 */
import type { TensorInfo, TensorSource } from "../../lib/formats/mod.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { type ModelConfig, parameterShapes, readConfig } from "../../lib/model/config.ts";
import { storedShape } from "../../lib/model/parameters.ts";
import { normal, uniform } from "../../lib/model/random_source.ts";
import { sharedMap } from "../../lib/quant/quantized_tensor.ts";

/** config.json of a model with every feature: grouped heads, odd sizes, untied head unless asked. */
export function tinyConfig(more: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: 61,
    hidden_size: 32,
    intermediate_size: 44,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 100,
    tie_word_embeddings: false,
    eos_token_id: 2,
    ...more,
  };
}

/** Makes what a device keeps for double quantization, so that checks for leaks do not count it. */
export async function warmDevice(): Promise<void> {
  await openGpu();
  sharedMap();
}

/** Weights by name. */
export type Weights = Map<string, Float32Array<ArrayBuffer>>;

/** Lively weights, as files hold them: outputs of the order of 1, and norms that are not all ones. */
export function tinyWeights(raw: Record<string, unknown>, seed: number): Weights {
  const out: Weights = new Map();
  parameterShapes(readConfig(raw, "test")).forEach(({ name, shape }, n) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const deviation = 1.2 / Math.sqrt(shape.at(-1)!);
    out.set(
      name,
      Float32Array.from(
        { length: size },
        (_, i) => shape.length === 1 ? 0.5 + uniform(seed * 77 + n, i) : deviation * normal(seed * 91 + n, i),
      ),
    );
  });
  return out;
}

/** Weights in memory as a file would offer them. */
export function memorySource(raw: Record<string, unknown>, weights: Weights): TensorSource {
  const tensors = new Map<string, TensorInfo>();
  for (const spec of parameterShapes(readConfig(raw, "test"))) {
    const { name } = spec, data = weights.get(name);
    if (data) tensors.set(name, { name, dtype: "F32", shape: storedShape(spec), bytes: data.byteLength });
  }
  return {
    path: "(memory)",
    tensors,
    readF32: (name, start, end) => weights.get(name)!.slice(start, end),
    readBytes: (name, start, end) => new Uint8Array(weights.get(name)!.buffer).slice(start, end),
    close() {},
  };
}

/** One row of tokens with its documents. */
export interface NaiveRow {
  ids: ArrayLike<number>;
  positions: ArrayLike<number>;
  segments: ArrayLike<number>;
}

/** A row of one document. */
export function wholeRow(ids: readonly number[]): NaiveRow {
  return { ids, positions: ids.map((_, i) => i), segments: ids.map(() => 1) };
}

/** The weights in f64, to be varied. */
export function inDoubles(weights: Weights): Map<string, Float64Array> {
  return new Map([...weights].map(([name, w]) => [name, Float64Array.from(w)]));
}

/** `x Wᵀ` of rows. */
function linear(x: Float64Array[], w: Float64Array, out: number): Float64Array[] {
  return x.map((row) =>
    Float64Array.from({ length: out }, (_, o) => {
      let sum = 0;
      for (let i = 0; i < row.length; i++) sum += row[i]! * w[o * row.length + i]!;
      return sum;
    })
  );
}

function rmsNorm(x: Float64Array[], w: Float64Array, eps: number): Float64Array[] {
  return x.map((row) => {
    const scale = 1 / Math.sqrt(row.reduce((a, b) => a + b * b, 0) / row.length + eps);
    return row.map((v, i) => v * scale * w[i]!);
  });
}

/** Rotates the two halves of each head against each other (Su et al. 2021, in Llama's layout). */
function rotate(x: Float64Array[], positions: ArrayLike<number>, c: ModelConfig): Float64Array[] {
  const d = c.head_dim, half = d / 2;
  return x.map((row, t) =>
    row.map((v, i) => {
      const j = i % d, angle = positions[t]! * c.rope_theta ** (-2 * (j % half) / d);
      return v * Math.cos(angle) + (j < half ? -row[i + half]! : row[i - half]!) * Math.sin(angle);
    })
  );
}

/** Logits of every position of one row, `[T][V]`: the Llama forward pass as its papers write it. */
export function naiveLogits(
  c: ModelConfig,
  w: ReadonlyMap<string, Float64Array>,
  row: NaiveRow,
): Float64Array[] {
  const { hidden_size: C, head_dim: d, num_attention_heads: H, num_key_value_heads: K } = c;
  const get = (name: string) => w.get(`${name}.weight`)!;
  const time = row.ids.length;
  const embed = get("model.embed_tokens");
  let x = Array.from({ length: time }, (_, t) => embed.slice(row.ids[t]! * C, (row.ids[t]! + 1) * C));
  for (let l = 0; l < c.num_hidden_layers; l++) {
    const at = `model.layers.${l}.`;
    const n = rmsNorm(x, get(`${at}input_layernorm`), c.norm_eps);
    const q = rotate(linear(n, get(`${at}self_attn.q_proj`), H * d), row.positions, c);
    const k = rotate(linear(n, get(`${at}self_attn.k_proj`), K * d), row.positions, c);
    const v = linear(n, get(`${at}self_attn.v_proj`), K * d);
    const mixed = q.map((query, t) => {
      const out = new Float64Array(H * d);
      for (let h = 0; h < H; h++) {
        const g = Math.floor(h / (H / K)) * d;
        const seen: number[] = [];
        for (let s = 0; s <= t; s++) {
          const near = t - s < (c.layers[l]!.window ?? Infinity);
          if (row.segments[s] === row.segments[t] && row.segments[t] !== 0 && near) seen.push(s);
        }
        const scores = seen.map((s) => {
          let sum = 0;
          for (let i = 0; i < d; i++) sum += query[h * d + i]! * k[s]![g + i]!;
          return sum / Math.sqrt(d);
        });
        const top = Math.max(...scores);
        const weights = scores.map((a) => Math.exp(a - top));
        const total = weights.reduce((a, b) => a + b, 0);
        seen.forEach((s, j) => {
          for (let i = 0; i < d; i++) out[h * d + i]! += weights[j]! / total * v[s]![g + i]!;
        });
      }
      return out;
    });
    const add = (a: Float64Array[], b: Float64Array[]) =>
      a.map((r, t) => r.map((value, i) => value + b[t]![i]!));
    const h = add(x, linear(mixed, get(`${at}self_attn.o_proj`), C));
    const m = rmsNorm(h, get(`${at}post_attention_layernorm`), c.norm_eps);
    const gate = linear(m, get(`${at}mlp.gate_proj`), c.intermediate_size);
    const up = linear(m, get(`${at}mlp.up_proj`), c.intermediate_size);
    const inner = gate.map((r, t) => r.map((a, i) => a / (1 + Math.exp(-a)) * up[t]![i]!));
    x = add(h, linear(inner, get(`${at}mlp.down_proj`), C));
  }
  const n = rmsNorm(x, get("model.norm"), c.norm_eps);
  return linear(n, w.get("lm_head.weight") ?? embed, c.vocab_size);
}

/** Sum of negative log-likelihoods over the labels that are not -100. */
export function naiveLoss(
  c: ModelConfig,
  w: ReadonlyMap<string, Float64Array>,
  row: NaiveRow,
  labels: ArrayLike<number>,
): number {
  return naiveLogits(c, w, row).reduce((sum, logits, t) => {
    if (labels[t] === -100) return sum;
    const top = Math.max(...logits);
    return sum + top + Math.log(logits.reduce((a, v) => a + Math.exp(v - top), 0)) - logits[labels[t]!]!;
  }, 0);
}
