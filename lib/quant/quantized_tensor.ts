/**
 * 4-bit tensors on the device, and how numbers get into them.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type BufferRange, defineKernel, type Gpu, gpu } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import { sum } from "../tensor/ops/reduce.ts";
import { noGrad } from "../tensor/tape.ts";
import { empty, keep, scope, shapeError, Tensor, tensor } from "../tensor/tensor.ts";
import source4 from "../../wgsl/quantize_4bit.wgsl" with { type: "text" };
import source8 from "../../wgsl/quantize_8bit.wgsl" with { type: "text" };
import type { QuantState } from "./quant_state.ts";
import { type CodeBook, codeBook, dynamicMap, mapThresholds, type QuantType } from "./code_books.ts";

const quantize4 = defineKernel("quantize_4bit", source4);
const quantize8 = defineKernel("quantize_8bit", source8);

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

/** Double quantization of the scales. */
export interface NestedScales {
  /** f32 `[1 + ceil(blocks / 256)]`: the offset (mean of absmax), then one scale for each 256 bytes of absmax. */
  readonly scales: Tensor;
  /** f32 `[256]`: the values that the bytes stand for. */
  readonly map: Tensor;
}

/**
 * A frozen weight in 4 bits: blocks of `blocksize` numbers, row-major across rows, with one scale each.
 * Its tensors are owned by it, outside every scope: dispose it.
 */
export class QuantizedTensor {
  /** Shape of the weight, `[out, in]` of a linear layer. */
  readonly shape: readonly number[];
  /** The values that the codes stand for. */
  readonly codeBook: CodeBook;
  /** Numbers that share a scale. */
  readonly blocksize: number;
  /** Element type of the weight before, for export. */
  readonly dtype: QuantState["dtype"];
  /** The parameter's name. */
  name: string | undefined;
  /** u32 words of eight codes, byte for byte as bitsandbytes packs them: the earlier element in the high nibble. */
  readonly packed: Tensor;
  /** One f32 a block, or one byte a block, four in a u32 word, once double-quantized. */
  absmax: Tensor;
  /** The scales' own scales; undefined without double quantization. */
  nested: NestedScales | undefined;

