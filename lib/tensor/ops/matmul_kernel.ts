/**
 * Matrix products on the device, in the three layouts that a linear layer needs: no recording, no shapes but 2-D.
 * @module
 */
import { type BufferRange, defineKernel, gpu, type GpuTexture } from "../../gpu/mod.ts";
import strided from "../../../wgsl/matmul_strided.wgsl" with { type: "text" };
import weight from "../../../wgsl/shared/weight.wgsl" with { type: "text" };
import { checkRounds, mostRounds, rowRanges } from "../grid.ts";
import { BYTES, shapeError, type Tensor } from "../tensor.ts";
import { fitsQuads, isGemv, launchGemv, launchGemvTexture } from "./gemv.ts";
import { SMALL, tunedMatmul } from "./matmul_choice.ts";
import { type Drop, dropoutInto, dropoutOnly } from "./dropout.ts";
import {
  fitsTexels,
  isTexture,
  isTurned,
  launchTexture,
  TEXTURE_BYTES,
  type TextureKernel,
  toTexture,
  vectorLanes,
} from "./matmul_texture.ts";
import { isTile, launchTile, type TileKernel, tileTakesLow } from "./matmul_tile.ts";
import { type StorageKind, storageKind } from "./storage.ts";

const stridedKernel = defineKernel("matmul_strided", strided, weight);

/** Which operand is transposed: `nt` is `x w^T`, `nn` is `x w`, `tn` is `x^T w`. */
export type MatmulLayout = "nt" | "nn" | "tn";

/** Operands of {@link matmulInto}. */
export interface MatmulOptions {
  layout: MatmulLayout;
  /** f32, `[M, K]`; in `tn` `[K, M]`. */
  x: Tensor;
  /** `[K, N]`; in `nt` `[N, K]`. f32; in `nt` and `nn` also f16 and bf16, decoded as they are loaded. */
  w: Tensor;
  /** f32, `[M, N]`. */
  y: Tensor;
  /** Factor of the product; default 1. */
  alpha?: number;
  /** `y +=` instead of `y =`. */
  accumulate?: boolean;
  /**
   * w holds rows of a larger weight, from this one on: y in `nt`, x in `nn` have a column for each of that weight's rows,
   * and only those of w are written or read.
   */
  firstRow?: number;
  /** An operand loses elements to dropout as it is read; only the operand is named that the kernels can mask. */
  drop?: Drop & { operand: "x" | "w" };
  /** Added to the product. */
  low?: LowRank;
  /** Overrides the choice, for measurements and tests. */
  kernel?: MatmulKernel;
}

/** A product through a low rank R, in the layout of the one that it is added to: `nt` or `nn`. */
export interface LowRank {
  /** f32 `[M, R]`. */
  x: Tensor;
  /** f32; `[N, R]` in `nt`, `[R, N]` in `nn`. */
  w: Tensor;
  /** Factor of this product alone. */
  alpha: number;
  /** Dropout of the product, `[M, N]`. */
  drop?: Drop | undefined;
}

/** The kernels, `wgsl/matmul_*.wgsl` and `gemv*.wgsl`; see {@link chooseMatmul} and {@link TileKernel}. */
export type MatmulKernel =
  | "strided"
  | TileKernel
  | "texture"
  | TextureKernel
  | "gemv"
  | "gemv_texture";

/** A part of a product whose operands fit one binding each. */
export interface Piece {
  layout: MatmulLayout;
  M: number;
  N: number;
  K: number;
  x: BufferRange;
  w: BufferRange;
  y: BufferRange;
  /** First element of x, first column of y. */
  x0: number;
  y0: number;
  /** Row lengths. */
  ldx: number;
  ldw: number;
  ldy: number;
  wKind: StorageKind;
  alpha: number;
  accumulate: boolean;
  /** Dropout of the operand that the kernel masks; `first`: number of its range's first element. */
  drop: (Drop & { first: number }) | undefined;
  low: LowRankPiece | undefined;
}

/** What {@link LowRank} adds to a part; `first`: number of the part's first element in y, for the mask. */
export interface LowRankPiece {
  x: BufferRange;
  w: BufferRange;
  rank: number;
  alpha: number;
  drop: (Drop & { first: number }) | undefined;
}

/**
 * `y = alpha * product (+ y)`: nt `y[M,N] = x[M,K] w[N,K]^T`, nn `y[M,N] = x[M,K] w[K,N]`,
 * tn `y[M,N] = x[K,M]^T w[K,N]`; row-major, leading axes folded into rows, sums in f32 in a fixed order.
 *
 * @throws NibbleError `tensor/shape` when the operands do not fit each other
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { empty, tensor } from "../tensor.ts";
 * import { matmulInto } from "./matmul_kernel.ts";
 * await openGpu();
 * const x = tensor([1, 2], [1, 2]), w = tensor([3, 4, 5, 6], [2, 2]), y = empty([1, 2]);
 * matmulInto({ layout: "nt", x, w, y });
 * if (`${await y.data()}` !== "11,17") throw new Error("1*3 + 2*4, 1*5 + 2*6");
 * ```
 */
