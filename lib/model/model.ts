/**
 * The transformer: parameters under Hugging Face's names, the block written once, the forward pass.
 * @module
 */
import { attention } from "../tensor/ops/attention.ts";
import { embedding } from "../tensor/ops/embedding.ts";
import { add, gated } from "../tensor/ops/pointwise.ts";
import { rmsNorm } from "../tensor/ops/rms_norm.ts";
import { rope } from "../tensor/ops/rope.ts";
import { checkpoint } from "../tensor/tape.ts";
import { scope, type Tensor, tensor } from "../tensor/tensor.ts";
import type { ModelConfig } from "./config.ts";
import { applyLinear, type ForwardContext, type LinearLayer } from "./linear.ts";

/** One transformer block. */
export interface Block {
  inputNorm: Tensor;
  postNorm: Tensor;
  q: LinearLayer;
  k: LinearLayer;
  v: LinearLayer;
  o: LinearLayer;
  gate: LinearLayer;
  up: LinearLayer;
  down: LinearLayer;
}

/** A causal language model on the device. */
export interface Model {
  readonly config: ModelConfig;
  /** config.json as it was read, for saving. */
  readonly rawConfig: Record<string, unknown>;
  /** Where it came from: folder or file. */
  readonly path: string;
  readonly embed: Tensor;
  readonly blocks: readonly Block[];
  readonly norm: Tensor;
  /** The output embedding; the input embedding itself when tied. */
  readonly head: Tensor;
  /** Cosines and sines of every position. */
  readonly rope: Tensor;
  /** All linear layers of all blocks by module path. */
  readonly linears: ReadonlyMap<string, LinearLayer>;
  /** What loading did, for the report after it. */
  readonly summary: LoadSummary;
  dispose(): void;
}

/** How the base is held. */
export interface LoadSummary {
  parameters: number;
  quantizedLayers: number;
  quantizedParameters: number;
  denseLayers: number;
  /** Bytes of the quantized layers and bits for each of their parameters. */
  quantizedBytes: number;
  bitsPerParameter: number;
  bytes: number;
  seconds: number;
}

/** A batch on the device; ids and labels stay on the host, where the look-ups are prepared. */
export interface ModelInput {
  ids: Uint32Array;
  /** u32 `[B * T]`. */
  positions: Tensor;
  /** u32 `[B * T]`, document numbers, 0 for padding. */
  segments: Tensor;
  batch: number;
  time: number;
}

/** Options of a forward pass. */
export interface ForwardOptions {
  /** Recompute each block in the backward pass instead of keeping its activations. */
  checkpointing?: boolean;
  /** Turns on the adapters' dropout. */
  dropoutSeed?: number | undefined;
  /** Called between blocks, where a long pass may be submitted. */
  afterBlock?: (index: number) => void;
}

/**
 * Hidden states after the last norm, `[B * T, C]`. Multiply by `model.head` for logits, or hand both to
 * `linearCrossEntropy`.
 */
export function forward(model: Model, input: ModelInput, options: ForwardOptions = {}): Tensor {
  const context: ForwardContext = { dropoutSeed: options.dropoutSeed };
  const { config } = model;
  let x = embedding(input.ids, model.embed);
  // with frozen embeddings nothing before the first adapter needs a gradient, but checkpoint() decides by its inputs
  if (options.checkpointing) x.requiresGrad = true;
  model.blocks.forEach((block, i) => {
    const run = (h: Tensor) => blockForward(block, h, model, input, context);
    x = options.checkpointing ? checkpoint(run, [x]) : run(x);
    options.afterBlock?.(i);
  });
  return rmsNorm(x, model.norm, config.rms_norm_eps);
}

/** Pre-norm block: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`. `x` is `[B * T, C]`. */
function blockForward(
  block: Block,
  x: Tensor,
  model: Model,
  input: ModelInput,
  context: ForwardContext,
): Tensor {
  const { config: c, rope: table } = model;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = c;
  const n = rmsNorm(x, block.inputNorm, c.rms_norm_eps);
  const q = rope(applyLinear(block.q, n, context), input.positions, table, heads, headDim); // (B*T, H*D)
  const k = rope(applyLinear(block.k, n, context), input.positions, table, kvHeads, headDim);
  const v = applyLinear(block.v, n, context);
  const mixed = attention({
    q,
    k,
    v,
    segments: input.segments,
    batch: input.batch,
    time: input.time,
    heads,
    kvHeads,
    headDim,
    ...(c.sliding_window === undefined ? {} : { window: c.sliding_window }),
  });
  const h = add(x, applyLinear(block.o, mixed, context));
  const m = rmsNorm(h, block.postNorm, c.rms_norm_eps);
  const inner = gated("silu", applyLinear(block.gate, m, context), applyLinear(block.up, m, context)); // (B*T, I)
  return add(h, applyLinear(block.down, inner, context));
}

/** Puts a batch's positions and segments on the device. */
export function modelInput(batch: {
  ids: Uint32Array;
  positions: Uint32Array;
  segments: Uint32Array;
  batch: number;
  time: number;
}): ModelInput {
  const { ids, batch: b, time } = batch;
  const n = [b * time];
  return { ids, positions: tensor(batch.positions, n), segments: tensor(batch.segments, n), batch: b, time };
}

/** Runs `forward` on one sequence and returns its logits `[T, V]`; for tests and for looking at a model. */
export async function logits(model: Model, ids: readonly number[]): Promise<Float32Array<ArrayBuffer>> {
  const out = scope(() => {
    const n = ids.length;
    const hidden = forward(
      model,
      modelInput({
        ids: Uint32Array.from(ids),
        positions: Uint32Array.from(ids.keys()),
        segments: new Uint32Array(n).fill(1),
        batch: 1,
        time: n,
      }),
    );
    return applyHead(model, hidden);
  });
  const data = await out.data();
  out.dispose();
  return data;
}

/** Logits of hidden states; whole, so for few rows only. */
export function applyHead(model: Model, hidden: Tensor): Tensor {
  const head: LinearLayer = {
    module: "lm_head",
    shape: [model.head.rows, model.head.columns],
    weight: model.head,
    adapter: undefined,
  };
  return applyLinear(head, hidden, { dropoutSeed: undefined });
}
