/**
 * A few vectors times a 4-bit weight, for generation: the weight is read in its 4 bits and never written out.
 * @module
 */
import { defineKernel, gpu } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import { empty, shapeError, type Tensor } from "../tensor/tensor.ts";
import source from "../../wgsl/gemv_4bit.wgsl" with { type: "text" };
import {
  onProcessor,
  type QuantizedTensor,
  scaleBindings,
  span,
  valueConstants,
} from "./quantized_tensor.ts";

const kernel = defineKernel("gemv_4bit", source);

/** Most rows of `x` that {@link gemvQuantized} takes. */
export const GEMV_MAX_ROWS = 4;

/** Whether {@link gemvQuantized} takes these shapes; else dequantize and multiply. */
export function gemvFits(rows: number, q: QuantizedTensor): boolean {
  return rows >= 1 && rows <= GEMV_MAX_ROWS && q.columns % 8 === 0;
}

/** How a launch shares out the weight's rows. */
export interface GemvTiling {
  /** Invocations that share a row of the weight: 1, 2, 4 ... `size`. */
  lanes: number;
  /** Rows of the weight an invocation takes: what it reads of `x` serves all of them. */
  rows: number;
  /** Invocations a workgroup: 8 to 256. */
  size: number;
}

/** On processors memory accesses count, whoever makes them (measured on llvmpipe); on GPUs neighbours share. */
export function gemvTiling(): GemvTiling {
  return onProcessor() ? { lanes: 1, rows: 8, size: 8 } : { lanes: 16, rows: 2, size: 64 };
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
  tiling: GemvTiling = gemvTiling(),
): Tensor {
  const { lanes, rows, size } = tiling;
  const k = q.columns, n = q.rows, m = x.rows;
  if (x.columns !== k || x.dtype !== "f32" || !gemvFits(m, q)) {
    throw shapeError("gemvQuantized", `${x.dtype} [${x.shape}] by [${q.shape}]`);
  }
  const y = empty([...x.shape.slice(0, -1), n]);
  const { nested } = q;
  // words of one group lie in one block and one row
  const group = [8, 4, 2, 1].find((g) => k % (8 * g) === 0 && q.blocksize % (8 * g) === 0)!;
  const consts = {
    BLOCK: q.blocksize,
    NESTED: nested !== undefined,
    M: m,
    LANES: lanes,
    ROWS: rows,
    SIZE: size,
    GROUP: group,
    ...valueConstants(q.codeBook),
  };
  const perGroup = size / lanes * rows;
  const step = Math.max(1, Math.floor((gpu().maxBinding - 256) / (k / 2)));
  for (let from = 0; from < n; from += step) {
    const to = Math.min(n, from + step);
    const words = span(q.packed, from * k / 2, to * k / 2);
    const blocks = [Math.floor(from * k / q.blocksize), Math.ceil(to * k / q.blocksize)] as const;
    const absmax = nested
      ? span(q.absmax, blocks[0], Math.ceil(blocks[1] / 4) * 4)
      : span(q.absmax, 4 * blocks[0], 4 * blocks[1]);
    const { groups } = grid1d(Math.ceil((to - from) / perGroup), 1);
    gpu().kernels.launch(kernel, {
      entry: "gemv",
      consts,
      params: {
        k,
        n,
        begin: from,
        end: to,
        first_word: words.first,
        first_scale: absmax.first,
        row: groups[0],
      },
      bind: {
        words: words.range,
        absmax: absmax.range,
        ...scaleBindings(q),
        x: x.range,
        y: y.range,
      },
      groups,
    });
  }
  return y;
}
