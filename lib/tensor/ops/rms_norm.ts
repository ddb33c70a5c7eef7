/**
 * Root mean square layer normalisation.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import textureSource from "../../../wgsl/rms_norm_texture.wgsl" with { type: "text" };
import texel from "../../../wgsl/shared/texel.wgsl" with { type: "text" };
import source from "../../../wgsl/rms_norm.wgsl" with { type: "text" };
import { grid1d, rowLanes } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";
import { launchOnTextures, vectorLanes } from "./matmul_texture.ts";
import { columnSum } from "./reduce.ts";

const kernel = defineKernel("rms_norm", source);
const textureKernel = defineKernel("rms_norm_texture", textureSource, texel);

/**
 * `y = x / sqrt(mean(x^2) + eps) * w` over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).
 *
 * @param x `[..., C]`
 * @param w `[C]`
 * @param plus added to w; 1 for Gemma, which stores the distance from 1 (arXiv 2403.08295, section 2)
 */
export function rmsNorm(x: Tensor, w: Tensor, eps: number, plus = 0): Tensor {
  if (w.size !== x.columns) throw shapeError("rmsNorm", `x [${x.shape}], w [${w.shape}]`);
  const { rows, columns } = x;
  const y = empty(x.shape);
  const r = empty([rows]);
  const { groups } = grid1d(rows, 64);
  const slice = Math.ceil(rows / Math.min(64, Math.ceil(rows / 32)));
  const width = columns % 4 === 0 ? 4 : 1;
  const params = { rows, columns: columns / width, length: columns, row: groups[0], slice, eps, plus };
  const texture = (entry: string, read: Record<string, Tensor>, bind: Record<string, Tensor>) =>
    width === 4 && launchOnTextures(textureKernel, read, {
      entry,
      ...{ params, consts: { LANES: vectorLanes(gpu()) }, groups },
      bind: Object.fromEntries(Object.entries(bind).map(([name, t]) => [name, t.range])),
    });
  const launch = (entry: string, bind: Record<string, Tensor>, over: [number, number] = groups) =>
    gpu().kernels.launch(kernel, {
      entry,
      params,
      types: { V: width === 4 ? "vec4<f32>" : "f32" },
      ...(entry === "backward_w"
        ? {}
        : { consts: { LANES: rowLanes(2 * columns / width), REST: width === 4 ? 1 : 0 } }),
      bind: Object.fromEntries(Object.entries(bind).map(([name, t]) => [name, t.range])),
      groups: over,
    });
  if (!texture("forward", { x, w }, { y, r })) launch("forward", { x, w, y, r });
  return record("rmsNorm", y, [x, w], (dy) => {
    const dx = x.requiresGrad ? empty(x.shape) : undefined;
    if (dx && !texture("backward_x", { x, w, dy }, { r, dx })) launch("backward_x", { x, w, r, dy, dx });
    if (!w.requiresGrad) return [dx, undefined];
    const slices = empty([Math.ceil(rows / slice), columns]);
    launch("backward_w", { x, r, dy, dw: slices }, [Math.ceil(columns / width / 64), slices.rows]);
    return [dx, columnSum(slices)];
  }, false);
}