export function matmulInto(options: MatmulOptions): void {
  const target = gpu(), lanes = vectorLanes(target);
  const limit = lanes > 0 ? TEXTURE_BYTES : Infinity;
  const parts = [...pieces(options, limit)]
    .map((piece) => ({
      piece,
      kernel: options.kernel ?? tunedMatmul(piece, target) ?? chooseMatmul(piece, lanes),
    }));
  if (!parts.every(({ piece, kernel }) => hasPlace(options, piece, kernel, lanes))) return inTurn(options);
  // pieces that share x follow each other, and so its texture
  let held: { offset: number | undefined; x: GpuTexture } | undefined;
  for (const { piece, kernel } of parts) {
    if (kernel === "gemv") launchGemv(piece);
    else if (kernel === "strided") launchStrided(piece);
    else if (isTile(kernel)) launchTile(piece, kernel);
    else {
      if (!held || held.offset !== piece.x.offset) {
        if (held) target.pool.release(held.x);
        held = { offset: piece.x.offset, x: toTexture(piece.x, "rgba32float") };
      }
      if (kernel === "gemv_texture") launchGemvTexture(piece, held.x);
      else launchTexture(piece, held.x, kernel);
    }
  }
  if (held) target.pool.release(held.x);
}

/** Whether the kernel does dropout and the low-rank product of this call along with the rest. */
function hasPlace({ drop, low }: MatmulOptions, piece: Piece, kernel: MatmulKernel, lanes: number): boolean {
  if (!drop && !low) return true;
  if (isTile(kernel)) return !drop && tileTakesLow(kernel, low!.x.columns);
  if (!isTexture(kernel)) return false;
  const turned = isTurned(piece, lanes);
  if (drop && drop.operand !== (turned ? "x" : "w")) return false;
  return !low || (!turned && low.x.columns % 4 === 0);
}

/** The same in launches of their own. */
function inTurn({ drop, low, ...rest }: MatmulOptions): void {
  if (drop) {
    const dropped = dropoutOnly(rest[drop.operand], drop.rate, drop.seed);
    matmulInto({ ...rest, [drop.operand]: dropped, ...(low && { low }) });
    dropped.dispose();
  } else if (low) {
    const { layout, y, accumulate = false } = rest;
    // of a part of a weight: its columns of y in nt, all of y in nn
    const place = layout === "nt" && rest.firstRow !== undefined ? { firstRow: rest.firstRow } : {};
    matmulInto({ layout, x: low.x, w: low.w, y, alpha: low.alpha, accumulate, ...place });
    if (low.drop) dropoutInto(y, low.drop.rate, low.drop.seed);
    matmulInto({ ...rest, accumulate: true });
  }
}

/**
 * The kernel for a product where nothing was measured, by shape and adapter alone, so that the same run takes the same
 * kernels:
 *
 * | kernel | where | tile of y |
 * | --- | --- | --- |
 * | `gemv_texture` | `nt` with up to 4 rows of x and rows of w in whole quads, where otherwise `texture` | all rows x 64 |
 * | `gemv` | the same, where otherwise any other | all rows x 8 (a lane) |
 * | `texture` | llvmpipe with working subgroups, rows that begin on whole texels, from 2^16 products on | 8, 16 or 32 x 32 |
 * | `tile64` | elsewhere, when such tiles make 64 workgroups or more | 64 x 64 |
 * | `tile32` | elsewhere, from 16 rows and columns on | 32 x 32 |
 * | `strided` | what is left | 32 x 32 (4 x 4 an invocation, no workgroup memory) |
 *
 * @param lanes vector lanes of llvmpipe, 0 on other adapters
 */
export function chooseMatmul(piece: Piece, lanes: number): MatmulKernel {
  const { M, N, K } = piece;
  const few = isGemv(piece) && fitsQuads(piece);
  if (lanes > 0 && fitsTexels(piece) && M * N * K >= SMALL) return few ? "gemv_texture" : "texture";
  if (few) return "gemv";
  if (lanes > 0) return "strided";
  if (Math.ceil(M / 64) * Math.ceil(N / 64) >= 64) return "tile64";
  return Math.min(M, N) >= 16 ? "tile32" : "strided";
}

