/**
 * A linear layer of the model: a dense or a quantized weight, and perhaps an adapter around it.
 * @module
 */
import { gemvFits, gemvQuantized, matmulQuantized, QuantizedTensor } from "../quant/mod.ts";
import { addBias, biasGradient, linear, product } from "../tensor/ops/linear.ts";
import { matmulInto } from "../tensor/ops/matmul_kernel.ts";
import { record } from "../tensor/tape.ts";
import { empty, type Tensor } from "../tensor/tensor.ts";

/** What a forward pass carries beside the activations. */
export interface ForwardContext {
  /** Present while training with dropout: differs in every step. */
  dropoutSeed: number | undefined;
  /** What passes whose parameters stand still compute once (generation), by owner; the caller disposes the tensors. */
  constants?: Map<object, Record<string, Tensor>>;
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
  return layer.adapter ? layer.adapter(x, context) : baseLinear(layer, x);
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

/** `x Wᵀ + bias`, not recorded. */
export function baseForward(weight: Tensor | QuantizedTensor, x: Tensor, bias?: Tensor): Tensor {
  return addBias(times(weight, x), bias);
}

function times(weight: Tensor | QuantizedTensor, x: Tensor): Tensor {
  if (!(weight instanceof QuantizedTensor)) return product("nt", x, weight);
  if (gemvFits(x.rows, weight)) return gemvQuantized(x, weight);
  const y = empty([x.rows, weight.rows]);
  matmulQuantized({ layout: "nt", x, q: weight, y });
  return y;
}

/** `dy W`, added to `onto` where that is given, and that again; not recorded. */
export function baseBackward(weight: Tensor | QuantizedTensor, dy: Tensor, onto?: Tensor): Tensor {
  const dx = onto ?? empty([dy.rows, weight.columns]);
  const operands = { layout: "nn", x: dy, y: dx, accumulate: onto !== undefined } as const;
  if (weight instanceof QuantizedTensor) matmulQuantized({ ...operands, q: weight });
  else matmulInto({ ...operands, w: weight });
  return dx;
}
