/**
 * ggml's block types and how their values are decoded to f32.
 *
 * Types up to `Q8_0` hold 32 values a block and one f16 step `d` (with `_1` also a minimum `m`). The "K" types,
 * 256 values a block, are in `gguf_k_blocks.ts`. Every product below has at most 24 significant bits, so the only
 * rounding is that of the last sum: the result equals ggml's own to the bit.
 * @module
 */
import { decodeToF32, f16Table } from "./dtype.ts";
import { decodeQ2K, decodeQ3K, decodeQ4K, decodeQ5K, decodeQ6K, Q4K_BYTES } from "./gguf_k_blocks.ts";

/** Decode `out.length / values` blocks of `src` into `out`. */
export type BlockDecoder = (src: Uint8Array, out: Float32Array) => void;

/** A ggml tensor type. */
export interface GgmlType {
  /** Name as ggml writes it, `Q4_1`. */
  name: string;
  /** Number in the file. */
  id: number;
  /** Values in a block. */
  values: number;
  /** Bytes of a block. */
  bytes: number;
  decode: BlockDecoder;
}

/** f16 at byte `at` of a block. */
function half(table: Float32Array, src: Uint8Array, at: number): number {
  return table[src[at]! | (src[at + 1]! << 8)]!;
}

/** Q4_0, 18 bytes: `(q - 8) · d`; byte j holds value j below and value j + 16 above. */
function decodeQ4_0(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 32, s += 18) {
    const d = half(f16, src, s);
    for (let j = 0; j < 16; j++) {
      const q = src[s + 2 + j]!;
      out[i + j] = ((q & 15) - 8) * d;
      out[i + 16 + j] = ((q >> 4) - 8) * d;
    }
  }
}

/** Q4_1, 20 bytes: `q · d + m`. */
function decodeQ4_1(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 32, s += 20) {
    const d = half(f16, src, s);
    const m = half(f16, src, s + 2);
    for (let j = 0; j < 16; j++) {
      const q = src[s + 4 + j]!;
      out[i + j] = (q & 15) * d + m;
      out[i + 16 + j] = (q >> 4) * d + m;
    }
  }
}

/** Q5_0, 22 bytes: like Q4_0 with the fifth bits of all 32 values in a word after `d`: `(q - 16) · d`. */
function decodeQ5_0(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 32, s += 22) {
    const d = half(f16, src, s);
    const high = src[s + 2]! | (src[s + 3]! << 8) | (src[s + 4]! << 16) | (src[s + 5]! << 24);
    for (let j = 0; j < 16; j++) {
      const q = src[s + 6 + j]!;
      out[i + j] = (((q & 15) | (((high >>> j) & 1) << 4)) - 16) * d;
      out[i + 16 + j] = (((q >> 4) | (((high >>> (j + 16)) & 1) << 4)) - 16) * d;
    }
  }
}

/** Q5_1, 24 bytes: like Q4_1 with fifth bits: `q · d + m`. */
function decodeQ5_1(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 32, s += 24) {
    const d = half(f16, src, s);
    const m = half(f16, src, s + 2);
    const high = src[s + 4]! | (src[s + 5]! << 8) | (src[s + 6]! << 16) | (src[s + 7]! << 24);
    for (let j = 0; j < 16; j++) {
      const q = src[s + 8 + j]!;
      out[i + j] = ((q & 15) | (((high >>> j) & 1) << 4)) * d + m;
      out[i + 16 + j] = ((q >> 4) | (((high >>> (j + 16)) & 1) << 4)) * d + m;
    }
  }
}

/** Q8_0, 34 bytes: `q · d` with signed bytes. */
function decodeQ8_0(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 32, s += 34) {
    const d = half(f16, src, s);
    for (let j = 0; j < 32; j++) out[i + j] = ((src[s + 2 + j]! << 24) >> 24) * d;
  }
}

/** The 16 levels of the non-linear 4-bit types. */
const IQ4_LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/** IQ4_NL, 18 bytes: Q4_0's layout, each nibble an index into {@link IQ4_LEVELS}. */
function decodeIq4Nl(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 32, s += 18) {
    const d = half(f16, src, s);
    for (let j = 0; j < 16; j++) {
      const q = src[s + 2 + j]!;
      out[i + j] = IQ4_LEVELS[q & 15]! * d;
      out[i + 16 + j] = IQ4_LEVELS[q >> 4]! * d;
    }
  }
}

/** IQ4_XS, 136 bytes for 256 values: eight IQ4_NL sub-blocks with 6-bit scales (4 bits low, 2 bits high), minus 32. */
function decodeIq4Xs(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 256, s += 136) {
    const d = half(f16, src, s);
    const high = src[s + 2]! | (src[s + 3]! << 8);
    for (let b = 0; b < 8; b++) {
      const low = (src[s + 4 + (b >> 1)]! >> (4 * (b & 1))) & 15;
      const step = d * ((low | (((high >> (2 * b)) & 3) << 4)) - 32);
      for (let j = 0; j < 16; j++) {
        const q = src[s + 8 + 16 * b + j]!;
        out[i + 32 * b + j] = IQ4_LEVELS[q & 15]! * step;
        out[i + 32 * b + 16 + j] = IQ4_LEVELS[q >> 4]! * step;
      }
    }
  }
}

const plain = (
  name: "F32" | "F16" | "BF16" | "F64" | "I8" | "I16" | "I32" | "I64",
  id: number,
  bytes: number,
) => ({
  name,
  id,
  values: 1,
  bytes,
  decode: (src: Uint8Array, out: Float32Array) => decodeToF32(name, src, out),
});

/** All types that nibble decodes, by their number in the file. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map(
  ([
    plain("F32", 0, 4),
    plain("F16", 1, 2),
    { name: "Q4_0", id: 2, values: 32, bytes: 18, decode: decodeQ4_0 },
    { name: "Q4_1", id: 3, values: 32, bytes: 20, decode: decodeQ4_1 },
    { name: "Q5_0", id: 6, values: 32, bytes: 22, decode: decodeQ5_0 },
    { name: "Q5_1", id: 7, values: 32, bytes: 24, decode: decodeQ5_1 },
    { name: "Q8_0", id: 8, values: 32, bytes: 34, decode: decodeQ8_0 },
    { name: "Q2_K", id: 10, values: 256, bytes: 84, decode: decodeQ2K },
    { name: "Q3_K", id: 11, values: 256, bytes: 110, decode: decodeQ3K },
    { name: "Q4_K", id: 12, values: 256, bytes: Q4K_BYTES, decode: decodeQ4K },
    { name: "Q5_K", id: 13, values: 256, bytes: 176, decode: decodeQ5K },
    { name: "Q6_K", id: 14, values: 256, bytes: 210, decode: decodeQ6K },
    { name: "IQ4_NL", id: 20, values: 32, bytes: 18, decode: decodeIq4Nl },
    { name: "IQ4_XS", id: 23, values: 256, bytes: 136, decode: decodeIq4Xs },
    plain("I8", 24, 1),
    plain("I16", 25, 2),
    plain("I32", 26, 4),
    plain("I64", 27, 8),
    plain("F64", 28, 8),
    plain("BF16", 30, 2),
  ] satisfies GgmlType[]).map((t) => [t.id, t]),
);

/** The type of that name, or `undefined`. */
export function ggmlType(name: string): GgmlType | undefined {
  for (const t of GGML_TYPES.values()) if (t.name === name) return t;
  return undefined;
}
