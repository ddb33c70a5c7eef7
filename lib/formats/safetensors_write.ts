/**
 * Writing safetensors, one file or shards with an index, tensor by tensor.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { bytesOf, DTYPE_BYTES, f32ToBf16, f32ToF16 } from "./dtype.ts";
import { CHUNK_BYTES, makeOutputFolder, writeText, writeWhole, writeWholeAsync } from "./file.ts";
import { elementCount } from "./source.ts";

/** Types that nibble writes. */
export type WritableDtype = "F32" | "F16" | "BF16" | "U8" | "I32" | "I64";

/** A tensor's values: its bytes or elements as one array, or in pieces. */
export type TensorData = ArrayBufferView | Iterable<ArrayBufferView>;

/** A tensor to write. */
export interface WritableTensor {
  /** Name in the file. */
  name: string;
  /** Type in the file. */
  dtype: WritableDtype;
  /** Outermost dimension first. */
  shape: readonly number[];
  /**
   * Values, or a function that makes them when their turn comes, so that a model larger than memory can be
   * written. `Float32Array`s are rounded to F16 or BF16 when that is the dtype; all else is written as it lies.
   */
  data: TensorData | (() => TensorData);
}

/**
 * Write a safetensors file: beside its place first, then renamed.
 *
 * Tensors are laid out by falling element size, then by name, which keeps each aligned and makes the file depend
 * only on its content. The header is padded with spaces to a multiple of 8 bytes.
 * @param metadata strings for `__metadata__`; `{format: "pt"}` unless given, which transformers insists on
 * @throws NibbleError `formats/duplicate-tensor`, `formats/size-mismatch`, `formats/cannot-write`
 *
 * @example
 * ```ts
 * import { writeSafetensors } from "./safetensors_write.ts";
 * const path = await Deno.makeTempFile();
 * writeSafetensors(path, [{ name: "w", dtype: "BF16", shape: [2], data: () => new Float32Array([1, 2]) }]);
 * const bytes = await Deno.readFile(path);
 * if (bytes.at(-1) !== 0x40 || bytes.at(-2) !== 0) throw new Error("2 is 0x4000 in bfloat16");
 * await Deno.remove(path);
 * ```
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<WritableTensor>,
  metadata: Record<string, string> = FOR_TRANSFORMERS,
): void {
  const list = inOrder(path, tensors);
  writeWhole(path, (put) => {
    put(headOf(list, metadata));
    for (const t of list) {
      const data = typeof t.data === "function" ? t.data() : t.data;
      const count = counter(path, t);
      for (const piece of ArrayBuffer.isView(data) ? [data] : data) {
        for (const bytes of encoded(path, t, piece)) put(count.add(bytes));
      }
      count.check();
    }
  });
}

const FOR_TRANSFORMERS = { format: "pt" };

/** Length and JSON of the header, for tensors in the order in which their data follows. */
function headOf(
  list: readonly Pick<WritableTensor, "name" | "dtype" | "shape">[],
  metadata: Record<string, string>,
): Uint8Array {
  // Without a prototype, so that no tensor's name means anything but itself.
  const header: Record<string, unknown> = Object.assign(Object.create(null), { __metadata__: metadata });
  let at = 0;
  for (const t of list) {
    header[t.name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, at += byteLength(t)] };
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(8 + padded).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true);
  head.set(json, 8);
  return head;
}

/** Options of {@link writeShardedSafetensors}. */
export interface ShardOptions {
  /** Most data bytes in one file (5e9 unless given, as transformers has it); a larger tensor gets its own file. */
  maxShardBytes?: number;
  /** File stem, `model` unless given. */
  stem?: string;
  /** `__metadata__` of each file. */
  metadata?: Record<string, string>;
}

/**
 * Write tensors into a folder as `model.safetensors`, or, when they exceed `maxShardBytes`, as
 * `model-00001-of-0000N.safetensors` with `model.safetensors.index.json`, in the order given.
 *
 * The index is written after all shards; files of an earlier, other division are removed last, so the folder
 * never has a reader pick half of each.
 * @returns names of the data files
 */
export function writeShardedSafetensors(
  folder: string,
  tensors: Iterable<WritableTensor>,
  options: ShardOptions = {},
): string[] {
  const { maxShardBytes = 5e9, stem = "model", metadata = FOR_TRANSFORMERS } = options;
  makeOutputFolder(folder);
  const shards = divide(folder, [...tensors], maxShardBytes, stem);
  for (const { name, tensors } of shards) writeSafetensors(join(folder, name), tensors, metadata);
  finishShards(folder, shards, stem);
  return shards.map((s) => s.name);
}

/** A tensor whose values are made while it is written, and take waiting. */
export type StreamedTensor = Omit<WritableTensor, "data"> & { data: () => AsyncIterable<ArrayBufferView> };

/**
 * {@link writeShardedSafetensors} of values that are read back from a device: the host holds one piece at a time.
 * Everything is written in the order given, so that a reader of the device may stream.
 */
