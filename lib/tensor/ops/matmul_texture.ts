/**
 * Matrix products on llvmpipe, whose storage buffers are read lane by lane: operands go through textures.
 * @module
 */
import {
  defineKernel,
  type Gpu,
  gpu,
  type GpuBuffer,
  type GpuTexture,
  type Kernel,
  type LaunchOptions,
  TEXEL_BYTES,
  type TextureShape,
} from "../../gpu/mod.ts";
import source from "../../../wgsl/matmul_texture.wgsl" with { type: "text" };
import pcg from "../../../wgsl/shared/pcg.wgsl" with { type: "text" };
import texel from "../../../wgsl/shared/texel.wgsl" with { type: "text" };
import { checkRounds } from "../grid.ts";
import { dropoutParams } from "./dropout.ts";
import type { Piece } from "./matmul_kernel.ts";

const kernel = defineKernel("matmul_texture", source, pcg, texel);

/** Largest part of an operand that goes through a texture at a time. */
export const TEXTURE_BYTES = 16 * 2 ** 20;

/** Texels of one texture row; `wgsl/shared/texel.wgsl` knows it too. */
const WIDTH = 2048;

/** Formats of f32, f16 and bf16 (decoded by the kernel), four elements a texel. */
const FORMATS = ["rgba32float", "rgba16float", "rgba16uint"] as const;

/** Vector lanes of the adapter if it is llvmpipe and its subgroups work, or 0. */
export function vectorLanes(target: Pick<Gpu, "name" | "features">): number {
  const bits = /^llvmpipe .*\b(128|256|512) bits/.exec(target.name)?.[1];
  return bits && target.features.subgroups ? Number(bits) / 32 : 0;
}

/** Whether rows of all operands begin on whole texels. */
export function fitsTexels({ layout, M, N, K, x0, y0, ldx, ldw, ldy }: Piece): boolean {
  const widths = [N, x0, y0, ldx, ldw, ldy, layout === "tn" ? M : K];
  return widths.every((n) => n % 4 === 0);
}

/**
 * Rows of A a workgroup takes: 8, 16 or 32, without much waste; `along`: A's rows are an operand's rows. A lane takes two
 * blocks of four columns where there are so many: each texel of A then serves twice as many products. At 512 rows and the
 * shapes of SmolLM2-135M that is 1.2 times as fast as one block in `nt`, 1.5 times in `nn`, 1.0 to 1.2 times in `tn`;
 * three blocks were slower than two, and so were tiles of 64 rows.
 */
export function textureTile(rows: number, lanes: number, along: boolean): number {
  const tile = [8, 16, 32].find((t) => rows <= t && t >= lanes) ?? 32;
  return along ? tile : Math.min(tile, 4 * lanes);
}

/**
 * Whether yᵀ is computed, and turned as it is stored: its rows then are the few columns of y, so that all lanes have
 * columns to compute. Of products with rank 16 at 512 rows, 1.4 to 1.7 times as fast.
 */
export function isTurned({ M, N, wKind, low }: Omit<Shape, "layout">, lanes: number): boolean {
  return N <= 8 * lanes && M > N && wKind === 0 && !low;
}

/** Rows and blocks of columns of a workgroup, other than by shape: `texture16x2`. */
export type TextureKernel = `texture${8 | 16 | 32}x${1 | 2}`;

/** Whether a name is `texture`, or one of {@link TextureKernel}. */
export function isTexture(kernel: string): kernel is "texture" | TextureKernel {
  return kernel === "texture" || named(kernel) !== undefined;
}

function named(kernel: string): { tile: number; blocks: number } | undefined {
  const [, tile, blocks] = /^texture(8|16|32)x([12])$/.exec(kernel) ?? [];
  return tile ? { tile: Number(tile), blocks: Number(blocks) } : undefined;
}

/** What decides how a product is shared out. */
type Shape = Pick<Piece, "layout" | "M" | "N" | "wKind" | "low">;

/** How a product is shared out by shape: which operand is A, and what a workgroup takes. */
function tilingOf(piece: Shape, lanes: number) {
  const { layout, M, N } = piece;
  const turned = isTurned(piece, lanes), along = turned ? layout === "nt" : layout !== "tn";
  const [rows, columns] = turned ? [N, M] : [M, N];
  const blocks = columns > 4 * lanes ? 2 : 1;
  return { turned, along, rows, columns, tile: textureTile(rows, lanes, along), blocks };
}

/** What `texture` stands for at a shape. */
export function textureRule(piece: Shape, lanes: number): string {
  const { tile, blocks } = tilingOf(piece, lanes);
  return `texture${tile}x${blocks}`;
}

/** Whether the tile can be had: whole subgroups of rows, and of A by columns no more than lanes load at a time. */
export function textureFits(kernel: TextureKernel, piece: Shape, lanes: number): boolean {
  const { tile } = named(kernel)!;
  return tile % lanes === 0 && (tilingOf(piece, lanes).along || tile <= 4 * lanes);
}

