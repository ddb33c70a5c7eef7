/**
 * Tensors of a file in chunks for the device, in the file's own type where the device reads that.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  bf16ToF32,
  bytesOf,
  DTYPE_BYTES,
  elementCount,
  f16ToF32,
  isPlain,
  nonFinite,
  type TensorSource,
} from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";

/** Bytes of a tensor that are read at a time. */
const CHUNK_BYTES = 4 * 2 ** 20;
/** Bytes written after which the device is waited for: what it has not taken yet, WebGPU keeps on the host. */
const IN_FLIGHT = 128 * 2 ** 20;

/** What loading carries from tensor to tensor. */
export interface Reading {
  source: TensorSource;
  rehearsal: boolean;
  /** Arrays for a chunk as it is read, and decoded, used again for the next. */
  chunk: (bytes: number) => Uint8Array<ArrayBuffer>;
  decoded: (bytes: number) => Uint8Array<ArrayBuffer>;
  /** Told how many parameters have been read. */
  advance: (n: number) => void;
  /** Bytes written to the device since it was last waited for. */
  inFlight: number;
}

/** Hands out one array again and again, made anew only when more is asked for. */
export function reusable(): (bytes: number) => Uint8Array<ArrayBuffer> {
  let held = new Uint8Array();
  return (bytes) => (held.length < bytes ? held = new Uint8Array(bytes) : held).subarray(0, bytes);
}

/** Some rows of a tensor, in the file's type where the device reads it, else in f32. */
export interface Chunk {
  row: number;
  rows: number;
  dtype: "f32" | "f16" | "bf16";
  values: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;
}

/**
 * Reads a tensor in chunks of whole rows, a multiple of 64 of them, and refuses NaN and infinities. A chunk is gone with
 * the next.
 */
export function* chunks(name: string, shape: readonly number[], reading: Reading): Generator<Chunk> {
  const { source, rehearsal } = reading;
  const columns = shape.at(-1)!, rows = elementCount(shape) / columns;
  const stored = source.tensors.get(name)!.dtype;
  const asStored = isPlain(stored) && (source.readPlain?.(name, new Uint8Array(), 0) ?? false);
  const type = asStored ? stored : "F32", width = DTYPE_BYTES[type];
  const step = Math.max(64, Math.floor(CHUNK_BYTES / width / columns / 64) * 64);
  const read = (start: number, end: number) => {
    if (!asStored && !rehearsal) return bytesOf(source.readF32(name, start, end));
    const bytes = reading.chunk((end - start) * width);
    if (!rehearsal) source.readPlain!(name, bytes, start * width);
    return bytes;
  };
  for (let row = 0; row < rows; row += step) {
    const end = Math.min(rows, row + step), start = row * columns;
    const bytes = read(start, end * columns);
    const bad = rehearsal ? -1 : nonFinite(type, bytes);
    if (bad >= 0) {
      const [value] = source.readF32(name, start + bad, start + bad + 1);
      throw new NibbleError("model/nan", `'${name}' holds ${value} at element ${start + bad}`, {
        where: source.path,
        remedy: "The file is damaged or was saved from a diverged run; fetch it again.",
      });
    }
    const { buffer, byteOffset, length } = bytes;
    const values = type === "F32"
      ? new Float32Array(buffer, byteOffset, length / width)
      : new Uint16Array(buffer, byteOffset, length / width);
    yield { row, rows: end - row, dtype: type.toLowerCase() as Chunk["dtype"], values };
    reading.advance(values.length);
    written(reading, length);
  }
}

/** Counts bytes that were written, and waits for the device now and then. */
export function written(reading: Reading, bytes: number): void {
  if (reading.rehearsal || (reading.inFlight += bytes) <= IN_FLIGHT) return;
  gpu().stream.wait();
  reading.inFlight = 0;
}

/** A chunk's numbers in f32, gone with the next. */
export function inF32({ dtype, values }: Chunk, reading: Reading): Float32Array<ArrayBuffer> {
  if (values instanceof Float32Array) return values;
  const into = new Float32Array(reading.decoded(4 * values.length).buffer, 0, values.length);
  return dtype === "f16" ? f16ToF32(values, into) : bf16ToF32(values, into);
}