export async function streamShardedSafetensors(
  folder: string,
  tensors: Iterable<StreamedTensor>,
  options: ShardOptions = {},
): Promise<string[]> {
  const { maxShardBytes = 5e9, stem = "model", metadata = FOR_TRANSFORMERS } = options;
  makeOutputFolder(folder);
  const shards = divide(folder, [...tensors], maxShardBytes, stem);
  for (const { name, tensors } of shards) {
    const path = join(folder, name);
    await writeWholeAsync(path, async (put) => {
      put(headOf(tensors, metadata));
      for (const t of tensors) {
        const count = counter(path, t);
        for await (const piece of t.data()) {
          for (const bytes of encoded(path, t, piece)) put(count.add(bytes));
        }
        count.check();
      }
    });
  }
  finishShards(folder, shards, stem);
  return shards.map((s) => s.name);
}

interface Shard<T> {
  name: string;
  tensors: T[];
}

/** Files of at most `maxShardBytes`, in the order given. */
function divide<T extends Pick<WritableTensor, "name" | "dtype" | "shape">>(
  folder: string,
  all: T[],
  maxShardBytes: number,
  stem: string,
): Shard<T>[] {
  checkNames(folder, all); // one name in two shards would be as wrong as in one
  const groups: T[][] = [[]];
  let filled = 0;
  for (const t of all) {
    const bytes = byteLength(t);
    if (filled > 0 && filled + bytes > maxShardBytes) {
      groups.push([]);
      filled = 0;
    }
    groups.at(-1)!.push(t);
    filled += bytes;
  }
  const pad = (n: number) => String(n).padStart(5, "0");
  return groups.map((tensors, i) => ({
    tensors,
    name: groups.length === 1
      ? `${stem}.safetensors`
      : `${stem}-${pad(i + 1)}-of-${pad(groups.length)}.safetensors`,
  }));
}

/** Writes the index of several shards, and removes files of an earlier division. */
function finishShards(
  folder: string,
  shards: readonly Shard<Pick<WritableTensor, "name" | "dtype" | "shape">>[],
  stem: string,
): void {
  const keep = new Set(shards.map((s) => s.name));
  if (shards.length > 1) {
    const places = shards.flatMap(({ name, tensors }) => tensors.map((t) => [t.name, name] as const));
    const weightMap = Object.fromEntries(places.sort(([a], [b]) => a < b ? -1 : 1));
    const total = shards.flatMap((s) => s.tensors).reduce((sum, t) => sum + byteLength(t), 0);
    const text = JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2) + "\n";
    const indexName = `${stem}.safetensors.index.json`;
    writeText(join(folder, indexName), text);
    keep.add(indexName);
  }
  const ours = new RegExp(`^${RegExp.escape(stem)}(-\\d{5}-of-\\d{5})?\\.safetensors(\\.index\\.json)?$`);
  for (const entry of [...Deno.readDirSync(folder)]) {
    if (entry.isFile && ours.test(entry.name) && !keep.has(entry.name)) {
      Deno.removeSync(join(folder, entry.name));
    }
  }
}

function byteLength(t: Pick<WritableTensor, "dtype" | "shape">): number {
  return elementCount(t.shape) * DTYPE_BYTES[t.dtype];
}

function checkNames(path: string, list: readonly { name: string }[]): void {
  const seen = new Set<string>(["__metadata__"]);
  for (const t of list) {
    if (seen.has(t.name)) {
      throw new NibbleError("formats/duplicate-tensor", `The name "${t.name}" is taken`, {
        where: path,
        remedy: "Give each tensor a name of its own.",
      });
    }
    seen.add(t.name);
  }
}

function inOrder(path: string, tensors: Iterable<WritableTensor>): WritableTensor[] {
  const list = [...tensors];
  checkNames(path, list);
  return list.sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1));
}

type Described = Pick<WritableTensor, "name" | "dtype" | "shape">;

/** The bytes of a piece of a tensor's values, in the tensor's type. */
function* encoded(path: string, t: Described, piece: ArrayBufferView): Generator<Uint8Array> {
  if (piece instanceof Float32Array && (t.dtype === "F16" || t.dtype === "BF16")) {
    const round = t.dtype === "F16" ? f32ToF16 : f32ToBf16;
    const step = CHUNK_BYTES / 4;
    for (let i = 0; i < piece.length; i += step) yield bytesOf(round(piece.subarray(i, i + step)));
    return;
  }
  // Bytes may carry any type; elements of another width than the dtype's are a mistake.
  const size = (piece as { BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ?? 1;
  if (size !== 1 && size !== DTYPE_BYTES[t.dtype]) {
    throw sizeMismatch(path, t, `elements of ${size} bytes for ${t.dtype}`);
  }
  yield bytesOf(piece);
}

/** Counts a tensor's bytes, and compares them with its shape at the end. */
function counter(path: string, t: Described): { add: (bytes: Uint8Array) => Uint8Array; check: () => void } {
  let written = 0;
  return {
    add(bytes) {
      written += bytes.length;
      return bytes;
    },
    check() {
      if (written === byteLength(t)) return;
      const expected = `${t.dtype} [${t.shape.join(", ")}] of ${byteLength(t)}`;
      throw sizeMismatch(path, t, `${written} bytes for ${expected}`);
    },
  };
}

function sizeMismatch(path: string, t: Described, what: string): NibbleError {
  return new NibbleError("formats/size-mismatch", `The data does not fit the tensor: ${what}`, {
    where: `${path}, tensor "${t.name}"`,
    remedy: "Give data of the tensor's shape and dtype.",
  });
}
