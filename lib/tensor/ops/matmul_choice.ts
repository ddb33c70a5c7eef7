/**
 * What was measured of matrix products: classes that share a choice, and whether a choice computes the product at hand.
 * @module
 */
import type { Gpu } from "../../gpu/mod.ts";
import { fitsQuads, isGemv } from "./gemv.ts";
import type { MatmulKernel, Piece } from "./matmul_kernel.ts";
import { fitsTexels, isTexture, textureFits, vectorLanes } from "./matmul_texture.ts";
import { deviceHas, isTile, tileFits } from "./matmul_tile.ts";

/** Products below which launching costs more than computing. */
export const SMALL = 2 ** 16;

/** Classes of products that one choice holds for: which edges are as short as an adapter's rank, and how much there is. */
export type MatmulClass = "short" | "narrow" | "shallow" | "medium" | "large";

/** The class of a product: few rows, few columns, a short sum, or which of the others. */
export function matmulClass({ M, N, K }: Pick<Piece, "M" | "N" | "K">): MatmulClass {
  if (N <= 32) return "narrow";
  if (M <= 32) return "short";
  if (K <= 32) return "shallow";
  // 128 tiles of 64 x 64: enough for every core of a GPU to have one
  return M * N < 2 ** 19 ? "medium" : "large";
}

/**
 * The kernel that was found fastest on this adapter for products of that class (`lib/tuning.ts`), where there is one
 * and it computes this product; undefined leaves the choice to {@link chooseMatmul}.
 */
export function tunedMatmul(
  piece: Piece,
  target: Pick<Gpu, "choices" | "name" | "features">,
): MatmulKernel | undefined {
  if (target.choices.size === 0 || isGemv(piece) && fitsQuads(piece)) return undefined;
  if (piece.M * piece.N * piece.K < SMALL) return undefined;
  const chosen = target.choices.get(`matmul.${piece.layout}.${matmulClass(piece)}`);
  return chosen !== undefined && matmulFits(chosen as MatmulKernel, piece, target)
    ? chosen as MatmulKernel
    : undefined;
}

/** Whether a kernel computes a product on an adapter; those of few rows aside. */
export function matmulFits(
  kernel: MatmulKernel,
  piece: Piece,
  target: Pick<Gpu, "name" | "features">,
): boolean {
  if (kernel === "strided") return true;
  if (isTile(kernel)) return deviceHas(target, kernel) && tileFits(kernel, piece);
  const lanes = vectorLanes(target);
  if (!isTexture(kernel) || lanes === 0 || !fitsTexels(piece)) return false;
  return kernel === "texture" || textureFits(kernel, piece, lanes);
}
