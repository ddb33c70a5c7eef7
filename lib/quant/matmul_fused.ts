/**
 * Launches of the products that decode a 4-bit weight as they load it.
 * @module
 */
import { defineKernel, gpu, type GpuTexture } from "../gpu/mod.ts";
import { rowRanges } from "../tensor/grid.ts";
import type { LowRank } from "../tensor/ops/matmul_kernel.ts";
import { TEXTURE_BYTES, textureTile, toTexture } from "../tensor/ops/matmul_texture.ts";
import { lowRankLaunch } from "../tensor/ops/matmul_tile.ts";
import type { Tensor } from "../tensor/tensor.ts";
import texture from "../../wgsl/matmul_4bit_texture.wgsl" with { type: "text" };
import tile from "../../wgsl/matmul_4bit_tile.wgsl" with { type: "text" };
import nf4 from "../../wgsl/shared/nf4.wgsl" with { type: "text" };
import scales from "../../wgsl/shared/scales_4bit.wgsl" with { type: "text" };
import texel from "../../wgsl/shared/texel.wgsl" with { type: "text" };
import pcg from "../../wgsl/shared/pcg.wgsl" with { type: "text" };
import quadTile from "../../wgsl/shared/quad_tile.wgsl" with { type: "text" };
import type { QuantizedMatmul } from "./matmul.ts";
import {
  absmaxOf,
  groupOf,
  type QuantizedTensor,
  scaleBindings,
  span,
  valueConstants,
} from "./quantized_tensor.ts";

const textureKernel = defineKernel("matmul_4bit_texture", texture, nf4, scales, texel);
const tileKernel = defineKernel("matmul_4bit_tile", tile, quadTile, nf4, scales, pcg);

/** Workgroups and what an invocation computes, for tiles of y of these rows by columns. */
const TILES = {
  tile16x64: { SX: 16, SY: 4, RM: 4, RN: 4 },
  tile32: { SX: 8, SY: 8, RM: 4, RN: 4 },
  tile64: { SX: 8, SY: 8, RM: 8, RN: 8 },
} as const;

/** A tile of `wgsl/matmul_4bit_tile.wgsl`. */
export type TileName = keyof typeof TILES;

/** Whether a kernel takes along a low rank: the tiles do, one of whole quads. */
export function fusedTakesLow(kernel: FusedKernel, rank: number): boolean {
  return kernel !== "texture" && rank % 4 === 0;
}

/** A kernel that decodes what it loads. */
export type FusedKernel = TileName | "texture";

/** Lanes of the vectors that `wgsl/matmul_4bit_texture.wgsl` is written for. */
const LANES = 8;

/** Whether rows of a weight and of what it is multiplied with begin on quads, as the tiles read them. */
export function fitsQuadRows({ rows, columns }: QuantizedTensor): boolean {
  return rows % 4 === 0 && columns % 4 === 0;
}

/** Whether `wgsl/matmul_4bit_texture.wgsl` takes a weight: see its header. */
export function fitsVectorLanes(
  layout: QuantizedMatmul["layout"],
  { rows, columns, blocksize }: Pick<QuantizedTensor, "rows" | "columns" | "blocksize">,
  lanes: number,
): boolean {
  if (lanes !== LANES) return false;
  return layout === "nt"
    ? rows % 4 === 0 && columns % 8 === 0
    : rows % 8 === 0 && columns % 64 === 0 && blocksize % 64 === 0;
}

/** A part of a product whose operands fit one binding each, or one texture: rows `[begin, end)` of q, `[m0, m1)` of x. */
interface Part extends Omit<QuantizedMatmul, "low"> {
  begin: number;
  end: number;
  m0: number;
  m1: number;
  alpha: number;
  accumulate: boolean;
  low: LowRank | undefined;
}

/** A product by one of the kernels, which has to fit it. */
export function multiplyFused(options: QuantizedMatmul, kernel: FusedKernel): void {
  if (kernel !== "texture") {
    for (const part of parts(options, Infinity)) launchTile(part, kernel);
    return;
  }
  // parts that share rows of x follow each other, and so its texture
  let held: { m0: number; x: GpuTexture } | undefined;
  for (const part of parts(options, TEXTURE_BYTES)) {
    if (held?.m0 !== part.m0) {
      if (held) gpu().pool.release(held.x);
      held = { m0: part.m0, x: toTexture(part.x.rowRange(part.m0, part.m1), "rgba32float") };
    }
    launchTexture(part, held.x);
  }
  if (held) gpu().pool.release(held.x);
}

