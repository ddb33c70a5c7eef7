/**
 * Matrix products on the device, in the three layouts that a linear layer needs: no recording, no shapes but 2-D.
 * @module
 */
import { type BufferRange, defineKernel, gpu } from "../../gpu/mod.ts";
import strided from "../../../wgsl/matmul_strided.wgsl" with { type: "text" };
import { rowRanges } from "../grid.ts";
import { BYTES, shapeError, type Tensor } from "../tensor.ts";

const stridedKernel = defineKernel("matmul_strided", strided);

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
}

/** A part of a product whose operands fit one binding each. */
interface Piece {
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
  wKind: 0 | 1 | 2;
  alpha: number;
  accumulate: boolean;
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
  for (const piece of pieces(options)) launchStrided(piece);
}

/** Checks the shapes and cuts the product into parts whose operands fit one binding each. */
function* pieces({ layout, x, w, y, alpha = 1, accumulate = false }: MatmulOptions): Generator<Piece> {
  const [M, K] = layout === "tn" ? [x.columns, x.rows] : [x.rows, x.columns];
  const [N, kw] = layout === "nt" ? [w.rows, w.columns] : [w.columns, w.rows];
  if (kw !== K || y.rows !== M || y.columns !== N) {
    throw shapeError(`matmul ${layout}`, `x [${x.shape}], w [${w.shape}] and y [${y.shape}] do not fit`);
  }
  const kinds = { f32: 0, f16: 1, bf16: 2, u32: undefined, i32: undefined } as const;
  const wKind = kinds[w.dtype];
  if (x.dtype !== "f32" || y.dtype !== "f32" || wKind === undefined || (layout === "tn" && wKind !== 0)) {
    throw shapeError(`matmul ${layout}`, `x ${x.dtype}, w ${w.dtype}, y ${y.dtype} are not supported`);
  }
  if (M * N === 0) return;
  const shared = { layout, ldx: x.columns, ldw: w.columns, ldy: N, wKind, alpha };
  const wRow = w.columns * BYTES[w.dtype];
  const kRanges = layout === "nt"
    ? [[0, K] as const]
    : [...rowRanges(K, layout === "nn" ? [wRow] : [4 * M, wRow])];
  const nRanges = layout === "nt" ? [...rowRanges(N, [wRow])] : [[0, N] as const];
  for (const [m0, m1] of rowRanges(M, layout === "tn" ? [4 * N] : [4 * K, 4 * N])) {
    for (const [n0, n1] of nRanges) {
      for (const [k0, k1] of kRanges) {
        yield {
          ...shared,
          M: m1 - m0,
          N: n1 - n0,
          K: k1 - k0,
          x: layout === "tn" ? x.rowRange(k0, k1) : x.rowRange(m0, m1),
          w: layout === "nt" ? w.rowRange(n0, n1) : w.rowRange(k0, k1),
          y: y.rowRange(m0, m1),
          x0: layout === "tn" ? m0 : k0,
          y0: n0,
          accumulate: accumulate || k0 > 0,
        };
      }
    }
  }
}

function launchStrided(piece: Piece): void {
  const { layout, M, N, K, ldx, ldw, ldy, x, w, y, x0, y0, alpha, accumulate, wKind } = piece;
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
