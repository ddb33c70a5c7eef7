/**
 * The transformer: parameters under Hugging Face's names, and the forward pass.
 * @module
 */
import { attention } from "../tensor/ops/attention.ts";
import { embedding, lookUpRows } from "../tensor/ops/embedding.ts";
import { add, scale } from "../tensor/ops/pointwise.ts";
import { type RouterBalance, routerBalance } from "../tensor/ops/router_balance.ts";
import { uniformNoise } from "../tensor/ops/uniform_noise.ts";
import { checkpoint, recording } from "../tensor/tape.ts";
import { scope, Tensor, tensor } from "../tensor/tensor.ts";
import { applyNorm, type Block, blockForward, type Norm, type Pass } from "./block.ts";
import type { ModelConfig } from "./config.ts";
import { applyLinear, type LinearLayer, type Watch } from "./linear.ts";
import type { RopeTables } from "./rope_tables.ts";

/** A causal language model on the device. */
export interface Model {
  /** Sizes and switches of the architecture. */
  readonly config: ModelConfig;
  /** config.json as it was read, for saving. */
  readonly rawConfig: Record<string, unknown>;
  /** Where it came from: folder or file. */
  readonly path: string;
  /** Embeddings of the tokens, `[vocabulary, C]`. */
  readonly embed: Tensor;
  /** Learned positions, where the family has them. */
  readonly positionEmbed: Tensor | undefined;
  /** The transformer's blocks, first to last. */
  readonly blocks: readonly Block[];
  /** The norm after the last block. */
  readonly norm: Norm;
  /** The output embedding; the input embedding itself when tied. */
  readonly head: Tensor;
  /** Positions that a sequence may have at most. */
  readonly positions: number;
  /** Cosines and sines of every position; undefined where positions are learned. */
  readonly rope: RopeTables | undefined;
  /** All linear layers of all blocks by module path. */
  readonly linears: ReadonlyMap<string, LinearLayer>;
  /** Every other parameter by its full name: embeddings, norms, biases. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** What loading did, for the report after it. */
  readonly summary: LoadSummary;
  /** Gives the model's buffers back. */
  dispose(): void;
}

/** How the base is held. */
export interface LoadSummary {
  /** Numbers in all of the model. */
  parameters: number;
  /** Linear layers in 4 bits. */
  quantizedLayers: number;
  /** The file held them in 4 bits, and they were taken from it as they are. */
  asStored: boolean;
  /** Their numbers. */
  quantizedParameters: number;
  /** Linear layers that are not. */
  denseLayers: number;
  /** Bytes of the quantized layers and bits for each of their parameters. */
  quantizedBytes: number;
  bitsPerParameter: number;
  /** Bytes of the model on the device. */
  bytes: number;
  /** Time that loading took. */
  seconds: number;
}

/** A batch on the device; ids and labels stay on the host, where the look-ups are prepared. */
export interface ModelInput {
  /** `[B * T]` token ids, row after row. */
  ids: Uint32Array;
  /** `[B * T]`, the position of each token in its document, here and on the device. */
  positionIds: Uint32Array;
  /** u32 `[B * T]`, `positionIds` on the device. */
  positions: Tensor;
  /** u32 `[B * T]`, document numbers, 0 for padding. */
  segments: Tensor;
  /** B: sequences side by side. */
  batch: number;
  /** T: tokens of each, padding included. */
  time: number;
}

/** Uniform noise in ±magnitude, drawn from the seed. */
export interface EmbeddingNoise {
  magnitude: number;
  seed: number;
}

/** Options of a forward pass. */
export interface ForwardOptions {
  /** Recompute each block in the backward pass instead of keeping its activations. */
  checkpointing?: boolean;
  /** Turns on the adapters' dropout. */
  dropoutSeed?: number | undefined;
  /** Noise on the embedded tokens (NEFTune). */
  noise?: EmbeddingNoise | undefined;
  /** A mixture's load-balancing loss, from {@link balanceOf}. */
  balance?: RouterBalance | undefined;
  watch?: Watch | undefined;
  /** Called between blocks, where a long pass may be submitted. */
  afterBlock?: (index: number) => void;
}

