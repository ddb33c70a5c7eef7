/**
 * ggml's "K" quantization: 256 values share one or two f16 numbers, and their groups of 16 or 32 have small
 * integer scales (and minima) of their own.
 *
 * Layouts (bytes): Q2_K = scales 16, q 64, d 2, dmin 2 · Q3_K = high bits 32, q 64, scales 12, d 2 ·
 * Q4_K = d 2, dmin 2, scales 12, q 128 · Q5_K = d 2, dmin 2, scales 12, high bits 32, q 128 ·
 * Q6_K = low q 128, high q 64, scales 16, d 2.
 * @module
 */
import { f16Table } from "./dtype.ts";

/** Bytes of a Q4_K block. */
export const Q4K_BYTES = 144;

/** Q2_K, 84 bytes: `d·scale·q - dmin·min`, scale and min being the nibbles of a byte for each 16 values. */
export function decodeQ2K(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 256, s += 84) {
    const d = f16[src[s + 80]! | (src[s + 81]! << 8)]!;
    const dmin = f16[src[s + 82]! | (src[s + 83]! << 8)]!;
    for (let group = 0; group < 16; group++) {
      const scale = d * (src[s + group]! & 15);
      const min = dmin * (src[s + group]! >> 4);
      // 32 bytes carry 128 values, two bits each; groups alternate between the lower and upper 16 bytes.
      const q = s + 16 + 32 * (group >> 3) + 16 * (group & 1);
      const shift = 2 * ((group >> 1) & 3);
      for (let l = 0; l < 16; l++) out[i + 16 * group + l] = scale * ((src[q + l]! >> shift) & 3) - min;
    }
  }
}

/** Q3_K, 110 bytes: `d·(scale - 32)·q`, q in -4…3: two low bits, and a high bit that is clear for negatives. */
export function decodeQ3K(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 256, s += 110) {
    const d = f16[src[s + 108]! | (src[s + 109]! << 8)]!;
    for (let group = 0; group < 16; group++) {
      // Scales are 6 bits: nibbles in bytes 0-7 (groups 8-15 above 0-7), upper pairs of bits in bytes 8-11.
      const low = (src[s + 96 + (group & 7)]! >> (4 * (group >> 3))) & 15;
      const high = (src[s + 104 + (group & 3)]! >> (2 * (group >> 2))) & 3;
      const scale = d * ((low | (high << 4)) - 32);
      const q = s + 32 + 32 * (group >> 3) + 16 * (group & 1);
      const shift = 2 * ((group >> 1) & 3);
      const mask = s + 16 * (group & 1);
      const bit = 1 << (group >> 1);
      for (let l = 0; l < 16; l++) {
        out[i + 16 * group + l] = scale * (((src[q + l]! >> shift) & 3) - (src[mask + l]! & bit ? 0 : 4));
      }
    }
  }
}

/** Scale of sub-block `j` (0-7) among the 12 packed bytes at `at`: 6 bits. */
function scaleOf(src: Uint8Array, at: number, j: number): number {
  return j < 4 ? src[at + j]! & 63 : (src[at + j + 4]! & 15) | ((src[at + j - 4]! >> 6) << 4);
}

/** Minimum of sub-block `j`: 6 bits. */
function minOf(src: Uint8Array, at: number, j: number): number {
  return j < 4 ? src[at + j + 4]! & 63 : (src[at + j + 4]! >> 4) | ((src[at + j]! >> 6) << 4);
}

/** Q4_K, 144 bytes: `d·scale·q - dmin·min` for eight sub-blocks of 32; a byte holds values 64 k + l and + 32. */
export function decodeQ4K(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 256, s += Q4K_BYTES) {
    const d = f16[src[s]! | (src[s + 1]! << 8)]!;
    const dmin = f16[src[s + 2]! | (src[s + 3]! << 8)]!;
    for (let j = 0; j < 8; j++) {
      const scale = d * scaleOf(src, s + 4, j);
      const min = dmin * minOf(src, s + 4, j);
      const q = s + 16 + 32 * (j >> 1);
      const shift = 4 * (j & 1);
      for (let l = 0; l < 32; l++) out[i + 32 * j + l] = scale * ((src[q + l]! >> shift) & 15) - min;
    }
  }
}

/** Q5_K, 176 bytes: Q4_K with a fifth bit; bit `j` of high byte `l` belongs to value `l` of sub-block `j`. */
export function decodeQ5K(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 256, s += 176) {
    const d = f16[src[s]! | (src[s + 1]! << 8)]!;
    const dmin = f16[src[s + 2]! | (src[s + 3]! << 8)]!;
    for (let j = 0; j < 8; j++) {
      const scale = d * scaleOf(src, s + 4, j);
      const min = dmin * minOf(src, s + 4, j);
      const q = s + 48 + 32 * (j >> 1);
      const shift = 4 * (j & 1);
      for (let l = 0; l < 32; l++) {
        const value = ((src[q + l]! >> shift) & 15) | (((src[s + 16 + l]! >> j) & 1) << 4);
        out[i + 32 * j + l] = scale * value - min;
      }
    }
  }
}

/** Q6_K, 210 bytes: `d·scale·(q - 32)`, signed 8-bit scales for each 16 values; q is a nibble and two high bits. */
export function decodeQ6K(src: Uint8Array, out: Float32Array): void {
  const f16 = f16Table();
  for (let i = 0, s = 0; i < out.length; i += 256, s += 210) {
    const d = f16[src[s + 208]! | (src[s + 209]! << 8)]!;
    for (let group = 0; group < 16; group++) {
      const scale = d * ((src[s + 192 + group]! << 24) >> 24);
      const part = group >> 3; // which half of 128 values
      const quarter = (group >> 1) & 3; // which 32 of the 128
      const l0 = 16 * (group & 1);
      const low = s + 64 * part + 32 * (quarter & 1) + l0;
      const lowShift = 4 * (quarter >> 1);
      const high = s + 128 + 32 * part + l0;
      const highShift = 2 * quarter;
      for (let l = 0; l < 16; l++) {
        const q = ((src[low + l]! >> lowShift) & 15) | (((src[high + l]! >> highShift) & 3) << 4);
        out[i + 16 * group + l] = scale * (q - 32);
      }
    }
  }
}
