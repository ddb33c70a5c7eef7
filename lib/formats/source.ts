/**
 * What the rest of nibble sees of a weight file, whatever its format.
 * @module
 */

import type { QuantForm, QuantState } from "./bnb.ts";

/** One stored tensor. */
export interface TensorInfo {
  /** Name in Hugging Face's spelling, `model.layers.0.self_attn.q_proj.weight`. */
  name: string;
  /** Stored type: a safetensors name (`F32`, `BF16`, `U8`, …), a ggml one (`Q4_1`, `Q6_K`, …), `NF4` or `FP4`. */
  dtype: string;
  /** Shape in Hugging Face's order, `[out, in]`. */
  shape: number[];
  /** Bytes in the file; of a weight in bitsandbytes' 4 bits, those of its codes. */
  bytes: number;
  /** Present for a weight in bitsandbytes' 4 bits: `shape` is then the weight's own. */
  quantized?: QuantForm;
}

/**
 * Named tensors that lie in one or more files and are read piece by piece.
 *
 * Ranges count row-major elements (`readF32`) or stored bytes (`readBytes`) from the tensor's beginning.
 */
export interface TensorSource {
  /** File or folder that was opened. */
  readonly path: string;
  /** All tensors, by Hugging Face name. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Elements `[start, end)` decoded to f32. Beside the result it holds a few MiB at most. */
  readF32(name: string, start?: number, end?: number): Float32Array<ArrayBuffer>;
  /** Bytes `[start, end)` exactly as stored. */
  readBytes(name: string, start?: number, end?: number): Uint8Array<ArrayBuffer>;
  /**
   * Fills `into` from byte `start` of a tensor whose stored bytes are its numbers: F32, F16 or BF16, as its `dtype` says.
   * The thread is free meanwhile. Undefined, and nothing is read, for any other tensor; an empty `into` asks. Absent: of
   * no tensor.
   */
  readPlain?(name: string, into: Uint8Array, start: number): Promise<void> | undefined;
  /** Codes and scales of a weight that is stored `quantized`, for use without decoding. */
  readQuantState?(name: string): QuantState;
  /** Close the files. Reading afterwards is an error. */
  close(): void;
}

/** Number of elements of a shape (1 for a scalar). */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}
