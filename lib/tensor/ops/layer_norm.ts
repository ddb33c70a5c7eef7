/**
 * Layer normalisation, with or without a bias.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/layer_norm.wgsl" with { type: "text" };
import { grid1d, rowLanes } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";
import { columnSum } from "./reduce.ts";

const kernel = defineKernel("layer_norm", source);

/**
 * `y = (x - mean) / sqrt(variance + eps) * w + b` over the last axis (Ba et al. 2016, arXiv 1607.06450, eq. 4), the
 * variance over all C elements. A frozen weight or bias costs nothing in the backward pass.
 *
 * @param x `[..., C]`
 * @param w `[C]`
 * @param b `[C]`; undefined for norms without bias
 * @throws NibbleError `tensor/shape` when the sizes do not fit
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { tensor } from "../tensor.ts";
 * import { layerNorm } from "./layer_norm.ts";
 * await openGpu();
 * const ones = tensor([1, 1], [2]);
 * const y = await layerNorm(tensor([3, 5], [1, 2]), ones, undefined, 0).data();
 * if (Math.abs(y[0]! + 1) > 1e-6 || Math.abs(y[1]! - 1) > 1e-6) throw new Error("mean 4, deviation 1");
 * ```
 */
export function layerNorm(x: Tensor, w: Tensor, b: Tensor | undefined, eps: number): Tensor {
  if (w.size !== x.columns || (b && b.size !== x.columns)) {
    throw shapeError("layerNorm", `x [${x.shape}], w [${w.shape}]${b ? `, b [${b.shape}]` : ""}`);
  }
  const { rows, columns } = x;
  const y = empty(x.shape);
  const stats = empty([rows, 2]);
  const { groups } = grid1d(rows, 64);
  const slice = Math.ceil(rows / Math.min(64, Math.ceil(rows / 32)));
  const width = columns % 4 === 0 ? 4 : 1;
  const params = { rows, columns: columns / width, length: columns, row: groups[0], slice, eps };
  const lanes = { LANES: rowLanes(3 * columns / width), REST: width === 4 ? 1 : 0 };
  const launch = (
    entry: string,
    bind: Record<string, Tensor>,
    consts: Record<string, number | boolean> = lanes,
    over: [number, number] = groups,
  ) =>
    gpu().kernels.launch(kernel, {
      entry,
      params,
      types: { V: width === 4 ? "vec4<f32>" : "f32" },
      consts,
      bind: Object.fromEntries(Object.entries(bind).map(([name, t]) => [name, t.range])),
      groups: over,
    });
  launch("forward", { x, w, b: b ?? w, y, stats }, { ...lanes, BIAS: b !== undefined });
  return record("layerNorm", y, [x, w, b], (dy) => {
    const dx = x.requiresGrad ? empty(x.shape) : undefined;
    if (dx) launch("backward_x", { x, w, stats, dy, dx });
    if (!w.requiresGrad && !b?.requiresGrad) return [dx, undefined, undefined];
    const dw = empty([Math.ceil(rows / slice), columns]), db = empty(dw.shape);
    launch("backward_w", { x, stats, dy, dw, db }, {}, [Math.ceil(columns / width / 64), dw.rows]);
    return [
      dx,
      w.requiresGrad ? columnSum(dw) : undefined,
      b?.requiresGrad ? columnSum(db) : undefined,
    ];
  });
}
