/**
 * 4-bit tensors on the device; `quantize.ts` puts numbers into them.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type BufferRange, type Gpu, gpu } from "../gpu/mod.ts";
import { keep, type Tensor, tensor } from "../tensor/tensor.ts";
import type { QuantState } from "./quant_state.ts";
import {
  type CodeBook,
  codeBook,
  dynamicMap,
  mapThresholds,
  type QuantType,
  thresholdTree,
} from "./code_books.ts";

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

const maps = new WeakMap<Gpu, { map: Tensor; thresholds: Tensor; tree: Tensor }>();

/** The signed dynamic map and its thresholds, in their order and as a search tree, on the open device, made once. */
export function sharedMap(): { map: Tensor; thresholds: Tensor; tree: Tensor } {
  let known = maps.get(gpu());
  if (!known) {
    const map = dynamicMap(true), thresholds = mapThresholds(map);
    known = {
      map: keep(tensor(map, [256], "f32", "base")),
      thresholds: keep(tensor(thresholds, [255], "f32", "base")),
      tree: keep(tensor(thresholdTree(thresholds), [85, 4], "f32", "base")),
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

/** The scales of the blocks of rows `[begin, end)`, and the number of the first (double quantization: of the first four). */
export function absmaxOf({ q, begin, end }: { q: QuantizedTensor; begin: number; end: number }) {
  const from = Math.floor(begin * q.columns / q.blocksize), to = Math.ceil(end * q.columns / q.blocksize);
  return q.nested ? span(q.absmax, from, Math.ceil(to / 4) * 4) : span(q.absmax, 4 * from, 4 * to);
}

/** Words or texels of `codes` codes in a group, the largest of `sizes` that lies in one block and one row. */
export function groupOf(
  { columns, blocksize }: QuantizedTensor,
  codes: number,
  sizes: readonly number[],
): number {
  return sizes.find((g) => columns % (codes * g) === 0 && blocksize % (codes * g) === 0)!;
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
