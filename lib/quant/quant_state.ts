/**
 * A 4-bit weight as plain host data, laid out as bitsandbytes stores it.
 * @module
 */
import type { QuantType } from "./code_books.ts";

/** What a file holds of one 4-bit weight (bitsandbytes' `QuantState`). */
export interface QuantState {
  /** Element 2k in the high nibble of byte k, element 2k + 1 in the low one. */
  packed: Uint8Array;
  /** One scale a block; bytes where double-quantized. */
  absmax: Float32Array | Uint8Array;
  quantType: QuantType;
  /** The 16 values by code; a stored one is used as it is. */
  quantMap: Float32Array;
  blocksize: number;
  /** `[out, in]`. */
  shape: number[];
  /** The element type that the weight had. */
  dtype: "float32" | "float16" | "bfloat16";
  /** Double quantization of `absmax`. */
  nested?: { absmax: Float32Array; quantMap: Float32Array; offset: number; blocksize: number };
}