/**
 * Hidden states after the last norm, `[B * T, C]`. Multiply by `model.head` for logits, or hand both to
 * `linearCrossEntropy`.
 */
export function forward(model: Model, input: ModelInput, options: ForwardOptions = {}): Tensor {
  const { config: c } = model;
  const pass = forwardPass(model, input, options);
  // without a backward pass to come, a block's activations are of no more use once it is through
  const transient = !recording() && !options.balance;
  let x = embed(model, input.ids, input.positionIds, options.noise);
  options.watch?.(c.family.names.embed, x);
  // with frozen embeddings nothing before the first adapter needs a gradient, but checkpoint() decides by its inputs
  if (options.checkpointing) x.requiresGrad = true;
  model.blocks.forEach((block, i) => {
    const run = (h: Tensor) => blockForward(c, block, i, h, pass);
    x = transient ? onlyResult(run, x) : options.checkpointing ? checkpoint(run, [x]) : run(x);
    options.afterBlock?.(i);
  });
  const hidden = applyNorm(c, x, model.norm);
  options.watch?.(c.family.names.norm, hidden);
  return hidden;
}

/** What the blocks need beside the hidden states: positions, rotations, attention over the batch. */
export function forwardPass(model: Model, input: ModelInput, options: ForwardOptions = {}): Pass {
  const { config: c } = model;
  const { positions, segments, batch, time } = input;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = c;
  return {
    context: { dropoutSeed: options.dropoutSeed, watch: options.watch },
    balance: options.balance,
    positions,
    table: model.rope?.forLength(input.positionIds.reduce((a, p) => Math.max(a, p), 0) + 1),
    attend(i, q, k, v) {
      const { window, scale } = c.layers[i]!;
      return attention({ q, k, v, segments, batch, time, heads, kvHeads, headDim, window, scale });
    },
  };
}

/**
 * The load-balancing loss of a mixture whose config asks for it (`output_router_logits`); undefined for all others.
 *
 * @param weight of `router_aux_loss_coef` times the loss, in the units of the loss that it joins
 */
export function balanceOf(model: Model, input: ModelInput, weight: number): RouterBalance | undefined {
  const { router_aux_loss_coef: coefficient, num_hidden_layers: layers } = model.config;
  const { num_local_experts: experts, num_experts_per_tok: k } = model.config;
  if (!(experts > 0 && coefficient > 0)) return undefined;
  return routerBalance({ layers, experts, k, weight: weight * coefficient }, input.segments);
}

/** Runs `work` on `x` and gives back everything but its result, `x` included. */
function onlyResult(work: (x: Tensor) => Tensor, x: Tensor): Tensor {
  const y = scope(() => work(x));
  x.dispose();
  return y;
}

/**
 * What enters the first block: embedded tokens, and learned positions where the family has them; `[rows, C]`.
 *
 * @param ids on the device for generation alone: then nothing is recorded
 */
export function embed(
  model: Model,
  ids: Uint32Array | Tensor,
  positionIds: Uint32Array,
  noise?: EmbeddingNoise,
): Tensor {
  const plain = ids instanceof Tensor ? lookUpRows(ids, model.embed) : embedding(ids, model.embed);
  // on the embedding's own output, as Transformers 4 hooks it: before Gemma scales it and GPT-2 adds positions
  const x = noise ? uniformNoise(plain, noise.magnitude, noise.seed) : plain;
  const scaled = model.config.family.scaledEmbedding ? scale(x, Math.sqrt(model.config.hidden_size)) : x;
  return model.positionEmbed ? add(scaled, embedding(positionIds, model.positionEmbed)) : scaled;
}

/** Puts a batch's positions and segments on the device. */
export function modelInput(batch: {
  ids: Uint32Array;
  positions: Uint32Array;
  segments: Uint32Array;
  batch: number;
  time: number;
}): ModelInput {
  const { ids, positions, batch: b, time } = batch;
  const n = [b * time];
  return {
    ids,
    positionIds: positions,
    positions: tensor(positions, n),
    segments: tensor(batch.segments, n),
    batch: b,
    time,
  };
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
