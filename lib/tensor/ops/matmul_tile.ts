/**
 * Matrix products through workgroup memory, for GPUs: tiles of several sizes, one after the other in what they ask of
 * the adapter. All hold sums in f32 and add in the order of K, so they give the same numbers, but for those that round
 * operands to f16.
 * @module
 */
import { type BufferRange, defineKernel, type Gpu, gpu } from "../../gpu/mod.ts";
import quad from "../../../wgsl/matmul_quad.wgsl" with { type: "text" };
import pcg from "../../../wgsl/shared/pcg.wgsl" with { type: "text" };
import quadTile from "../../../wgsl/shared/quad_tile.wgsl" with { type: "text" };
import weight from "../../../wgsl/shared/weight.wgsl" with { type: "text" };
import weightQuad from "../../../wgsl/shared/weight_quad.wgsl" with { type: "text" };
import subgroup from "../../../wgsl/matmul_subgroup.wgsl" with { type: "text" };
import tile from "../../../wgsl/matmul_tile.wgsl" with { type: "text" };
import { dropoutParams } from "./dropout.ts";
import type { LowRankPiece, Piece } from "./matmul_kernel.ts";

const tileKernel = defineKernel("matmul_tile", tile, weight, pcg);
const quadKernel = defineKernel("matmul_quad", quad, quadTile, weightQuad, pcg);
const subgroupKernel = defineKernel("matmul_subgroup", subgroup, weightQuad);

/** Constants of the kernels: workgroup, elements of y an invocation, depth of the panels. */
interface TileShape {
  /** `wgsl/matmul_*.wgsl`. */
  kernel: "tile" | "quad" | "subgroup";
  SX: number;
  SY: number;
  RM: number;
  RN: number;
  DEPTH: number;
  /** Panels in f16. */
  f16?: true;
}

/** An entry of {@link TILES}; workgroup first, then what an invocation computes. */
function shape(
  kernel: TileShape["kernel"],
  [SX, SY]: [number, number],
  [RM, RN]: [number, number],
  DEPTH = 16,
): TileShape {
  return { kernel, SX, SY, RM, RN, DEPTH };
}

const quad64 = shape("quad", [8, 8], [8, 8]), quad128x64 = shape("quad", [8, 16], [8, 8]);

/** Tiles of y, rows by columns, by name: at most 256 invocations and 16 KiB of workgroup memory. */
export const TILES = {
  tile16: shape("tile", [8, 8], [2, 2]),
  tile32: shape("tile", [8, 8], [4, 4]),
  tile64: shape("tile", [16, 16], [4, 4]),
  tile64r8: shape("tile", [8, 8], [8, 8], 8),
  tile16x64: shape("tile", [16, 4], [4, 4]),
  tile64x16: shape("tile", [4, 16], [4, 4]),
  quad32: shape("quad", [8, 8], [4, 4]),
  quad64,
  quad128x64,
  quad128: shape("quad", [16, 16], [8, 8], 8),
  quad16x64: shape("quad", [16, 4], [4, 4]),
  quad64x16: shape("quad", [4, 16], [4, 4]),
  half64: { ...quad64, f16: true as const },
  half128x64: { ...quad128x64, f16: true as const },
  subgroup64: shape("subgroup", [8, 8], [8, 8]),
};

/** A name of {@link TILES}. */
export type TileKernel = keyof typeof TILES;

/** Whether a name is one of {@link TILES}. */
export function isTile(kernel: string): kernel is TileKernel {
  return Object.hasOwn(TILES, kernel);
}

const shapeOf = (kernel: TileKernel): TileShape => TILES[kernel];

/** Whether an adapter has what a kernel asks for. */
export function deviceHas({ features }: Pick<Gpu, "features">, kernel: TileKernel): boolean {
  const { kernel: kind, f16 } = shapeOf(kernel);
  return (kind !== "subgroup" || features.octets) && (!f16 || features.f16);
}

