/**
 * Element types of stored tensors and their conversion to and from f32.
 *
 * All multi-byte values are little-endian, as safetensors and GGUF store them and as every host that Deno runs
 * on keeps them, so typed-array views read them without swapping.
 * @module
 */

/** Types a safetensors file may hold, under the names that the file uses. */
export type StoredDtype =
  | "BOOL"
  | "U8"
  | "I8"
  | "F8_E4M3"
  | "F8_E5M2"
  | "U16"
  | "I16"
  | "F16"
  | "BF16"
  | "U32"
  | "I32"
  | "F32"
  | "U64"
  | "I64"
  | "F64";

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<StoredDtype, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
};

/** Whether `name` is a type that safetensors knows. */
export function isStoredDtype(name: string): name is StoredDtype {
  return Object.hasOwn(DTYPE_BYTES, name);
}

let f16Values: Float32Array<ArrayBuffer> | undefined;

/** The f32 value of each of the 65,536 half-precision bit patterns, made on first use (256 KiB). */
export function f16Table(): Float32Array<ArrayBuffer> {
  if (!f16Values) {
    const bits = new Uint16Array(65536);
    for (let i = 0; i < bits.length; i++) bits[i] = i;
    f16Values = new Float32Array(new Float16Array(bits.buffer));
  }
  return f16Values;
}

/**
 * Half-precision bits to f32 (exact).
 *
 * @example
 * ```ts
 * import { f16ToF32, f32ToF16 } from "./dtype.ts";
 * const back = f16ToF32(f32ToF16(new Float32Array([1.5, -0.1, 70000])));
 * if (back[0] !== 1.5 || back[1] !== -0.0999755859375 || back[2] !== Infinity) throw new Error(`${back}`);
 * ```
 */
export function f16ToF32(bits: Uint16Array, out = new Float32Array(bits.length)): Float32Array<ArrayBuffer> {
  const table = f16Table();
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]!]!;
  return out as Float32Array<ArrayBuffer>;
}

/** f32 to half-precision bits, rounding to nearest even; values beyond 65504 (plus half a step) become infinite. */
export function f32ToF16(values: Float32Array): Uint16Array<ArrayBuffer> {
  return new Uint16Array(new Float16Array(values).buffer);
}

/** bfloat16 bits to f32 (exact): they are the upper half of an f32. */
export function bf16ToF32(bits: Uint16Array, out = new Float32Array(bits.length)): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(out.buffer, out.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return out as Float32Array<ArrayBuffer>;
}

/**
 * f32 to bfloat16 bits, rounding to nearest even. NaN stays NaN with its sign (the payload's upper bits, quieted).
 *
 * @example
 * ```ts
 * import { bf16ToF32, f32ToBf16 } from "./dtype.ts";
 * const [x] = bf16ToF32(f32ToBf16(new Float32Array([3.14159])));
 * if (x !== 3.140625) throw new Error(`${x}`);
 * ```
 */
export function f32ToBf16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < words.length; i++) {
    const w = words[i]!;
    // Adding to a NaN could carry into infinity, so a NaN keeps its top bits and gets the quiet bit.
    if ((w & 0x7fffffff) > 0x7f800000) out[i] = (w >>> 16) | 0x40;
    else out[i] = (w + 0x7fff + ((w >>> 16) & 1)) >>> 16;
  }
  return out;
}

let f8Values: { F8_E4M3: Float32Array; F8_E5M2: Float32Array } | undefined;

/** 256 values of an 8-bit float. E4M3 is the "FN" kind: no infinities, NaN only at 0x7f and 0xff. */
function f8Table(kind: "F8_E4M3" | "F8_E5M2"): Float32Array {
  if (!f8Values) {
    const e4m3 = new Float32Array(256);
    const e5m2 = new Float32Array(256);
    const half = f16Table();
    for (let i = 0; i < 256; i++) {
      const sign = i & 0x80 ? -1 : 1;
      const exponent = (i >> 3) & 15;
      const mantissa = i & 7;
      if ((i & 0x7f) === 0x7f) e4m3[i] = NaN;
      else if (exponent === 0) e4m3[i] = sign * mantissa * 2 ** -9;
      else e4m3[i] = sign * (1 + mantissa / 8) * 2 ** (exponent - 7);
      e5m2[i] = half[i << 8]!; // E5M2 is the upper byte of a half
    }
    f8Values = { F8_E4M3: e4m3, F8_E5M2: e5m2 };
  }
  return f8Values[kind];
}

