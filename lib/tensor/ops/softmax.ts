/**
 * Softmax over the last axis.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/softmax.wgsl" with { type: "text" };
import { grid1d, rowLanes } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, type Tensor } from "../tensor.ts";

const kernel = defineKernel("softmax", source);

/**
 * `y_c = e^(x_c) / sum over k of e^(x_k)` along the last axis, finite for any finite row.
 *
 * @param x `[..., C]`
 * @returns `[..., C]`, each row adding up to 1
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { tensor } from "../tensor.ts";
 * import { softmax } from "./softmax.ts";
 * await openGpu();
 * const y = await softmax(tensor([1000, 1000, -1000], [1, 3])).data();
 * if (`${y}` !== "0.5,0.5,0") throw new Error("two equal ones share");
 * ```
 */
export function softmax(x: Tensor): Tensor {
  const { rows, columns } = x;
  const { groups } = grid1d(rows, 1);
  const launch = (entry: string, bind: Record<string, Tensor>) =>
    gpu().kernels.launch(kernel, {
      entry,
      consts: { LANES: rowLanes(3 * columns) },
      params: { rows, columns, row: groups[0] },
      bind: Object.fromEntries(Object.entries(bind).map(([name, t]) => [name, t.range])),
      groups,
    });
  const y = empty(x.shape);
  launch("forward", { x, y });
  return record("softmax", y, [x], (dy) => {
    const dx = empty(x.shape);
    launch("backward", { y, dy, dx });
    return [dx];
  });
}
