/**
 * Softmax over the largest elements of each row: the gate of a mixture of experts.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/top_softmax.wgsl" with { type: "text" };
import { checkRounds, grid1d } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";

const kernel = defineKernel("top_softmax", source);

/**
 * `y_c = e^(x_c) / sum over the k largest of e^(x_j)` for the `k` largest elements of a row, 0 for the others: the
 * same as a softmax over all, cut to the `k` largest and divided by their sum (Jiang et al. 2024, arXiv 2401.04088,
 * section 2.1). Of equal elements the first counts as larger. The choice itself has no gradient.
 *
 * @param x `[rows, C]`, for small C: one invocation walks a row
 * @throws NibbleError `tensor/shape` when `k` is not from 1 to C
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { tensor } from "../tensor.ts";
 * import { topSoftmax } from "./top_softmax.ts";
 * await openGpu();
 * const y = await topSoftmax(tensor([1, -3, 1, 0], [1, 4]), 2).data();
 * if (`${y}` !== "0.5,0,0.5,0") throw new Error("the two largest share");
 * ```
 */
export function topSoftmax(x: Tensor, k: number): Tensor {
  const { rows, columns } = x;
  checkRounds("topSoftmax", columns * (columns + 3)); // each expert is compared with each
  if (!(Number.isInteger(k) && k >= 1 && k <= columns)) {
    throw shapeError("topSoftmax", `${k} of x [${x.shape}]`);
  }
  const { groups, row } = grid1d(Math.ceil(rows / 64), 64);
  const launch = (entry: string, bind: Record<string, Tensor>) =>
    gpu().kernels.launch(kernel, {
      entry,
      params: { rows, columns, k, row },
      bind: Object.fromEntries(Object.entries(bind).map(([name, t]) => [name, t.range])),
      groups,
    });
  const y = empty(x.shape);
  launch("forward", { x, y });
  return record("topSoftmax", y, [x], (dy) => {
    const dx = empty(x.shape);
    launch("backward", { y, dy, dx });
    return [dx];
  });
}
