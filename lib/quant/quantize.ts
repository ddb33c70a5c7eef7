/**
 * How numbers get into 4-bit tensors: blockwise, then the scales again.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { adapterKind, type BufferRange, defineKernel, gpu, type GpuTexture } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import {
  launchThroughTextures,
  TEXTURE_BYTES,
  toTexture,
  uploadTexture,
} from "../tensor/ops/matmul_texture.ts";
import { sum } from "../tensor/ops/reduce.ts";
import { type StorageKind, storageKind } from "../tensor/ops/storage.ts";
import { noGrad } from "../tensor/tape.ts";
import { BYTES, empty, keep, scope, shapeError, Tensor, tensor } from "../tensor/tensor.ts";
import reciprocal from "../../wgsl/shared/reciprocal.wgsl" with { type: "text" };
import nf4Thresholds from "../../wgsl/shared/nf4_thresholds.wgsl" with { type: "text" };
import texel from "../../wgsl/shared/texel.wgsl" with { type: "text" };
import source4 from "../../wgsl/quantize_4bit.wgsl" with { type: "text" };
import textureSource from "../../wgsl/quantize_4bit_texture.wgsl" with { type: "text" };
import textureSource8 from "../../wgsl/quantize_8bit_texture.wgsl" with { type: "text" };
import source8 from "../../wgsl/quantize_8bit.wgsl" with { type: "text" };
import { codeBook, type QuantType } from "./code_books.ts";
import type { QuantState } from "./quant_state.ts";
import { checkBlocksize, QuantizedTensor, sharedMap, span } from "./quantized_tensor.ts";

const kernel = defineKernel("quantize_4bit", source4, nf4Thresholds, reciprocal);
const textureKernel = defineKernel("quantize_4bit_texture", textureSource, nf4Thresholds, reciprocal, texel);
const kernel8 = defineKernel("quantize_8bit", source8, reciprocal);
const textureKernel8 = defineKernel("quantize_8bit_texture", textureSource8, reciprocal, texel);

/** Most groups of eight numbers that a lane of the kernel by texture keeps between its two looks at a block. */
const MOST_HELD = 8;

/** Settings of a 4-bit tensor. */
export interface QuantizeOptions {
  /** `bnb_4bit_quant_type`; default "nf4". */
  quantType?: QuantType;
  /** Numbers that share a scale: a power of two from 32 to 4096; default 64. */
  blocksize?: number;
  /** `bnb_4bit_use_double_quant`; default true. */
  doubleQuant?: boolean;
  /** Element type of the weight before, kept for export; default "float32". */
  dtype?: QuantState["dtype"];
  /** The parameter's name, for messages. */
  name?: string;
}

/**
 * An empty 4-bit tensor, to be filled by {@link quantizeRows} and closed by {@link finishQuantized}.
 *
 * @throws NibbleError `quant/blocksize`, `quant/type`
 */
export function createQuantized(shape: readonly number[], options: QuantizeOptions = {}): QuantizedTensor {
  const { quantType = "nf4", blocksize = 64, doubleQuant = true, dtype = "float32", name } = options;
  checkBlocksize(blocksize, name ?? `shape [${shape}]`);
  const size = shape.reduce((a, b) => a * b, 1);
  if (!(size > 0) || size > 2 ** 32) throw shapeError("quantize", `cannot quantize shape [${shape}]`);
  const blocks = Math.ceil(size / blocksize);
  const q = new QuantizedTensor({
    shape: [...shape],
    codeBook: codeBook(quantType),
    blocksize,
    dtype,
    name,
    packed: keep(empty([Math.ceil(size / 8)], "u32", "base")),
    absmax: keep(empty([blocks], "f32", "base")),
    nested: undefined,
  });
  if (doubleQuant) unfinished.add(q);
  return q;
}

const unfinished = new WeakSet<QuantizedTensor>();

/**
 * Smallest number of rows that fills whole blocks: {@link quantizeRows} takes its multiples, and the rest at the
 * tensor's end.
 */
export function rowQuantum(q: Pick<QuantizedTensor, "columns" | "blocksize">): number {
  let a = q.columns, b = q.blocksize;
  while (b) [a, b] = [b, a % b];
  return q.blocksize / a;
}

/** Numbers on the host, as a tensor of the same type holds them. */
export interface HostNumbers {
  dtype: "f32" | "f16" | "bf16";
  values: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;
}

/**
 * Quantizes rows `[rowStart, rowStart + chunk's rows)`, so that a huge weight passes through in parts.
 *
 * @param chunk numbers of whole rows, on the device or on the host
 * @throws NibbleError `quant/rows` when the rows do not begin and end with a block (see {@link rowQuantum})
 */