/** @param limit bytes of an operand that a part may have, where it is less than a binding's */
function* parts(options: QuantizedMatmul, limit: number): Generator<Part> {
  const { layout, x, q, y, alpha = 1, accumulate = false, low } = options;
  // rowRanges fits rows to a binding: operands with a lower limit count as so much wider
  const wider = Math.max(1, gpu().maxBinding / limit);
  const rowOf = (t: Tensor) => 4 * t.columns;
  for (const [m0, m1] of rowRanges(x.rows, [rowOf(x) * wider, rowOf(y) * (accumulate ? wider : 1)])) {
    for (const [begin, end] of rowRanges(q.rows, [q.columns / 2 * wider])) {
      const later = layout === "nn" && begin > 0;
      yield {
        ...options,
        m0,
        m1,
        begin,
        end,
        alpha,
        accumulate: accumulate || later,
        low: later ? undefined : low,
      };
    }
  }
}

/** What both kernels are told. */
function launchOf(part: Part) {
  const { layout, x, q, y, m0, m1, begin, end, alpha } = part;
  const words = span(q.packed, begin * q.columns / 2, Math.ceil(end * q.columns / 8) * 4);
  const absmax = absmaxOf(part), some = end - begin;
  const [N, K] = layout === "nt" ? [some, q.columns] : [q.columns, some];
  // the rows of q are columns of y, or of x
  const [y0, x0] = layout === "nt" ? [begin, 0] : [0, begin];
  return {
    words,
    consts: { BLOCK: q.blocksize, NESTED: q.nested !== undefined, ...valueConstants(q.codeBook) },
    params: {
      ...{ M: m1 - m0, N, K, x0: x0 / 4, ldx: x.columns / 4, w0: begin, alpha },
      first_scale: absmax.first,
    },
    bind: { absmax: absmax.range, ...scaleBindings(q), y: y.rowRange(m0, m1) },
    ...{ y0, ldy: y.columns },
  };
}

function launchTile(part: Part, name: TileName): void {
  const { layout, x, q, y, m0, m1, begin, end, alpha, accumulate, low } = part;
  const { words, consts, params, bind, y0, ldy } = launchOf(part);
  const { SX, SY, RM, RN } = TILES[name];
  const xRange = x.rowRange(m0, m1), rank = low?.x.columns ?? 0;
  const taken = lowRankLaunch(
    low && {
      ...{ x: low.x.rowRange(m0, m1), w: layout === "nt" ? low.w.rowRange(begin, end) : low.w.range },
      ...{ rank, alpha: low.alpha, drop: low.drop && { ...low.drop, first: m0 * y.columns } },
    },
    alpha,
    xRange,
  );
  gpu().kernels.launch(tileKernel, {
    consts: { ...consts, ...taken.consts, W_ALONG_K: layout === "nt", SX, SY, RM, RN },
    params: {
      ...params,
      ...{ ldw: q.columns, y0: y0 / 4, ldy: ldy / 4, first_word: words.first },
      accumulate: Number(accumulate),
      ...{ ...taken.params, low_ldw: (layout === "nt" ? rank : params.N) / 4 },
    },
    bind: { ...bind, ...taken.bind, words: words.range, x: xRange },
    groups: [Math.ceil(params.N / (RN * SX)), Math.ceil(params.M / (RM * SY))],
  });
}

function launchTexture(part: Part, x: GpuTexture): void {
  const { layout, q, y, m0, m1, accumulate } = part;
  const { words, consts, params, bind, y0, ldy } = launchOf(part);
  const { pool, kernels } = gpu();
  const w = toTexture(words.range, "r32uint");
  const before = accumulate ? toTexture(y.rowRange(m0, m1), "rgba32float") : undefined;
  const tile = textureTile(params.M, LANES, true);
  kernels.launch(textureKernel, {
    entry: layout,
    consts: { ...consts, TM: tile, ACCUMULATE: accumulate, GROUP: groupOf(q, 8, [512, 64, 8, 4, 2, 1]) },
    params: { ...params, ldw: q.columns / 8, y0, ldy, first: words.first },
    // bound in any case, read only to add to
    bind: { ...bind, x, w, before: before ?? x },
    groups: [Math.ceil(params.N / (8 * LANES)), Math.ceil(params.M / tile)],
  });
  pool.release(w);
  if (before) pool.release(before);
}