/** Launches a product whose x is in a texture already; w, and y where it is added to, are copied into theirs. */
export function launchTexture(
  piece: Piece,
  x: GpuTexture,
  name: "texture" | TextureKernel = "texture",
): void {
  const { layout, N, K, y0, ldy, alpha, wKind, accumulate, drop, low } = piece;
  checkRounds(`matmul ${layout}`, (K + (low?.rank ?? 0)) / 4);
  const { pool, kernels } = gpu();
  const lanes = vectorLanes(gpu());
  const w = toTexture(piece.w, FORMATS[wKind]);
  const made = [w];
  const into = (range: Piece["x"]) => made[made.push(toTexture(range, FORMATS[0])) - 1]!;
  const before = accumulate ? into(piece.y) : x;
  const { turned, rows, columns, ...rule } = tilingOf(piece, lanes);
  const { tile, blocks } = named(name) ?? rule;
  const left = { texture: x, first: piece.x0 / 4, row: piece.ldx / 4, along: layout !== "tn" };
  const right = { texture: w, first: 0, row: piece.ldw / 4, along: layout === "nt" };
  const [a, b] = turned ? [right, left] : [left, right];
  const bf16 = wKind === 2, mask = drop ?? low?.drop;
  kernels.launch(kernel, {
    entry: a.along ? "rows" : "columns",
    consts: {
      ...{ TM: tile, NB: blocks, LANES: lanes },
      ...{ W_ROWS: b.along, BF16: bf16, ACCUMULATE: accumulate, TURNED: turned },
      ...{ LOW: low !== undefined, DROP_B: drop !== undefined, DROP_LOW: low?.drop !== undefined },
    },
    types: { W: `texture_storage_2d<${FORMATS[wKind]}, read>` },
    params: {
      ...{ M: rows, N: columns, K, x0: a.first, ldx: a.row, w0: b.first, ldw: b.row },
      ...{ y0, ldy, alpha, beta: low ? low.alpha / alpha : 0 },
      ...{ R: low?.rank ?? 0, low_ldw: (layout === "nt" ? low?.rank ?? 0 : N) / 4 },
      ...{ ...dropoutParams(mask ?? { rate: 0, seed: 0 }), mask0: mask ? mask.first / 4 : 0 },
    },
    // all are bound in any case, and read where the constants say so
    bind: {
      ...{ x: a.texture, w: b.texture, y: piece.y, before },
      ...{ low_x: low ? into(low.x) : x, low_w: low ? into(low.w) : x },
    },
    groups: [Math.ceil(rows / tile), Math.ceil(columns / (4 * lanes * blocks))],
  });
  for (const texture of made) pool.release(texture);
}

/** Textures of {@link shareOperands} by what they hold, and the buffers that it is about. */
let shared: { buffers: readonly GpuBuffer[]; made: Map<string, GpuTexture> } | undefined;

/**
 * Runs products that read the same operands, each of which then is copied into a texture once. `work` writes none of
 * them, nor gives its buffer back.
 */
export function shareOperands<T>(operands: readonly { buffer: GpuBuffer }[], work: () => T): T {
  const around = shared, made = new Map<string, GpuTexture>();
  shared = { buffers: operands.map(({ buffer }) => buffer), made };
  try {
    return work();
  } finally {
    shared = around;
    for (const texture of made.values()) gpu().pool.release(texture);
  }
}

/** Most bytes of textures that are held. */
export const HELD_BYTES = 512 * 2 ** 20;

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

/** A texture for so many texels. */
export function textureFor(texels: number, format: TextureShape["format"]): GpuTexture {
  const height = 2 ** Math.ceil(Math.log2(Math.ceil(texels / WIDTH)));
  return gpu().pool.acquireTexture({ format, width: WIDTH, height }, "scratch");
}

/**
 * A texture that holds a range's bytes, texel after texel, to be released when what reads it is launched. Heights are
 * powers of two, for reuse.
 */
export function toTexture(range: Piece["x"], format: TextureShape["format"]): GpuTexture {
  const { stream } = gpu();
  const bytes = range.bytes!, key = `${range.offset}.${bytes}.${format}.${range.buffer.id}`;
  const known = shared?.made.get(key);
  if (known) {
    known.references++;
    return known;
  }
  const texture = textureFor(bytes / TEXEL_BYTES[format], format);
  stream.copyToTexture(range.buffer, range.offset ?? 0, bytes, texture);
  if (shared?.buffers.includes(range.buffer)) {
    texture.references++;
    shared.made.set(key, texture);
  }
  return texture;
}

/** {@link toTexture} of bytes on the host, a whole number of texels. */
export function uploadTexture(bytes: Uint8Array<ArrayBuffer>, format: TextureShape["format"]): GpuTexture {
  const texture = textureFor(bytes.length / TEXEL_BYTES[format], format);
  gpu().stream.writeTexture(bytes, texture);
  return texture;
}

/** Bytes from which a kernel that reads each element a few times gains from textures, copies included. */
const WORTH_BYTES = 2 ** 18;

/**
 * Launches a kernel that reads `read` through textures of four f32 a texel; false, and nothing done, where another one
 * should read buffers: off llvmpipe, and where operands are too small or too large.
 */
export function launchOnTextures(
  of: Kernel,
  read: Record<string, { range: Piece["x"] }>,
  options: LaunchOptions,
): boolean {
  const ranges = Object.entries(read).map(([name, { range }]) => [name, range] as const);
  const most = Math.max(...ranges.map(([, { bytes }]) => bytes!));
  if (vectorLanes(gpu()) === 0 || most < WORTH_BYTES || most > TEXTURE_BYTES) return false;
  launchThroughTextures(of, Object.fromEntries(ranges), options);
  return true;
}

/** Launches a kernel that reads `read` through textures of four f32 a texel, over `options.bind`. */
export function launchThroughTextures(
  of: Kernel,
  read: Record<string, Piece["x"]>,
  options: LaunchOptions,
): void {
  const { kernels, pool } = gpu();
  const textures = Object.entries(read).map(([name, range]) =>
    [name, toTexture(range, "rgba32float")] as const
  );
  kernels.launch(of, { ...options, bind: { ...options.bind, ...Object.fromEntries(textures) } });
  for (const [, texture] of textures) pool.release(texture);
}
