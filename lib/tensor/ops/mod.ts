/**
 * Operations on tensors, each with its gradient: what a layer of one's own is written with.
 *
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { tensor } from "../tensor.ts";
 * import { matmul, sum } from "./mod.ts";
 * await openGpu();
 * const x = tensor([1, 2, 3, 4], [2, 2]), w = tensor([1, 0, 0, 1], [2, 2]);
 * const [total] = await sum(matmul(x, w)).data();
 * if (total !== 10) throw new Error(`1 + 2 + 3 + 4 is not ${total}`);
 * ```
 * @module
 */
export { layerNorm } from "./layer_norm.ts";
export { linear, matmul } from "./linear.ts";
export {
  type Activation,
  activation,
  add,
  exp,
  gated,
  gelu,
  geluTanh,
  log,
  mul,
  relu,
  reshape,
  scale,
  silu,
  softcap,
  square,
  sub,
} from "./pointwise.ts";
export { mean, rowSum, sum } from "./reduce.ts";
export { rmsNorm } from "./rms_norm.ts";
export { softmax } from "./softmax.ts";
