/**
 * Matrix products on llvmpipe, whose storage buffers are read lane by lane: operands go through textures.
 * @module
 */
import {
  defineKernel,
  type Gpu,
  gpu,
  type GpuTexture,
  TEXEL_BYTES,
  type TextureShape,
} from "../../gpu/mod.ts";
import source from "../../../wgsl/matmul_texture.wgsl" with { type: "text" };
import type { MatmulLayout, Piece } from "./matmul_kernel.ts";

const kernel = defineKernel("matmul_texture", source);

/** Largest part of an operand that goes through a texture at a time. */
export const TEXTURE_BYTES = 16 * 2 ** 20;

/** Texels of one texture row; the kernel's `texel` knows it too. */
const WIDTH = 2048;

/** Formats of f32, f16 and bf16 (decoded by the kernel), four elements a texel. */
const FORMATS = ["rgba32float", "rgba16float", "rgba16uint"] as const;

/** Vector lanes of the adapter if it is llvmpipe and its subgroups work, or 0. */
export function vectorLanes(target: Pick<Gpu, "name" | "features">): number {
  const bits = /^llvmpipe .*\b(128|256|512) bits/.exec(target.name)?.[1];
  return bits && target.features.subgroups ? Number(bits) / 32 : 0;
}

/** Whether rows of all operands begin on whole texels. */
export function fitsTexels({ layout, M, N, K, x0, y0, ldy }: Piece): boolean {
  const widths = [N, x0, y0, ldy, layout === "tn" ? M : K];
  return widths.every((n) => n % 4 === 0);
}

/** Rows of y a workgroup computes: 8, 16 or 32, without much waste. */
export function textureTile(M: number, lanes: number, layout: MatmulLayout): number {
  const tile = [8, 16, 32].find((t) => M <= t && t >= lanes) ?? 32;
  return layout === "tn" ? Math.min(tile, 4 * lanes) : tile;
}

/**
 * Blocks of four columns a lane computes: with two, each texel of x serves twice as many products. At 512 rows and the
 * shapes of SmolLM2-135M: 1.2 times as fast as one block in `nt`, 1.5 times in `nn`; three were slower than two, and so
 * were tiles of 64 rows.
 */
export function textureBlocks(N: number, lanes: number, layout: MatmulLayout): 1 | 2 {
  return layout !== "tn" && N > 4 * lanes ? 2 : 1;
}

/** Rows and blocks of columns that a launch takes, other than by shape: `texture16x2`. */
export type TextureKernel = `texture${8 | 16 | 32}x${1 | 2}`;

/** What a name asks for, where it is one. */
function namedTile(name: string): { tile: number; blocks: number } | undefined {
  const named = /^texture(\d+)x(\d)$/.exec(name);
  return named ? { tile: Number(named[1]), blocks: Number(named[2]) } : undefined;
}

/** Whether a name is one, and its tile can be had: whole subgroups of rows, and what `columns` has room for. */
export function textureFits(name: TextureKernel, lanes: number, { layout }: Pick<Piece, "layout">): boolean {
  const { tile, blocks } = namedTile(name) ?? { tile: NaN, blocks: NaN };
  return tile % lanes === 0 && (layout !== "tn" || (blocks === 1 && tile <= 4 * lanes));
}

/**
 * Launches a product whose x is in a texture already; w, and y where it is added to, are copied into theirs.
 *
 * @param name rows and columns of a workgroup, where they are not those of {@link textureTile} and
 *   {@link textureBlocks}
 */
export function launchTexture(
  piece: Piece,
  x: GpuTexture,
  name: TextureKernel | "texture" = "texture",
): void {
  const { layout, M, N, K, y0, ldy, alpha, wKind, accumulate } = piece;
  const { pool, kernels } = gpu();
  const lanes = vectorLanes(gpu());
  const w = toTexture(piece.w, FORMATS[wKind]);
  const before = accumulate ? toTexture(piece.y, FORMATS[0]) : undefined;
  const { tile, blocks } = namedTile(name) ??
    { tile: textureTile(M, lanes, layout), blocks: textureBlocks(N, lanes, layout) };
  const bf16 = wKind === 2;
  kernels.launch(kernel, {
    entry: layout === "tn" ? "columns" : "rows",
    consts: {
      ...{ TM: tile, NB: blocks, LANES: lanes },
      ...{ W_ROWS: layout === "nt", BF16: bf16, ACCUMULATE: accumulate },
    },
    types: { W: bf16 ? "texture_2d<u32>" : "texture_2d<f32>" },
    params: { M, N, K, x0: piece.x0 / 4, ldx: piece.ldx / 4, ldw: piece.ldw / 4, y0, ldy, alpha },
    // bound in any case, read only to add to
    bind: { x, w, y: piece.y, before: before ?? x },
    groups: [Math.ceil(N / (4 * lanes * blocks)), Math.ceil(M / tile)],
  });
  pool.release(w);
  if (before) pool.release(before);
}

/**
 * A texture that holds a range's bytes, texel after texel, to be released when what reads it is launched. Heights are
 * powers of two, for reuse.
 */
export function toTexture(range: Piece["x"], format: TextureShape["format"]): GpuTexture {
  const { pool, stream } = gpu();
  const bytes = range.bytes!;
  const rows = Math.ceil(bytes / TEXEL_BYTES[format] / WIDTH);
  const height = 2 ** Math.ceil(Math.log2(rows));
  const texture = pool.acquireTexture({ format, width: WIDTH, height }, "scratch");
  stream.copyToTexture(range.buffer, range.offset ?? 0, bytes, texture);
  return texture;
}
