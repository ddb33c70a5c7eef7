/**
 * A few vectors times a 4-bit weight, for generation: the weight is read in its 4 bits and never written out.
 * @module
 */
import { adapterKind, type BufferRange, defineKernel, gpu, type GpuTexture } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import type { GemvTiling } from "../tensor/ops/gemv.ts";
import { heldTexture, TEXTURE_BYTES, toTexture, vectorLanes } from "../tensor/ops/matmul_texture.ts";
import { empty, shapeError, type Tensor } from "../tensor/tensor.ts";
import source from "../../wgsl/gemv_4bit.wgsl" with { type: "text" };
import nf4 from "../../wgsl/shared/nf4.wgsl" with { type: "text" };
import scales from "../../wgsl/shared/scales_4bit.wgsl" with { type: "text" };
import scalesSource from "../../wgsl/decode_scales.wgsl" with { type: "text" };
import textureSource from "../../wgsl/gemv_4bit_texture.wgsl" with { type: "text" };
import { type QuantizedTensor, scaleBindings, span, valueConstants } from "./quantized_tensor.ts";

const kernel = defineKernel("gemv_4bit", source, nf4, scales);
const scalesKernel = defineKernel("decode_scales", scalesSource);
const textureKernel = defineKernel("gemv_4bit_texture", textureSource);

/** Most rows of `x` that {@link gemvQuantized} takes. */
export const GEMV_MAX_ROWS = 4;

/** Whether {@link gemvQuantized} takes these shapes; else dequantize and multiply. */
export function gemvFits(rows: number, q: QuantizedTensor): boolean {
  return rows >= 1 && rows <= GEMV_MAX_ROWS && q.columns % 8 === 0;
}

/**
 * On llvmpipe the codes go through a texture, where rows fill its texels and the copy is worth while: 3 times as fast as
 * from the buffer at the shapes of SmolLM2-135M. On processors memory accesses count, whoever makes them; on GPUs
 * neighbours share.
 */
export function gemvTiling(q: QuantizedTensor): GemvTiling | "texture" {
  if (vectorLanes(gpu()) > 0 && q.columns % 32 === 0 && q.size >= 2 ** 14) return "texture";
  return adapterKind(gpu()) !== "gpu" ? { lanes: 1, rows: 8, size: 8 } : { lanes: 16, rows: 2, size: 64 };
}

/** Rows of `q` that one launch takes. */
interface Part {
  x: Tensor;
  q: QuantizedTensor;
  y: Tensor;
  begin: number;
  end: number;
  consts: Record<string, number | boolean>;
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
  tiling: GemvTiling | "texture" = gemvTiling(q),
): Tensor {
  const k = q.columns, n = q.rows, m = x.rows;
  if (x.columns !== k || x.dtype !== "f32" || !gemvFits(m, q)) {
    throw shapeError("gemvQuantized", `${x.dtype} [${x.shape}] by [${q.shape}]`);
  }
  const y = empty([...x.shape.slice(0, -1), n]);
  const consts = {
    ...{ BLOCK: q.blocksize, M: m },
    ...valueConstants(q.codeBook),
  };
  const limit = tiling === "texture" ? Math.min(TEXTURE_BYTES, gpu().maxBinding) : gpu().maxBinding;
  const step = Math.max(1, Math.floor((limit - 256) / (k / 2)));
  const through = tiling === "texture" ? toTexture(x.range, "rgba32float") : undefined;
  for (let begin = 0; begin < n; begin += step) {
    const part = { x, q, y, begin, end: Math.min(n, begin + step), consts };
    if (tiling === "texture") launchTexture(part, through!);
    else launchBuffer(part, tiling);
  }
  if (through) gpu().pool.release(through);
  return y;
}

/** The scales of a part's blocks, and the number of the first (with double quantization: of the first four). */
export function absmaxOf({ q, begin, end }: Pick<Part, "q" | "begin" | "end">) {
  const from = Math.floor(begin * q.columns / q.blocksize), to = Math.ceil(end * q.columns / q.blocksize);
  return q.nested ? span(q.absmax, from, Math.ceil(to / 4) * 4) : span(q.absmax, 4 * from, 4 * to);
}

/** Words or texels of a group, the largest that lies in one block and one row. */
export function groupOf(
  { columns, blocksize }: QuantizedTensor,
  codes: number,
  sizes: readonly number[],
): number {
  return sizes.find((g) => columns % (codes * g) === 0 && blocksize % (codes * g) === 0)!;
}

function launchBuffer(part: Part, { lanes, rows, size }: GemvTiling): void {
  const { x, q, y, begin, end, consts } = part;
  const words = span(q.packed, begin * q.columns / 2, end * q.columns / 2), absmax = absmaxOf(part);
  const { groups } = grid1d(Math.ceil((end - begin) / (size / lanes * rows)), 1);
  gpu().kernels.launch(kernel, {
    entry: "gemv",
    consts: {
      ...{ ...consts, NESTED: q.nested !== undefined, LANES: lanes, ROWS: rows, SIZE: size },
      GROUP: groupOf(q, 8, [8, 4, 2, 1]),
    },
    params: {
      ...{ k: q.columns, n: q.rows, begin, end, row: groups[0] },
      ...{ first_word: words.first, first_scale: absmax.first },
    },
    bind: { words: words.range, absmax: absmax.range, ...scaleBindings(q), x: x.range, y: y.range },
    groups,
  });
}

function launchTexture(part: Part, x: GpuTexture): void {
  const { q, y, begin, end, consts } = part;
  const words = span(q.packed, begin * q.columns / 2, end * q.columns / 2), absmax = absmaxOf(part);
  const lanes = vectorLanes(gpu()), shuffle = lanes === 8, rows = shuffle ? 4 : 2;
  const launch = (w: GpuTexture, scales: GpuTexture) =>
    gpu().kernels.launch(textureKernel, {
      consts: { ...consts, LANES: lanes, ROWS: rows, SHUFFLE: shuffle, GROUP: groupOf(q, 32, [4, 2, 1]) },
      params: {
        ...{ texels: q.columns / 32, n: q.rows, begin, end },
        ...{ first: words.first / 4, first_scale: (q.nested ? 4 : 1) * absmax.first },
      },
      bind: { x, w, scales, y: y.range },
      groups: [Math.ceil((end - begin) / (lanes * rows))],
    });
  // decoded once for all tokens: in the kernel, four loads from storage buffers a block were a third of its time
  const decoded = () => decodedScales(q, absmax);
  heldTexture(
    words.range,
    "rgba32uint",
    (w) =>
      heldTexture(
        absmax.range as Required<BufferRange>,
        "rgba32float",
        (scales) => launch(w, scales),
        q.nested ? decoded : undefined,
      ),
  );
}

/** A texture of the f32 scales that stand as codes in a range of `q.absmax`. */
function decodedScales(q: QuantizedTensor, { range, first }: ReturnType<typeof span>): GpuTexture {
  const words = range.bytes! / 4, y = empty([words, 4], "f32", "scratch");
  const { groups, row } = grid1d(Math.ceil(words / 64), 64);
  gpu().kernels.launch(scalesKernel, {
    params: { words, row, first: 4 * first },
    bind: { absmax: range, ...scaleBindings(q), y: y.range },
    groups,
  });
  const texture = toTexture(y.range, "rgba32float");
  y.dispose();
  return texture;
}
