/**
 * The place of the largest number.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/argmax.wgsl" with { type: "text" };
import { empty, shapeError, type Tensor } from "../tensor.ts";

const kernel = defineKernel("argmax", source);

/**
 * Index of the largest element, of equal ones the first. Not recorded: it chooses tokens without a readback.
 *
 * @param x f32, any shape within one binding
 * @returns u32 `[1]`
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { tensor } from "../tensor.ts";
 * import { argmax } from "./argmax.ts";
 * await openGpu();
 * if ((await argmax(tensor([1, 3, 2, 3], [4])).data())[0] !== 1) throw new Error("the first 3");
 * ```
 */
export function argmax(x: Tensor): Tensor {
  if (x.dtype !== "f32" || x.size === 0) throw shapeError("argmax", `${x.dtype} [${x.shape}]`);
  const index = empty([1], "u32");
  gpu().kernels.launch(kernel, {
    params: { n: x.size },
    bind: { x: x.range, index: index.range },
    groups: [1],
  });
  return index;
}
