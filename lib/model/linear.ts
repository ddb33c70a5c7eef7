/**
 * A linear layer of the model: a dense or a quantized weight, and perhaps an adapter around it.
 * @module
 */
import { dequantizeRows, gemvFits, gemvQuantized, QuantizedTensor } from "../quant/mod.ts";
import { putColumns, takeColumns } from "../tensor/ops/columns.ts";
import { addBias, biasGradient, linear, product } from "../tensor/ops/linear.ts";
import { matmulInto } from "../tensor/ops/matmul_kernel.ts";
import { record } from "../tensor/tape.ts";
import { empty, scope, type Tensor, zeros } from "../tensor/tensor.ts";

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

/** `x Wᵀ + bias`, not recorded. */
export function baseForward(weight: Tensor | QuantizedTensor, x: Tensor, bias?: Tensor): Tensor {
  return addBias(times(weight, x), bias);
}

function times(weight: Tensor | QuantizedTensor, x: Tensor): Tensor {
  if (!(weight instanceof QuantizedTensor)) return product("nt", x, weight);
  if (gemvFits(x.rows, weight)) return gemvQuantized(x, weight);
  const [n] = weight.shape;
  const y = empty([x.rows, n]);
  decoded(weight, (w, from, to) => {
    if (to - from === n) matmulInto({ layout: "nt", x, w, y });
    else putColumns(y, from, product("nt", x, w));
  });
  return y;
}

/** `dy W`, added to `onto` where that is given, and that again; not recorded. */
export function baseBackward(weight: Tensor | QuantizedTensor, dy: Tensor, onto?: Tensor): Tensor {
  const [n, k] = weight.shape as [number, number];
  const whole = !(weight instanceof QuantizedTensor) || n * k <= SCRATCH;
  const dx = onto ?? (whole ? empty([dy.rows, k]) : zeros([dy.rows, k]));
  const accumulate = onto !== undefined || !whole;
  if (!(weight instanceof QuantizedTensor)) {
    matmulInto({ layout: "nn", x: dy, w: weight, y: dx, accumulate });
    return dx;
  }
  decoded(weight, (w, from, to) => {
    const part = whole ? dy : takeColumns(dy, from, to - from);
    matmulInto({ layout: "nn", x: part, w, y: dx, accumulate });
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
