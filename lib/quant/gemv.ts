/**
 * A few vectors times a 4-bit weight, for generation: the weight is read in its 4 bits and never written out.
 * @module
 */
import { adapterKind, defineKernel, gpu } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import type { GemvTiling } from "../tensor/ops/gemv.ts";
import { TEXTURE_BYTES, vectorLanes } from "../tensor/ops/matmul_texture.ts";
import { empty, shapeError, type Tensor } from "../tensor/tensor.ts";
import source from "../../wgsl/gemv_4bit.wgsl" with { type: "text" };
import nf4 from "../../wgsl/shared/nf4.wgsl" with { type: "text" };
import scales from "../../wgsl/shared/scales_4bit.wgsl" with { type: "text" };
import { launchTexture } from "./gemv_texture.ts";
import {
  absmaxOf,
  groupOf,
  type QuantizedTensor,
  scaleBindings,
  span,
  valueConstants,
} from "./quantized_tensor.ts";

const kernel = defineKernel("gemv_4bit", source, nf4, scales);

/** Most rows of `x` that {@link gemvQuantized} takes. */
export const GEMV_MAX_ROWS = 4;

/** Whether {@link gemvQuantized} takes these shapes; else dequantize and multiply. */
export function gemvFits(rows: number, q: QuantizedTensor): boolean {
  return rows >= 1 && rows <= GEMV_MAX_ROWS && q.columns % 8 === 0;
}

/**
 * On llvmpipe the codes go through a texture, where rows fill its texels and the copy is worth while: 3 times as fast as
 * from the buffer at the shapes of SmolLM2-135M. On processors memory accesses count, whoever makes them; on GPUs
 * neighbours share.
 */
export function gemvTiling(q: QuantizedTensor): GemvTiling | "texture" {
  if (vectorLanes(gpu()) > 0 && q.columns % 32 === 0 && q.size >= 2 ** 14) return "texture";
  return adapterKind(gpu()) !== "gpu" ? { lanes: 1, rows: 8, size: 8 } : { lanes: 16, rows: 2, size: 64 };
}

/** Rows of `q` that one launch takes. */
export interface Part {
  x: Tensor;
  q: QuantizedTensor;
  y: Tensor;
  begin: number;
  end: number;
  consts: Record<string, number | boolean>;
}

/**
 * `y[m, n] = sum over k of x[m, k] w[n, k]`, for 1 to 4 rows of `x`. Not recorded: it serves generation.
 *
 * @param x f32 `[..., K]`, at most {@link GEMV_MAX_ROWS} rows
 * @param q `[N, K]`, K a multiple of 8
 * @returns f32 `[..., N]`
 */
export function gemvQuantized(
  x: Tensor,
  q: QuantizedTensor,
  tiling: GemvTiling | "texture" = gemvTiling(q),
): Tensor {
  const k = q.columns, n = q.rows, m = x.rows;
  if (x.columns !== k || x.dtype !== "f32" || !gemvFits(m, q)) {
    throw shapeError("gemvQuantized", `${x.dtype} [${x.shape}] by [${q.shape}]`);
  }
  const y = empty([...x.shape.slice(0, -1), n]);
  const consts = {
    ...{ BLOCK: q.blocksize, M: m },
    ...valueConstants(q.codeBook),
  };
  const limit = tiling === "texture" ? Math.min(TEXTURE_BYTES, gpu().maxBinding) : gpu().maxBinding;
  const step = Math.max(1, Math.floor((limit - 256) / (k / 2)));
  for (let begin = 0; begin < n; begin += step) {
    const part = { x, q, y, begin, end: Math.min(n, begin + step), consts };
    if (tiling === "texture") launchTexture(part);
    else launchBuffer(part, tiling);
  }
  return y;
}

function launchBuffer(part: Part, { lanes, rows, size }: GemvTiling): void {
  const { x, q, y, begin, end, consts } = part;
  const words = span(q.packed, begin * q.columns / 2, end * q.columns / 2), absmax = absmaxOf(part);
  const { groups } = grid1d(Math.ceil((end - begin) / (size / lanes * rows)), 1);
  gpu().kernels.launch(kernel, {
    entry: "gemv",
    consts: {
      ...{ ...consts, NESTED: q.nested !== undefined, LANES: lanes, ROWS: rows, SIZE: size },
      GROUP: groupOf(q, 8, [8, 4, 2, 1]),
    },
    params: {
      ...{ k: q.columns, n: q.rows, begin, end, row: groups[0] },
      ...{ first_word: words.first, first_scale: absmax.first },
    },
    bind: { words: words.range, absmax: absmax.range, ...scaleBindings(q), x: x.range, y: y.range },
    groups,
  });
}
