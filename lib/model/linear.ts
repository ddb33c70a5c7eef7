/**
 * A linear layer of the model: a dense or a quantized weight, and perhaps an adapter around it.
 * @module
 */
import { dequantizeRows, gemvFits, gemvQuantized, QuantizedTensor } from "../quant/mod.ts";
import { putColumns, takeColumns } from "../tensor/ops/columns.ts";
import { addBias, biasGradient, linear, product, productInto } from "../tensor/ops/linear.ts";
import { type LowRank, matmulInto } from "../tensor/ops/matmul_kernel.ts";
import { record } from "../tensor/tape.ts";
import { empty, scope, type Tensor } from "../tensor/tensor.ts";

/** Is shown the output of every module of a forward pass, in order: to look for NaN. */
export type Watch = (module: string, output: Tensor) => void;

/** What a forward pass carries beside the activations. */
export interface ForwardContext {
  /** Present while training with dropout: differs in every step. */
  dropoutSeed: number | undefined;
  /** What passes whose parameters stand still compute once (generation), by owner; the caller disposes the tensors. */
  constants?: Map<object, Record<string, Tensor>>;
  watch?: Watch | undefined;
}

/** A linear layer. */
export interface LinearLayer {
  /** Module path, such as `model.layers.0.self_attn.q_proj`. */
  readonly module: string;
  /** `[out, in]`. */
  readonly shape: readonly [number, number];
  weight: Tensor | QuantizedTensor;
  /** `[out]`, f32; absent in most families. */
  bias?: Tensor | undefined;
  /** Files hold the weight `[in, out]` (Conv1D), PEFT's `fan_in_fan_out`. */
  readonly transposed?: boolean;
  /** Installed by LoRA: the layer's whole forward, base included. */
  adapter: ((x: Tensor, context: ForwardContext) => Tensor) | undefined;
}

/** `y = x Wᵀ + bias`, through the adapter where there is one. */
export function applyLinear(layer: LinearLayer, x: Tensor, context: ForwardContext): Tensor {
  const y = layer.adapter ? layer.adapter(x, context) : baseLinear(layer, x);
  context.watch?.(layer.module, y);
  return y;
}

/**
 * `y = x Wᵀ + bias` of the base alone. A quantized weight has no gradient: only `dx = dy W` is computed, from the same
 * four bits decoded again (Dettmers et al. 2023, arXiv 2305.14314, section 3).
 */
export function baseLinear(layer: LinearLayer, x: Tensor): Tensor {
  const { weight, bias } = layer;
  if (!(weight instanceof QuantizedTensor)) return linear(x, weight, bias);
  return record(
    "quantizedLinear",
    baseForward(weight, x, bias),
    [x, bias],
    (dy) => [x.requiresGrad ? baseBackward(weight, dy) : undefined, biasGradient(bias, dy)],
    false,
  );
}

/** Elements of weight decoded at a time: 16 MiB of f32, which is also what a texture takes. */
const SCRATCH = 4 * 2 ** 20;

/** `x Wᵀ + bias`, and a product of a low rank with it (an adapter's); not recorded. */
export function baseForward(
  weight: Tensor | QuantizedTensor,
  x: Tensor,
  bias?: Tensor,
  low?: LowRank,
): Tensor {
  return addBias(times(weight, x, low), bias);
}

function times(weight: Tensor | QuantizedTensor, x: Tensor, low: LowRank | undefined): Tensor {
  if (!(weight instanceof QuantizedTensor)) return product("nt", x, weight, low ? { low } : {});
  if (gemvFits(x.rows, weight)) {
    const y = gemvQuantized(x, weight);
    if (low) productInto("nt", low.x, low.w, y, { alpha: low.alpha });
    return y;
  }
  const [n] = weight.shape;
  const y = empty([x.rows, n]);
  decoded(weight, (w, from, to) => {
    const part = low ? { low: { ...low, w: low.w.slice(from, to) } } : {};
    if (to - from === n) matmulInto({ layout: "nt", x, w, y, ...part });
    else putColumns(y, from, product("nt", x, w, part));
    part.low?.w.dispose();
  });
  return y;
}

/** `dy W`, and a product of a low rank with it; not recorded. */
export function baseBackward(weight: Tensor | QuantizedTensor, dy: Tensor, low?: LowRank): Tensor {
  const [n, k] = weight.shape as [number, number];
  const dx = empty([dy.rows, k]);
  if (!(weight instanceof QuantizedTensor)) {
    matmulInto({ layout: "nn", x: dy, w: weight, y: dx, ...(low && { low }) });
    return dx;
  }
  decoded(weight, (w, from, to) => {
    const part = to - from === n ? dy : takeColumns(dy, from, to - from);
    matmulInto({ layout: "nn", x: part, w, y: dx, ...(from > 0 ? { accumulate: true } : low && { low }) });
  });
  return dx;
}

/** Decodes the weight range by range into one bounded scratch: never all of the base at once. */
function decoded(weight: QuantizedTensor, use: (w: Tensor, from: number, to: number) => void): void {
  const [n, k] = weight.shape as [number, number];
  const step = n * k <= SCRATCH ? n : Math.max(64, Math.floor(SCRATCH / k / 64) * 64);
  for (let from = 0; from < n; from += step) {
    scope(() => {
      const to = Math.min(n, from + step);
      const w = empty([to - from, k], "f32", "scratch");
      dequantizeRows(weight, from, to, w);
      use(w, from, to);
    });
  }
}
