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

/** Launches a product whose x is in a texture already; w, and y where it is added to, are copied into theirs. */
export function launchTexture(piece: Piece, x: GpuTexture): void {
  const { layout, M, N, K, y0, ldy, alpha, wKind, accumulate } = piece;
  const { pool, kernels } = gpu();
  const lanes = vectorLanes(gpu());
  const w = toTexture(piece.w, FORMATS[wKind]);
  const before = accumulate ? toTexture(piece.y, FORMATS[0]) : undefined;
  const tile = textureTile(M, lanes, layout), blocks = textureBlocks(N, lanes, layout);
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

/** Most bytes of textures that are held. */
const HELD_BYTES = 512 * 2 ** 20;

let holding: { on: Gpu; textures: Map<string, GpuTexture>; bytes: number; holders: number } | undefined;

/**
 * From now on what {@link heldTexture} makes is kept, up to 512 MiB, and served again, until the result is disposed: for
 * generation, which reads every weight for every token. The weights must stand still meanwhile.
 */
export function holdTextures(): Disposable {
  const on = gpu();
  if (holding && holding.on !== on) return { [Symbol.dispose]() {} };
  const mine = holding ??= { on, textures: new Map(), bytes: 0, holders: 0 };
  mine.holders++;
  return {
    [Symbol.dispose]() {
      if (--mine.holders > 0) return;
      for (const texture of mine.textures.values()) on.pool.release(texture);
      holding = undefined;
    },
  };
}

/**
 * Calls `use` with a texture of a base weight's bytes, which is held where that was asked for ({@link holdTextures}).
 *
 * @param make makes it, where it is not of the bytes as they are
 */
export function heldTexture(
  range: Piece["x"],
  format: TextureShape["format"],
  use: (t: GpuTexture) => void,
  make: () => GpuTexture = () => toTexture(range, format),
): void {
  const { buffer, offset, bytes } = range, { pool } = gpu();
  const kept = holding?.on === gpu() && buffer.kind === "base" ? holding : undefined;
  const key = `${buffer.id}|${offset}|${bytes}|${format}`;
  const known = kept?.textures.get(key);
  if (known) return use(known);
  const texture = make();
  use(texture);
  // of a budget, most is left to what must be there
  if (!kept || kept.bytes + texture.size > Math.min(HELD_BYTES, pool.room() / 4)) {
    return pool.release(texture);
  }
  kept.textures.set(key, texture);
  kept.bytes += texture.size;
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
