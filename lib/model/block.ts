/**
 * The transformer block, written once for every family, for training and for generation.
 * @module
 */
import { splitColumns } from "../tensor/ops/columns.ts";
import { layerNorm } from "../tensor/ops/layer_norm.ts";
import { activation, add, gated, reshape } from "../tensor/ops/pointwise.ts";
import type { RouterBalance } from "../tensor/ops/router_balance.ts";
import { rmsNorm } from "../tensor/ops/rms_norm.ts";
import { rope } from "../tensor/ops/rope.ts";
import { recomputing } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ModelConfig } from "./config.ts";
import type { Family } from "./families.ts";
import { applyLinear, type ForwardContext, type LinearLayer } from "./linear.ts";
import { mixture } from "./mixture.ts";
import { mlpWidths, qkvWidths } from "./parameters.ts";

/** Weight, and bias where the family's norms have one. */
export interface Norm {
  weight: Tensor;
  bias: Tensor | undefined;
}

/** A feed-forward network: the whole of a block's, or one expert. */
export interface FeedForward {
  /** Gate and up, one fused of both, or the one projection where nothing is gated. */
  in: readonly LinearLayer[];
  out: LinearLayer;
}

/** One transformer block. */
export interface Block {
  inputNorm: Norm;
  postNorm: Norm;
  /** Query, key and value, or one fused of the three. */
  qkv: readonly LinearLayer[];
  o: LinearLayer;
  /** RMSNorm over each head. */
  qNorm: Norm | undefined;
  kNorm: Norm | undefined;
  /** One, or with a router the experts. */
  mlp: readonly FeedForward[];
  router: LinearLayer | undefined;
}

/** What a pass over the blocks carries beside the activations. */
export interface Pass {
  context: ForwardContext;
  /** u32, one for each row. */
  positions: Tensor;
  /** Cosines and sines; undefined where no layer rotates. */
  table: Tensor | undefined;
  /** Attention of rotated queries and keys in layer `i`: over the batch, or over a cache. */
  attend: (i: number, q: Tensor, k: Tensor, v: Tensor) => Tensor;
  /** A mixture's load-balancing loss, where it is wanted. */
  balance?: RouterBalance | undefined;
}

/** Block `i`, put together from the model's parameters and linear layers by name. */
export function blockOf(
  c: ModelConfig,
  i: number,
  dense: ReadonlyMap<string, Tensor>,
  linears: ReadonlyMap<string, LinearLayer>,
): Block {
  const { names } = c.family;
  const at = `${names.layers}.${i}.`;
  const layer = (name: string) => linears.get(at + name)!;
  const feedForward = (from: string): FeedForward => ({
    in: names.mlpIn.map((n) => layer(from + n)),
    out: layer(from + names.mlpOut),
  });
  return {
    inputNorm: normOf(at + names.inputNorm, dense),
    postNorm: normOf(at + names.postNorm, dense),
    qkv: names.qkv.map(layer),
    o: layer(names.o),
    qNorm: names.qNorm === undefined ? undefined : normOf(at + names.qNorm, dense),
    kNorm: names.kNorm === undefined ? undefined : normOf(at + names.kNorm, dense),
    router: names.router === undefined ? undefined : layer(names.router),
    mlp: names.experts === undefined
      ? [feedForward("")]
      : Array.from({ length: c.num_local_experts }, (_, e) => feedForward(`${names.experts}.${e}.`)),
  };
}

/** A norm by its module's path. */
export function normOf(module: string, dense: ReadonlyMap<string, Tensor>): Norm {
  return { weight: dense.get(`${module}.weight`)!, bias: dense.get(`${module}.bias`) };
}

const NORMS: Record<Family["norm"], (x: Tensor, n: Norm, eps: number) => Tensor> = {
  rms: (x, n, eps) => rmsNorm(x, n.weight, eps),
  rmsPlusOne: (x, n, eps) => rmsNorm(x, n.weight, eps, 1),
  layer: (x, n, eps) => layerNorm(x, n.weight, n.bias, eps),
};

/** The family's norm over the last axis. */
export function applyNorm(c: ModelConfig, x: Tensor, n: Norm): Tensor {
  return NORMS[c.family.norm](x, n, c.norm_eps);
}

/** Pre-norm block: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`. `x` is `[rows, C]`. */
export function blockForward(c: ModelConfig, block: Block, i: number, x: Tensor, pass: Pass): Tensor {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = c;
  const { context, positions, table } = pass;
  const { names } = c.family;
  const seen = (name: string, t: Tensor) => {
    context.watch?.(`${names.layers}.${i}${name && `.${name}`}`, t);
    return t;
  };
  const n = seen(names.inputNorm, applyNorm(c, x, block.inputNorm));
  let [q, k, v] = project(block.qkv, n, qkvWidths(c), context) as [Tensor, Tensor, Tensor]; // (rows, H*D)
  if (block.qNorm) q = headNorm(c, q, block.qNorm);
  if (block.kNorm) k = headNorm(c, k, block.kNorm);
  if (table && c.layers[i]!.rope) {
    q = spend(q, (t) => rope(t, positions, table, heads, headDim));
    k = spend(k, (t) => rope(t, positions, table, kvHeads, headDim));
  }
  const h = spend(applyLinear(block.o, pass.attend(i, q, k, v), context), (t) => add(x, t));
  const m = seen(names.postNorm, applyNorm(c, h, block.postNorm));
  if (!block.router) {
    const unread = recomputing();
    const y = spend(feedForward(c, block.mlp[0]!, m, context, unread), (t) => add(h, t));
    return unread ? y : seen("", y);
  }
  const branches = block.mlp.map((f) => () => feedForward(c, f, m, context));
  const scores = applyLinear(block.router, m, context); // (rows, experts)
  return seen("", add(h, mixture(pass.balance?.apply(i, scores) ?? scores, c.num_experts_per_tok, branches)));
}

/** `use(t)`, after which t's bytes are free: for results that no backward reads, its own included. */
function spend(t: Tensor, use: (t: Tensor) => Tensor): Tensor {
  const y = use(t);
  t.dispose();
  return y;
}

function feedForward(
  c: ModelConfig,
  f: FeedForward,
  x: Tensor,
  context: ForwardContext,
  unread = false,
): Tensor {
  const [a, up] = project(f.in, x, mlpWidths(c), context) as [Tensor, Tensor?]; // (rows, I)
  const inner = up ? gated(c.hidden_act, a, up) : activation(c.hidden_act, a);
  return applyLinear(f.out, inner, unread ? { ...context, unread } : context);
}

/** Projections of one input: a layer for each, or one fused layer whose columns are cut into `widths`. */
function project(
  layers: readonly LinearLayer[],
  x: Tensor,
  widths: readonly number[],
  context: ForwardContext,
): readonly Tensor[] {
  if (layers.length === widths.length) return layers.map((l) => applyLinear(l, x, context));
  return splitColumns(applyLinear(layers[0]!, x, context), widths);
}

function headNorm(c: ModelConfig, x: Tensor, n: Norm): Tensor {
  return reshape(applyNorm(c, reshape(x, [x.size / c.head_dim, c.head_dim]), n), x.shape);
}