/** Checks the shapes and cuts the product into parts whose operands fit one binding each. */
function* pieces(options: MatmulOptions, limit: number): Generator<Piece> {
  const { layout, x, w, y, alpha = 1, accumulate = false, drop, low, firstRow: first = 0 } = options;
  const [M, depth] = layout === "tn" ? [x.columns, x.rows] : [x.rows, x.columns];
  const [N, K] = layout === "nt" ? [w.rows, w.columns] : [w.columns, w.rows];
  // a part of a weight has its place in the columns of y or x
  const part = options.firstRow !== undefined;
  const inside = (size: number, whole: number) => part ? first + size <= whole : size === whole;
  const fits = layout === "nt"
    ? K === depth && inside(N, y.columns)
    : y.columns === N && (layout === "nn" ? inside(K, depth) : K === depth && !part);
  if (!fits || y.rows !== M) {
    throw shapeError(
      `matmul ${layout}`,
      `x [${x.shape}], w [${w.shape}] and y [${y.shape}] do not fit` + (part ? ` from row ${first} on` : ""),
    );
  }
  const wKind = storageKind(`matmul ${layout}`, w);
  if (x.dtype !== "f32" || y.dtype !== "f32" || (layout === "tn" && wKind !== 0)) {
    throw shapeError(`matmul ${layout}`, `x ${x.dtype}, w ${w.dtype}, y ${y.dtype} are not supported`);
  }
  if (low && (low.x.rows !== M || low.x.columns !== (layout === "nt" ? low.w.columns : low.w.rows))) {
    throw shapeError(`matmul ${layout}`, `low rank: x [${low.x.shape}] and w [${low.w.shape}] do not fit`);
  }
  if (low && (layout === "tn" || (low.drop && (accumulate || N !== y.columns)))) {
    throw shapeError(
      `matmul ${layout}`,
      "a low rank goes with nt and nn, its dropout with a whole y that is written",
    );
  }
  if (M * N === 0) return;
  const masked = drop && (drop.operand === "x" ? x : w);
  const shared = { layout, ldx: x.columns, ldw: w.columns, ldy: y.columns, wKind, alpha };
  // rowRanges fits rows to a binding: operands with a lower limit count as so much wider
  const wider = Math.max(1, gpu().maxBinding / limit);
  const xRow = 4 * x.columns * wider, wRow = w.columns * BYTES[w.dtype] * wider;
  const yRow = 4 * y.columns * (accumulate ? wider : 1); // read only to add to it
  const kRanges = layout === "nt"
    ? [[0, K] as const]
    : [...rowRanges(K, layout === "nn" ? [wRow] : [xRow, wRow], mostRounds())];
  const nRanges = layout === "nt" ? [...rowRanges(N, [wRow])] : [[0, N] as const];
  for (const [m0, m1] of rowRanges(M, layout === "tn" ? [yRow] : [xRow, yRow])) {
    for (const [n0, n1] of nRanges) {
      for (const [k0, k1] of kRanges) {
        const xRange = layout === "tn" ? x.rowRange(k0, k1) : x.rowRange(m0, m1);
        const wRange = layout === "nt" ? w.rowRange(n0, n1) : w.rowRange(k0, k1);
        const maskedRange = drop?.operand === "x" ? xRange : wRange;
        yield {
          ...shared,
          M: m1 - m0,
          N: n1 - n0,
          K: k1 - k0,
          x: xRange,
          w: wRange,
          y: y.rowRange(m0, m1),
          x0: layout === "tn" ? m0 : layout === "nn" ? first + k0 : 0,
          y0: layout === "nt" ? first + n0 : 0,
          accumulate: accumulate || k0 > 0,
          drop: drop && { ...drop, first: (maskedRange.offset! - masked!.offset) / 4 },
          low: low && k0 === 0
            ? {
              x: low.x.rowRange(m0, m1),
              w: layout === "nt" ? low.w.rowRange(n0, n1) : low.w.range,
              rank: low.x.columns,
              alpha: low.alpha,
              drop: low.drop && { ...low.drop, first: m0 * N },
            }
            : undefined,
        };
      }
    }
  }
}

function launchStrided(piece: Piece): void {
  const { layout, M, N, K, ldx, ldw, ldy, x, w, y, x0, y0, alpha, accumulate, wKind } = piece;
  checkRounds(`matmul ${layout}`, K);
  const [xm, xk] = layout === "tn" ? [1, ldx] : [ldx, 1];
  const [wn, wk] = layout === "nt" ? [ldw, 1] : [1, ldw];
  gpu().kernels.launch(stridedKernel, {
    consts: { W_KIND: wKind },
    types: { W: wKind === 0 ? "f32" : "u32" },
    params: { M, N, K, x0, xm, xk, wn, wk, y0, ldy, alpha, accumulate: Number(accumulate) },
    bind: { x, w, y },
    groups: [Math.ceil(N / 32), Math.ceil(M / 32)],
  });
}