/** Whether a kernel computes a product: `tile` any, the others those whose rows all begin on whole quads. */
export function tileFits(
  kernel: TileKernel,
  { layout, M, N, K, x0, y0, ldx, ldw, ldy, wKind }: Piece,
): boolean {
  const kind = shapeOf(kernel).kernel;
  if (kind === "tile") return true;
  if (kind === "subgroup" && layout === "tn") return false;
  const widths = [N, x0, y0, ldx, ldw, ldy, layout === "tn" ? M : K];
  return widths.every((n) => n % 4 === 0) && (wKind === 0 || layout !== "tn");
}

/** Launches a product that {@link tileFits}. */
export function launchTile(piece: Piece, kernel: TileKernel): void {
  const { layout, M, N, K, ldx, ldw, ldy, x0, y0, alpha, accumulate, wKind, x, w, y, low } = piece;
  const { kernel: kind, f16, ...consts } = shapeOf(kernel);
  const along = { X_ALONG_K: layout !== "tn", W_ALONG_K: layout === "nt" };
  const [rows, columns] = [consts.RM * consts.SY, consts.RN * consts.SX];
  const taken = lowRankLaunch(low, alpha, x);
  const shared = {
    bind: kind === "subgroup" ? { x, w, y } : { x, w, y, ...taken.bind },
    groups: [Math.ceil(N / columns), Math.ceil(M / rows)] as const,
  };
  const scalars = { M, N, K, alpha, accumulate: Number(accumulate) };
  if (kind === "tile") {
    const [xm, xk] = layout === "tn" ? [1, ldx] : [ldx, 1];
    const [wn, wk] = layout === "nt" ? [ldw, 1] : [1, ldw];
    const [un, ur] = layout === "nt" ? [taken.params.R, 1] : [1, N];
    gpu().kernels.launch(tileKernel, {
      ...shared,
      consts: { W_KIND: wKind, ...along, ...consts, ...taken.consts },
      types: { W: wKind === 0 ? "f32" : "u32" },
      params: { ...scalars, x0, xm, xk, wn, wk, y0, ldy, ...taken.params, un, ur },
    });
    return;
  }
  const stored = { W_KIND: wKind, HIGH: wKind === 0 ? 2 : 0, W_ALONG_K: along.W_ALONG_K };
  const types = { W: wKind === 0 ? "vec4<u32>" : "vec2<u32>" };
  const params = { ...scalars, x0: x0 / 4, ldx: ldx / 4, ldw: ldw / 4, y0: y0 / 4, ldy: ldy / 4 };
  if (kind === "subgroup") {
    gpu().kernels.launch(subgroupKernel, { ...shared, consts: stored, types, params });
    return;
  }
  gpu().kernels.launch(quadKernel, {
    ...shared,
    consts: { ...stored, ...along, ...consts, ...taken.consts },
    types: f16 ? { ...types, S: "f16" } : types,
    params: { ...params, ...taken.params, low_ldw: (layout === "nt" ? taken.params.R : N) / 4 },
  });
}

/**
 * What a launch is told of a low rank that goes along; without one, bindings that are not read.
 *
 * @param alpha factor of the whole, which the kernels multiply both products by
 */
export function lowRankLaunch(low: LowRankPiece | undefined, alpha: number, unread: BufferRange) {
  const { rank = 0, drop } = low ?? {};
  return {
    consts: { LOW: low !== undefined, DROP_LOW: drop !== undefined },
    params: {
      ...{ R: rank, beta: low ? low.alpha / alpha : 0 },
      ...{ ...dropoutParams(drop ?? { rate: 0, seed: 0 }), mask0: drop?.first ?? 0 },
    },
    bind: { low_x: low?.x ?? unread, low_w: low?.w ?? unread },
  };
}

/** Whether a kernel takes along a low rank: through quads, one of whole quads. */
export function tileTakesLow(kernel: TileKernel, rank: number): boolean {
  const kind = shapeOf(kernel).kernel;
  return kind === "tile" || kind === "quad" && rank % 4 === 0;
}
