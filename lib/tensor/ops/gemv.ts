/**
 * A few rows times a dense matrix, for generation: every weight is read once, by a kernel that does nothing else.
 * @module
 */
import { adapterKind, defineKernel, gpu, type GpuTexture } from "../../gpu/mod.ts";
import source from "../../../wgsl/gemv.wgsl" with { type: "text" };
import textureSource from "../../../wgsl/gemv_texture.wgsl" with { type: "text" };
import texel from "../../../wgsl/shared/texel.wgsl" with { type: "text" };
import { grid1d } from "../grid.ts";
import type { Piece } from "./matmul_kernel.ts";
import { heldTexture, vectorLanes } from "./matmul_texture.ts";
import type { StorageKind } from "./storage.ts";

const kernel = defineKernel("gemv", source);
const textureKernel = defineKernel("gemv_texture", textureSource, texel);

/** Most rows of x for these kernels. */
export const GEMV_ROWS = 4;

/** How a launch shares out the weight's rows, here and in `quant/gemv.ts`. */
export interface GemvTiling {
  /** Invocations that share a row of the weight: 1, 2, 4 ... `size`. */
  lanes: number;
  /** Rows of the weight an invocation takes: what it reads of `x` serves all of them. */
  rows: number;
  /** Invocations a workgroup: 8 to 256. */
  size: number;
}

/** On processors every lane's access counts by itself (measured on llvmpipe); on GPUs neighbours should read neighbours. */
export function gemvTiling(): GemvTiling {
  return adapterKind(gpu()) === "gpu" ? { lanes: 16, rows: 4, size: 64 } : { lanes: 1, rows: 8, size: 8 };
}

/** Whether a product is one for these kernels: x wᵀ with few rows. */
export function isGemv({ layout, M }: Pick<Piece, "layout" | "M">): boolean {
  return layout === "nt" && M <= GEMV_ROWS;
}

/** Elements of w in 16 bytes. */
const quadOf = (wKind: StorageKind) => wKind === 0 ? 4 : 8;

/** Whether rows of w are whole quads of 16 bytes, as these kernels load them. */
export function fitsQuads({ K, wKind }: Pick<Piece, "K" | "wKind">): boolean {
  return K % quadOf(wKind) === 0;
}

/** Launches a product from buffers. */
export function launchGemv(piece: Piece, { lanes, rows, size }: GemvTiling = gemvTiling()): void {
  const { M, N, K, wKind, x, w, y, y0, ldy, alpha, accumulate } = piece;
  const { groups } = grid1d(Math.ceil(N / (size / lanes * rows)), 1);
  gpu().kernels.launch(kernel, {
    consts: { W_KIND: wKind, SIZE: size, M, LANES: lanes, ROWS: rows },
    params: {
      ...{ quads: K / quadOf(wKind), n: N, row: groups[0], y0, ldy, alpha },
      accumulate: Number(accumulate),
    },
    bind: { x, w, y },
    groups,
  });
}

/**
 * Launches a product on llvmpipe, w through a texture (see `matmul_texture.ts`). Reading w where it lies would save the
 * copy, a fifth of the time, and take ten times as long: storage buffers are loaded lane by lane there.
 */
export function launchGemvTexture(piece: Piece, x: GpuTexture): void {
  const { M, N, K, wKind, y, y0, ldy, alpha, accumulate } = piece;
  const lanes = vectorLanes(gpu());
  const quads = N >= 64 * lanes ? 2 : 1;
  heldTexture(piece.w, "rgba32uint", (w) =>
    gpu().kernels.launch(textureKernel, {
      consts: {
        ...{ W_KIND: wKind, HALVES: wKind === 0 ? 1 : 2, ACCUMULATE: accumulate },
        ...{ M, LANES: lanes, QUADS: quads },
      },
      params: { N, texels: K / quadOf(wKind), y0: y0 / 4, ldy: ldy / 4, alpha },
      bind: { x, w, y },
      groups: [Math.ceil(N / (4 * lanes * quads))],
    }));
}
