/**
 * Blockwise quantization in plain TypeScript: slow, short, and bit for bit what bitsandbytes' CPU path computes.
 * The kernels are checked against it.
 *
 * A block of `blocksize` consecutive numbers (row-major, across rows) shares `absmax`, its largest magnitude;
 * each number times the f32 reciprocal of absmax is replaced by a code. Double quantization (QLoRA section 3)
 * stores absmax itself in 8 bits: `absmax_i = map[q_i] * nested_absmax[floor(i / 256)] + offset`.
 * @module
 */
import { type CodeBook, codeBook, dynamicMap, mapThresholds } from "./code_books.ts";
import type { QuantState } from "./quant_state.ts";

const f = Math.fround;
/** Blocks of absmax values that share one scale. */
export const NESTED_BLOCKSIZE = 256;
const SMALLEST_NORMAL = 2 ** -126;

/**
 * The scale of a block and what its numbers are multiplied with. GPUs flush subnormal numbers, so a block
 * without a normal number counts as zeros: its scale is 0. A NaN or infinity makes the scale NaN or infinite.
 */
export function blockScale(x: Float32Array, from: number, to: number): { absmax: number; inverse: number } {
  let absmax = 0;
  for (let i = from; i < to; i++) {
    const v = Math.abs(x[i]!);
    if (v > absmax || Number.isNaN(v)) absmax = v;
  }
  if (absmax < SMALLEST_NORMAL) return { absmax: 0, inverse: 0 };
  return { absmax, inverse: f(1 / absmax) };
}

/** Count of borders strictly below `v`. */
function rank(thresholds: Float32Array, v: number): number {
  let low = 0, high = thresholds.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (v > thresholds[middle]!) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The code of a number in [-1, 1]. */
export function encode4bit(book: CodeBook, v: number): number {
  if (!book.magnitude) return book.codeOfRank[rank(book.thresholds, v)]!;
  return book.codeOfRank[rank(book.thresholds, Math.abs(v))]! | (v < 0 ? 8 : 0);
}

/** 8-bit blockwise quantization with a map of 256 values: codes, and one scale a block. */
export function quantize8bit(
  x: Float32Array,
  map: Float32Array,
  blocksize: number,
): { codes: Uint8Array<ArrayBuffer>; absmax: Float32Array<ArrayBuffer> } {
  const thresholds = mapThresholds(map);
  const codes = new Uint8Array(x.length);
  const absmax = new Float32Array(Math.ceil(x.length / blocksize));
  absmax.forEach((_, b) => {
    const from = b * blocksize, to = Math.min(x.length, from + blocksize);
    const scale = blockScale(x, from, to);
    absmax[b] = scale.absmax;
    for (let i = from; i < to; i++) codes[i] = rank(thresholds, f(x[i]! * scale.inverse));
  });
  return { codes, absmax };
}

/** The inverse of {@link quantize8bit}, up to rounding: `map[code] * absmax`. */
export function dequantize8bit(
  codes: Uint8Array,
  absmax: Float32Array,
  map: Float32Array,
  blocksize: number,
): Float32Array<ArrayBuffer> {
  return Float32Array.from(codes, (c, i) => map[c]! * absmax[Math.floor(i / blocksize)]!);
}

/** Settings of {@link quantizeOracle}. */
export interface OracleOptions {
  quantType?: string;
  blocksize?: number;
  doubleQuant?: boolean;
  /** The mean of absmax to subtract before double quantization; default: summed in double precision. */
  offset?: number;
}

/**
 * Quantizes numbers of shape `shape` to a plain state: NF4, blocks of 64, no double quantization by default.
 *
 * @example
 * ```ts
 * import { dequantizeOracle, quantizeOracle } from "./oracle.ts";
 * const state = quantizeOracle(Float32Array.of(-2, 0, 1, 2), [4]);
 * if (state.packed[0] !== 0x07 || dequantizeOracle(state)[3] !== 2) throw new Error("wrong codes");
 * ```
 */
export function quantizeOracle(
  x: Float32Array,
  shape: readonly number[],
  options: OracleOptions = {},
): QuantState {
  const { quantType = "nf4", blocksize = 64 } = options;
  const book = codeBook(quantType);
  const codes = new Uint8Array(x.length + x.length % 2);
  const absmax = new Float32Array(Math.ceil(x.length / blocksize));
  absmax.forEach((_, b) => {
    const from = b * blocksize, to = Math.min(x.length, from + blocksize);
    const scale = blockScale(x, from, to);
    absmax[b] = scale.absmax;
    for (let i = from; i < to; i++) codes[i] = encode4bit(book, f(x[i]! * scale.inverse));
  });
  if (x.length % 2) codes[x.length] = encode4bit(book, 0);
  const packed = Uint8Array.from(
    { length: codes.length / 2 },
    (_, k) => codes[2 * k]! << 4 | codes[2 * k + 1]!,
  );
  const state: QuantState = {
    packed,
    absmax,
    quantType: book.quantType,
    quantMap: book.values,
    blocksize,
    shape: [...shape],
    dtype: "float32",
  };
  if (!options.doubleQuant) return state;
  const offset = options.offset ?? f(absmax.reduce((sum, v) => sum + v, 0) / absmax.length);
  const quantMap = dynamicMap(true);
  const nested = quantize8bit(absmax.map((v) => v - offset), quantMap, NESTED_BLOCKSIZE);
  return {
    ...state,
    absmax: nested.codes,
    nested: { absmax: nested.absmax, quantMap, offset, blocksize: NESTED_BLOCKSIZE },
  };
}

/** The scales of a state as f32, decoded where they are double-quantized. */
export function decodeAbsmax(state: QuantState): Float32Array<ArrayBuffer> {
  const { absmax, nested } = state;
  if (!nested) return Float32Array.from(absmax);
  return Float32Array.from(absmax, (q, i) => {
    return f(nested.quantMap[q]! * nested.absmax[Math.floor(i / nested.blocksize)]!) + nested.offset;
  });
}

/** The numbers of a state: `values[code] * absmax` in f32. */
export function dequantizeOracle(state: QuantState): Float32Array<ArrayBuffer> {
  const values = state.quantMap;
  const absmax = decodeAbsmax(state);
  const size = state.shape.reduce((a, b) => a * b, 1);
  return Float32Array.from({ length: size }, (_, i) => {
    const byte = state.packed[i >> 1]!;
    return values[i & 1 ? byte & 15 : byte >> 4]! * absmax[Math.floor(i / state.blocksize)]!;
  });
}