export function quantizeRows(q: QuantizedTensor, rowStart: number, chunk: Tensor | HostNumbers): void {
  const start = rowStart * q.columns, n = chunk instanceof Tensor ? chunk.size : chunk.values.length;
  const rows = n / q.columns, last = start + n === q.size;
  if (!Number.isInteger(rows) || start + n > q.size) {
    throw shapeError("quantizeRows", `${n} numbers at row ${rowStart} of [${q.shape}]`);
  }
  if (start % q.blocksize !== 0 || (n % q.blocksize !== 0 && !last)) {
    throw new NibbleError(
      "quant/rows",
      `Rows ${rowStart} to ${rowStart + rows} do not begin and end with a block`,
      {
        where: `${q.name ?? "tensor"} [${q.shape}], blocks of ${q.blocksize}`,
        remedy: `Pass multiples of ${rowQuantum(q)} rows, and the rest at the end.`,
      },
    );
  }
  // llvmpipe loads storage buffers lane by lane: through a texture all of it is 8 times as fast
  const texels = adapterKind(gpu()) === "llvmpipe" && n % q.blocksize === 0;
  if (!texels && !(chunk instanceof Tensor)) {
    const t = keep(tensor(chunk.values, [rows, q.columns], chunk.dtype, "scratch"));
    try {
      return quantizeRows(q, rowStart, t);
    } finally {
      t.dispose();
    }
  }
  // parts begin on multiples of 256 bytes, of 16-bit numbers too
  const size = BYTES[chunk.dtype], unit = Math.max(128, q.blocksize);
  const most = texels ? Math.min(gpu().maxBinding, TEXTURE_BYTES) : gpu().maxBinding;
  const step = Math.max(unit, Math.floor(most / size / unit) * unit);
  for (let from = 0; from < n; from += step) {
    const part = Math.min(n, from + step) - from;
    const x = partOf(chunk, from * size, part * size, texels);
    launchQuantize({ q, x, kind: storageKind("quantize", chunk), n: part, at: start + from });
    if ("view" in x) gpu().pool.release(x);
  }
}

/** Some bytes of a chunk for the device; in a texture, which is the caller's to release, or where they lie. */
function partOf(chunk: Tensor | HostNumbers, at: number, bytes: number, texels: boolean): Part["x"] {
  if (!(chunk instanceof Tensor)) {
    const { buffer, byteOffset } = chunk.values;
    return uploadTexture(new Uint8Array(buffer, byteOffset + at, bytes), "rgba32uint");
  }
  const range = { buffer: chunk.buffer, offset: chunk.offset + at, bytes };
  return texels ? toTexture(range, "rgba32uint") : range;
}

/** Some numbers of a chunk, which are those from `at` on of the weight. */
interface Part {
  q: QuantizedTensor;
  x: BufferRange | GpuTexture;
  kind: StorageKind;
  n: number;
  at: number;
}

function launchQuantize({ q, x, kind, n, at }: Part): void {
  const { blocksize, codeBook: book } = q, through = "view" in x;
  const words = span(q.packed, at / 2, Math.ceil((at + n) / 8) * 4);
  const absmax = span(q.absmax, at / blocksize * 4, Math.ceil((at + n) / blocksize) * 4);
  const { groups, row } = grid1d(Math.ceil(n / blocksize / 64), 64);
  const limits = Array.from(book.thresholds, (v, i) => [`T${i}`, v]);
  gpu().kernels.launch(through ? textureKernel : kernel, {
    entry: "quantize",
    consts: {
      ...{ BLOCK: blocksize, X_KIND: kind },
      ...(through ? { HELD: Math.min(blocksize / 8, MOST_HELD) } : {}),
      ...(book.quantType === "nf4" ? {} : { MAGNITUDE: book.magnitude, ...Object.fromEntries(limits) }),
    },
    params: { n, row, first_word: at / 8 - words.first, first_block: at / blocksize - absmax.first },
    bind: { x, words: words.range, absmax: absmax.range },
    groups,
  });
}

/**
 * Closes a tensor whose rows are all in: double-quantizes its scales, if that was asked for. Calling it again
 * does nothing. Only device work; nothing is read back.
 */
export function finishQuantized(q: QuantizedTensor): void {
  if (!unfinished.delete(q)) return;
  const { map } = sharedMap();
  const blocks = q.blocks, groups256 = Math.ceil(blocks / 256);
  const scales = keep(empty([1 + groups256], "f32", "base"));
  const codes = keep(empty([Math.ceil(blocks / 4)], "u32", "base"));
  scope(() =>
    noGrad(() => {
      // the offset: mean of absmax, in a fixed order
      const whole = blocks - blocks % 256;
      const mean = sum(blocks === whole ? q.absmax.view([whole / 256, 256]) : q.absmax, 1 / blocks);
      gpu().stream.copy(mean.buffer, mean.offset, scales.buffer, scales.offset, 4);
    })
  );
  launchQuantizeScales(q.absmax, codes, scales);
  q.absmax.dispose();
  q.absmax = codes;
  q.nested = { scales, map };
}

function launchQuantizeScales(absmax: Tensor, codes: Tensor, scales: Tensor): void {
  const { thresholds, tree } = sharedMap();
  const { groups, row } = grid1d(Math.ceil(absmax.size / 256 / 64), 64);
  const launch = { entry: "quantize", params: { n: absmax.size, row }, groups };
  const bind = { words: codes.range, scales: scales.range };
  if (adapterKind(gpu()) !== "llvmpipe" || absmax.bytes > TEXTURE_BYTES) {
    const more = { x: absmax.range, thresholds: thresholds.range };
    gpu().kernels.launch(kernel8, { ...launch, bind: { ...bind, ...more } });
    return;
  }
  launchThroughTextures(textureKernel8, { x: absmax.range, tree: tree.range }, { ...launch, bind });
}

/**
 * Quantizes a whole f32 tensor, `[out, in]`: NF4 in blocks of 64 with double quantization by default, 4.127 bits
 * a number.
 *
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { tensor } from "../tensor/tensor.ts";
 * import { quantize } from "./quantize.ts";
 * await openGpu();
 * using w = tensor(Array.from({ length: 256 }, (_, i) => Math.sin(i)), [4, 64]);
 * using w4 = quantize(w);
 * if (w4.packed.bytes !== 128) throw new Error("four bits a number");
 * ```
 */
export function quantize(x: Tensor, options: QuantizeOptions = {}): QuantizedTensor {
  const q = createQuantized(x.shape, options);
  quantizeRows(q, 0, x);
  finishQuantized(q);
  return q;
}
