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
  type PlainDtype,
  type TensorSource,
} from "../formats/mod.ts";

/** Bytes of a tensor that are read at a time. */
const CHUNK_BYTES = 4 * 2 ** 20;
/** Chunks that are read ahead: some take longer to read than to work on, others less. */
const AHEAD = 3;
/** Hands out one array again and again, made anew only when more is asked for. */
export function reusable(): (bytes: number) => Uint8Array<ArrayBuffer> {
  let held = new Uint8Array();
  return (bytes) => (held.length < bytes ? held = new Uint8Array(bytes) : held).subarray(0, bytes);
}

/** Some rows of a tensor, in the file's type where the device reads it, else in f32. */
export interface Chunk {
  name: string;
  row: number;
  rows: number;
  dtype: "f32" | "f16" | "bf16";
  values: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;
}

/** Elements `[start, end)` of a tensor, whole rows. */
interface Piece {
  name: string;
  start: number;
  end: number;
  columns: number;
  /** The file's type, where its bytes are read as they are; else it is decoded. */
  type: PlainDtype | undefined;
}

/** A tensor to be read, in chunks of a multiple of 64 rows, or of a greater power of two. */
export interface ChunkSpec {
  name: string;
  shape: readonly number[];
  multiple?: number;
}

function* pieces(specs: Iterable<ChunkSpec>, source: TensorSource): Generator<Piece> {
  for (const { name, shape, multiple = 64 } of specs) {
    const unit = Math.max(64, multiple);
    const columns = shape.at(-1)!, size = elementCount(shape);
    const stored = source.tensors.get(name)!.dtype;
    const type = isPlain(stored) && source.readPlain?.(name, new Uint8Array(), 0) ? stored : undefined;
    const rows = Math.floor(CHUNK_BYTES / DTYPE_BYTES[type ?? "F32"] / columns / unit) * unit;
    const step = Math.max(unit, rows) * columns;
    for (let start = 0; start < size; start += step) {
      yield { name, start, end: Math.min(size, start + step), columns, type };
    }
  }
}

/**
 * Reads tensors one after the other, the next chunks while one is worked on. A chunk is gone when the next is asked for.
 */
export async function* chunks(
  specs: Iterable<ChunkSpec>,
  { source, rehearsal }: { source: TensorSource; rehearsal: boolean },
): AsyncGenerator<Chunk, undefined> {
  const arrays = Array.from({ length: AHEAD + 1 }, reusable);
  let taken = 0;
  const fetch = async ({ name, start, end, type }: Piece): Promise<Uint8Array<ArrayBuffer>> => {
    const width = DTYPE_BYTES[type ?? "F32"];
    if (!type && !rehearsal) return bytesOf(source.readF32(name, start, end));
    const bytes = arrays[taken++ % arrays.length]!((end - start) * width);
    if (!rehearsal) await source.readPlain!(name, bytes, start * width);
    return bytes;
  };
  const all = pieces(specs, source);
  // the one in work and those ahead; decoding is this thread's own work, and gains nothing by an early start
  const queue: { piece: Piece; bytes: Promise<Uint8Array<ArrayBuffer>> | undefined }[] = [];
  const fill = () => {
    while (queue.length <= AHEAD) {
      const { value: piece, done } = all.next();
      if (done) return;
      const bytes = piece.type ? fetch(piece) : undefined;
      bytes?.catch(() => {}); // heard of when its turn comes
      queue.push({ piece, bytes });
    }
  };
  try {
    for (fill(); queue.length > 0; queue.shift(), fill()) {
      const { piece, bytes } = queue[0]!, { name, start, end, columns, type } = piece;
      const { buffer, byteOffset, length } = await (bytes ?? fetch(piece));
      const values = type === "F32" || !type
        ? new Float32Array(buffer, byteOffset, length / 4)
        : new Uint16Array(buffer, byteOffset, length / 2);
      const dtype = (type ?? "F32").toLowerCase() as Chunk["dtype"];
      yield { name, row: start / columns, rows: (end - start) / columns, dtype, values };
    }
  } finally {
    await Promise.allSettled(queue.map(({ bytes }) => bytes)); // the file must not be closed under them
  }
}

/**
 * Refuses numbers that are not finite.
 *
 * @throws NibbleError `model/nan`
 */
export function checkFinite({ name, row, rows, dtype, values }: Chunk, source: TensorSource): void {
  const bad = nonFinite(dtype.toUpperCase() as PlainDtype, bytesOf(values));
  if (bad < 0) return;
  const at = row * (values.length / rows) + bad;
  const [value] = source.readF32(name, at, at + 1);
  throw new NibbleError("model/nan", `'${name}' holds ${value} at element ${at}`, {
    where: source.path,
    remedy: "The file is damaged or was saved from a diverged run; fetch it again.",
  });
}

/**
 * A chunk's numbers in f32, gone with the next.
 *
 * @param array hands out an array for them
 */
export function inF32(
  { dtype, values }: Chunk,
  array: (bytes: number) => Uint8Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  if (values instanceof Float32Array) return values;
  const into = new Float32Array(array(4 * values.length).buffer, 0, values.length);
  return dtype === "f16" ? f16ToF32(values, into) : bf16ToF32(values, into);
}