  /** From its parts, which it owns from now on; numbers come in through `quantize`. */
  constructor(
    parts: Pick<
      QuantizedTensor,
      "shape" | "codeBook" | "blocksize" | "dtype" | "name" | "packed" | "absmax" | "nested"
    >,
  ) {
    this.shape = parts.shape;
    this.codeBook = parts.codeBook;
    this.blocksize = parts.blocksize;
    this.dtype = parts.dtype;
    this.name = parts.name;
    this.packed = parts.packed;
    this.absmax = parts.absmax;
    this.nested = parts.nested;
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  /** Elements of the last axis: the weight's in-features. */
  get columns(): number {
    return this.shape.at(-1) ?? 1;
  }

  /** Product of all axes but the last: the weight's out-features. */
  get rows(): number {
    return this.size / this.columns;
  }

  /** Number of blocks. */
  get blocks(): number {
    return Math.ceil(this.size / this.blocksize);
  }

  /** Name of the code book. */
  get quantType(): QuantType {
    return this.codeBook.quantType;
  }

  /** Bytes on the device: codes, scales, and the scales' scales (the shared map of 1 KiB not counted). */
  get bytes(): number {
    return this.packed.bytes + this.absmax.bytes + (this.nested?.scales.bytes ?? 0);
  }

  /** Gives the buffers back. */
  dispose(): void {
    this.packed.dispose();
    this.absmax.dispose();
    this.nested?.scales.dispose();
    if (this.nested && this.nested.map !== sharedMap().map) this.nested.map.dispose();
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const maps = new WeakMap<Gpu, { map: Tensor; thresholds: Tensor }>();

/** The signed dynamic map and its thresholds on the open device, made once. */
export function sharedMap(): { map: Tensor; thresholds: Tensor } {
  let known = maps.get(gpu());
  if (!known) {
    const map = dynamicMap(true);
    known = {
      map: keep(tensor(map, [256], "f32", "base")),
      thresholds: keep(tensor(mapThresholds(map), [255], "f32", "base")),
    };
    maps.set(gpu(), known);
  }
  return known;
}

/** Bytes `[from, to)` of a tensor as a binding that starts on a multiple of 256, and that start in words. */
export function span(t: Tensor, from: number, to: number): { range: BufferRange; first: number } {
  const start = Math.floor(from / 256) * 256;
  return { range: { buffer: t.buffer, offset: t.offset + start, bytes: to - start }, first: start / 4 };
}

/** The bindings of a kernel that decodes scales; without double quantization they are there but not read. */
export function scaleBindings(q: QuantizedTensor): { scales: BufferRange; map: BufferRange } {
  const map = q.nested?.map ?? sharedMap().map;
  return { scales: (q.nested?.scales ?? map).range, map: map.range };
}

/** Whether the adapter is a software one, for which other shapes of work are best. */
export function onProcessor(): boolean {
  return /llvmpipe|SwiftShader/i.test(gpu().name);
}

/** A code book's numbers as the constants of a kernel: nothing for NF4, whose numbers stand in the files. */
export function valueConstants(book: CodeBook): Record<string, number> {
  if (book === codeBook("nf4")) return {};
  return Object.fromEntries(Array.from(book.values, (v, i) => [`C${i}`, v]));
}

/** Checks a block size as bitsandbytes does. */
export function checkBlocksize(blocksize: number, where: string): void {
  if (![32, 64, 128, 256, 512, 1024, 2048, 4096].includes(blocksize)) {
    throw new NibbleError("quant/blocksize", `Unsupported block size ${blocksize}`, {
      where,
      remedy: "Use a power of two from 32 to 4096; 64 is usual.",
    });
  }
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

/**
 * Quantizes rows `[rowStart, rowStart + chunk's rows)`, so that a huge weight passes through in parts.
 *
 * @param chunk f32 numbers of whole rows, on the device or on the host
 * @throws NibbleError `quant/rows` when the rows do not begin and end with a block (see {@link rowQuantum})
 */
export function quantizeRows(
  q: QuantizedTensor,
  rowStart: number,
  chunk: Tensor | Float32Array<ArrayBuffer>,
): void {
  if (!(chunk instanceof Tensor)) {
    const t = keep(tensor(chunk, [chunk.length], "f32", "scratch"));
    try {
      return quantizeRows(q, rowStart, t);
    } finally {
      t.dispose();
    }
  }
  const start = rowStart * q.columns, n = chunk.size;
  const rows = n / q.columns, last = start + n === q.size;
  if (chunk.dtype !== "f32" || !Number.isInteger(rows) || start + n > q.size) {
    throw shapeError("quantizeRows", `${chunk.dtype} [${chunk.shape}] at row ${rowStart} of [${q.shape}]`);
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
  const book = q.codeBook;
  const limits = Array.from(book.thresholds, (v, i) => [`T${i}`, v]);
  const consts = {
    BLOCK: q.blocksize,
    ...(book.quantType === "nf4" ? {} : { MAGNITUDE: book.magnitude, ...Object.fromEntries(limits) }),
  };
  const unit = Math.max(64, q.blocksize);
  const step = Math.max(unit, Math.floor(gpu().maxBinding / 4 / unit) * unit);
  for (let from = 0; from < n; from += step) {
    const to = Math.min(n, from + step), at = start + from;
    const words = span(q.packed, at / 2, Math.ceil((start + to) / 8) * 4);
    const absmax = span(q.absmax, at / q.blocksize * 4, Math.ceil((start + to) / q.blocksize) * 4);
    const { groups, row } = grid1d(Math.ceil((to - from) / q.blocksize / 64), 64);
    gpu().kernels.launch(quantize4, {
      entry: "quantize",
      consts,
      params: {
        n: to - from,
        row,
        first_word: at / 8 - words.first,
        first_block: at / q.blocksize - absmax.first,
      },
      bind: {
        x: { buffer: chunk.buffer, offset: chunk.offset + from * 4, bytes: (to - from) * 4 },
        words: words.range,
        absmax: absmax.range,
      },
      groups,
    });
  }
}

/**
 * Closes a tensor whose rows are all in: double-quantizes its scales, if that was asked for. Calling it again
 * does nothing. Only device work; nothing is read back.
 */
export function finishQuantized(q: QuantizedTensor): void {
  if (!unfinished.delete(q)) return;
  const { map, thresholds } = sharedMap();
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
  const { groups, row } = grid1d(Math.ceil(groups256 / 64), 64);
  gpu().kernels.launch(quantize8, {
    entry: "quantize",
    params: { n: blocks, row },
    bind: { x: q.absmax.range, words: codes.range, scales: scales.range, thresholds: thresholds.range },
    groups,
  });
  q.absmax.dispose();
  q.absmax = codes;
  q.nested = { scales, map };
}

/**
 * Quantizes a whole f32 tensor, `[out, in]`: NF4 in blocks of 64 with double quantization by default, 4.127 bits
 * a number.
 *
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { tensor } from "../tensor/tensor.ts";
 * import { quantize } from "./quantized_tensor.ts";
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
