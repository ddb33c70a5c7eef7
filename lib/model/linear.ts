/**
 * A linear layer of the model: a dense or a quantized weight, and perhaps an adapter around it.
 * @module
 */
import {
  gemvFits,
  gemvQuantized,
  type LowRankWeights,
  matmulQuantized,
  QuantizedTensor,
} from "../quant/mod.ts";
import { addBias, biasGradient, linear, product, productInto } from "../tensor/ops/linear.ts";
import { type LowRank, matmulInto } from "../tensor/ops/matmul_kernel.ts";
import { record } from "../tensor/tape.ts";
import { empty, type Tensor } from "../tensor/tensor.ts";

/** Is shown the output of every module of a forward pass, in order: to look for NaN. */
export type Watch = (module: string, output: Tensor) => void;

/** What a forward pass carries beside the activations. */
export interface ForwardContext {
  /** Present while training with dropout: differs in every step. */
  dropoutSeed: number | undefined;
  /** Nobody reads the values of the layer's result, only its gradients are wanted; see `recomputing` of the tape. */
  unread?: boolean;
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
  /**
   * Installed with an adapter that only adds a product through a low rank to the base's: which one that is now, undefined
   * for the base alone.
   */
  low?: (() => LowRankWeights | undefined) | undefined;
}

/** `y = x Wᵀ + bias`, through the adapter where there is one. */
export function applyLinear(layer: LinearLayer, x: Tensor, context: ForwardContext): Tensor {
  const y = layer.adapter ? layer.adapter(x, context) : baseLinear(layer, x, context.unread);
  if (!context.unread) context.watch?.(layer.module, y);
  return y;
}

/**
 * `y = x Wᵀ + bias` of the base alone. A quantized weight has no gradient: only `dx = dy W` is computed, from the same
 * four bits decoded again (Dettmers et al. 2023, arXiv 2305.14314, section 3).
 */
export function baseLinear(layer: LinearLayer, x: Tensor, unread = false): Tensor {
  const { weight, bias } = layer;
  if (!(weight instanceof QuantizedTensor)) return linear(x, weight, bias, unread);
  return record(
    "quantizedLinear",
    unread ? empty([x.rows, weight.rows]) : baseForward(weight, x, bias),
    [x, bias],
    (dy) => [x.requiresGrad ? baseBackward(weight, dy) : undefined, biasGradient(bias, dy)],
    false,
  );
}

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
  const y = empty([x.rows, weight.rows]);
  matmulQuantized({ layout: "nt", x, q: weight, y, ...(low && { low }) });
  return y;
}

/** `dy W`, and a product of a low rank with it; not recorded. */
export function baseBackward(weight: Tensor | QuantizedTensor, dy: Tensor, low?: LowRank): Tensor {
  const dx = empty([dy.rows, weight.columns]);
  const operands = { layout: "nn", x: dy, y: dx, ...(low && { low }) } as const;
  if (weight instanceof QuantizedTensor) matmulQuantized({ ...operands, q: weight });
  else matmulInto({ ...operands, w: weight });
  return dx;
}