/**
 * Decode whole elements of a stored type into `out`.
 * @param bytes little-endian elements; `byteOffset` must be a multiple of the element size
 * @param out as long as there are elements in `bytes`; 64-bit numbers lose what f32 cannot hold
 */
export function decodeToF32(dtype: StoredDtype, bytes: Uint8Array, out: Float32Array): void {
  const { buffer, byteOffset } = bytes;
  const n = out.length;
  switch (dtype) {
    case "F32":
      new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
      return;
    case "F16":
      f16ToF32(new Uint16Array(buffer, byteOffset, n), out as Float32Array<ArrayBuffer>);
      return;
    case "BF16":
      bf16ToF32(new Uint16Array(buffer, byteOffset, n), out as Float32Array<ArrayBuffer>);
      return;
    case "F8_E4M3":
    case "F8_E5M2": {
      const table = f8Table(dtype);
      for (let i = 0; i < n; i++) out[i] = table[bytes[i]!]!;
      return;
    }
    case "I64":
    case "U64": {
      const wide = dtype === "I64"
        ? new BigInt64Array(buffer, byteOffset, n)
        : new BigUint64Array(buffer, byteOffset, n);
      for (let i = 0; i < n; i++) out[i] = Number(wide[i]!);
      return;
    }
    case "F64":
      return out.set(new Float64Array(buffer, byteOffset, n));
    case "I32":
      return out.set(new Int32Array(buffer, byteOffset, n));
    case "U32":
      return out.set(new Uint32Array(buffer, byteOffset, n));
    case "I16":
      return out.set(new Int16Array(buffer, byteOffset, n));
    case "U16":
      return out.set(new Uint16Array(buffer, byteOffset, n));
    case "I8":
      return out.set(new Int8Array(buffer, byteOffset, n));
    case "U8":
    case "BOOL":
      return out.set(bytes.subarray(0, n));
  }
}

/** Of a word of numbers: the bits of their exponents, each exponent's lowest bit, and the bit above its highest. */
const EXPONENTS = {
  F32: { all: 0x7f800000, lowest: 0x00800000, above: 0x80000000 },
  F16: { all: 0x7c007c00, lowest: 0x04000400, above: 0x80008000 },
  BF16: { all: 0x7f807f80, lowest: 0x00800080, above: 0x80008000 },
} as const;

/** Types whose stored bytes devices read as they are. */
export type PlainDtype = keyof typeof EXPONENTS;

/** Whether it is one of them. */
export function isPlain(dtype: string): dtype is PlainDtype {
  return Object.hasOwn(EXPONENTS, dtype);
}

/**
 * Index of the first number that is NaN or infinite, or -1. Its exponent is all ones, so that one more carries beyond it;
 * two 16-bit numbers are seen at a time.
 *
 * @param bytes little-endian numbers, beginning on a multiple of 4 bytes
 * @example
 * ```ts
 * import { bytesOf, f32ToBf16, nonFinite } from "./dtype.ts";
 * if (nonFinite("BF16", bytesOf(f32ToBf16(Float32Array.of(1, -2, Infinity)))) !== 2) throw new Error("the third");
 * if (nonFinite("F32", bytesOf(Float32Array.of(3e38))) !== -1) throw new Error("large, but a number");
 * ```
 */
export function nonFinite(dtype: PlainDtype, bytes: Uint8Array): number {
  const { all, lowest, above } = EXPONENTS[dtype];
  const { buffer, byteOffset, length } = bytes;
  const words = new Int32Array(buffer, byteOffset, length >> 2);
  let carried = 0;
  for (let i = 0; i < words.length; i++) carried |= (words[i]! & all) + lowest;
  const numbers = dtype === "F32"
    ? new Uint32Array(buffer, byteOffset, length >> 2)
    : new Uint16Array(buffer, byteOffset, length >> 1);
  const exponent = dtype === "F32" ? all : all & 0xffff;
  // the last of an odd count is in no word
  const from = (carried & above) !== 0 ? 0 : words.length * 4 / numbers.BYTES_PER_ELEMENT;
  for (let i = from; i < numbers.length; i++) if ((numbers[i]! & exponent) === exponent) return i;
  return -1;
}

/** The bytes behind any typed array or DataView, without a copy. */
export function bytesOf(view: ArrayBufferView): Uint8Array<ArrayBuffer> {
  return new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength);
}
