/**
 * The head of a GGUF file: key-value metadata and the table of tensors.
 *
 * Counts and lengths come from the file, so each is compared with the bytes that are left before anything is
 * allocated for it.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { RandomAccessFile } from "./file.ts";
import { GGML_TYPES, type GgmlType } from "./gguf_blocks.ts";

/** A metadata value; arrays of numbers are typed arrays or number lists. */
export type GgufValue = number | bigint | boolean | string | GgufArray;
/** An array in the metadata. */
export type GgufArray = Int32Array | Float32Array | (number | bigint | boolean | string | GgufArray)[];

/** A row of the tensor table, under the file's own name. */
export interface GgufTensor {
  /** Name in the file, `blk.0.attn_q.weight`. */
  name: string;
  type: GgmlType;
  /** Outermost dimension first: the reverse of the file's order. */
  shape: number[];
  /** Bytes of data. */
  bytes: number;
  /** The byte of the file where data begins. */
  offset: number;
}

/** What {@link readGgufHeader} finds. */
export interface GgufHeader {
  version: number;
  metadata: Map<string, GgufValue>;
  tensors: GgufTensor[];
}

const MAGIC = 0x46554747; // "GGUF", little-endian
const STRING = 8;
const ARRAY = 9;
/** Bytes of each value type by number; strings and arrays have at least their length (and type). */
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
const MAX_NESTING = 4;
const MAX_DIMENSIONS = 4;
const WINDOW_BYTES = 1024 * 1024;
/** Longest string (bytes) and array (items) that metadata may hold: hundreds of times what real files have. */
const MAX_STRING_BYTES = 1 << 26;
const MAX_ITEMS = 1 << 24;

/**
 * Read metadata and the tensor table of an open GGUF file, version 2 or 3.
 * @throws NibbleError `formats/gguf-*`
 */
export function readGgufHeader(file: RandomAccessFile): GgufHeader {
  const bad = (code: string, what: string, place?: string) =>
    new NibbleError(`formats/gguf-${code}`, what, {
      where: place === undefined ? file.path : `${file.path}, ${place}`,
      remedy: "The file is damaged, incomplete or not a GGUF model: download it again.",
    });
  if (file.size < 24) throw bad("truncated", `The file has ${file.size} bytes; a GGUF file has 24 at least`);
  const cursor = createCursor(file, bad);
  const magic = cursor.u32();
  if (magic !== MAGIC) throw bad("magic", `The file begins with 0x${magic.toString(16)}, not with "GGUF"`);
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    throw new NibbleError("formats/gguf-version", `GGUF version ${version} is not supported`, {
      where: file.path,
      remedy: (version & 0xffff) === 0
        ? "It is a big-endian file: convert the model again for little-endian machines."
        : "Convert the model again with a current llama.cpp (version 3).",
    });
  }
  const tensorCount = cursor.count("the tensor count", 24);
  const kvCount = cursor.count("the metadata count", 13);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < kvCount; i++) {
    const key = cursor.string(`metadata key ${i}`);
    if (metadata.has(key)) throw bad("duplicate-key", "The key occurs twice", `key "${key}"`);
    metadata.set(key, readValue(cursor, cursor.u32(), `key "${key}"`, bad, 0));
  }

  const rows = [];
  const seen = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    const name = cursor.string(`tensor name ${i}`);
    if (seen.has(name)) throw bad("duplicate-tensor", "The tensor occurs twice", `tensor "${name}"`);
    seen.add(name);
    const dims = cursor.u32();
    if (dims > MAX_DIMENSIONS) throw bad("shape", `It claims ${dims} dimensions`, `tensor "${name}"`);
    const shape: number[] = [];
    for (let d = 0; d < dims; d++) shape.unshift(cursor.u64(`a dimension of tensor "${name}"`));
    rows.push({ name, shape, typeId: cursor.u32(), relative: cursor.u64(`the offset of tensor "${name}"`) });
  }

  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || alignment < 1 || (alignment & (alignment - 1)) !== 0) {
    throw bad("alignment", `${String(alignment)} is not a power of two`, `key "general.alignment"`);
  }
  const dataStart = Math.ceil(cursor.position() / alignment) * alignment;
  const tensors = rows.map((row) => {
    const place = `tensor "${row.name}"`;
    const type = GGML_TYPES.get(row.typeId);
    if (!type) {
      const names = [...GGML_TYPES.values()].map((t) => t.name).join(", ");
      throw new NibbleError("formats/gguf-type", `ggml type ${row.typeId} cannot be read`, {
        where: `${file.path}, ${place}`,
        remedy: `Use a file quantized to one of ${names}.`,
      });
    }
    const count = row.shape.reduce((n, d) => n * d, 1);
    if (!Number.isSafeInteger(count)) throw bad("shape", `[${row.shape.join(", ")}] is too large`, place);
    if ((row.shape.at(-1) ?? 1) % type.values !== 0) {
      throw bad(
        "shape",
        `Rows of ${row.shape.at(-1)} are not whole blocks of ${type.name} (${type.values})`,
        place,
      );
    }
    if (row.relative % alignment !== 0) {
      throw bad("offset", `Its offset ${row.relative} is not a multiple of ${alignment}`, place);
    }
    const bytes = (count / type.values) * type.bytes;
    const offset = dataStart + row.relative;
    if (offset + bytes > file.size) {
      throw bad("truncated", `Its data ends at byte ${offset + bytes}, but the file has ${file.size}`, place);
    }
    return { name: row.name, type, shape: row.shape, bytes, offset };
  });
  const inOrder = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  for (let i = 1; i < inOrder.length; i++) {
    const [a, b] = [inOrder[i - 1]!, inOrder[i]!];
    if (a.offset + a.bytes > b.offset) {
      throw bad("overlap", `Its data overlaps that of "${a.name}"`, `tensor "${b.name}"`);
    }
  }
  return { version, metadata, tensors };
}

type Bad = (code: string, what: string, place?: string) => NibbleError;
type Cursor = ReturnType<typeof createCursor>;

function readValue(cursor: Cursor, type: number, place: string, bad: Bad, depth: number): GgufValue {
  switch (type) {
    case 0:
      return cursor.view(1).getUint8(0);
    case 1:
      return cursor.view(1).getInt8(0);
    case 2:
      return cursor.view(2).getUint16(0, true);
    case 3:
      return cursor.view(2).getInt16(0, true);
    case 4:
      return cursor.u32();
    case 5:
      return cursor.view(4).getInt32(0, true);
    case 6:
      return cursor.view(4).getFloat32(0, true);
    case 7:
      return cursor.view(1).getUint8(0) !== 0;
    case STRING:
      return cursor.string(place);
    case ARRAY:
      return readArray(cursor, place, bad, depth + 1);
    case 10:
      return narrow(cursor.view(8).getBigUint64(0, true));
    case 11:
      return narrow(cursor.view(8).getBigInt64(0, true));
    case 12:
      return cursor.view(8).getFloat64(0, true);
    default:
      throw bad("value-type", `Unknown value type ${type}`, place);
  }
}

function readArray(cursor: Cursor, place: string, bad: Bad, depth: number): GgufArray {
  if (depth > MAX_NESTING) throw bad("value-type", "Arrays lie in arrays too deeply", place);
  const type = cursor.u32();
  const width = VALUE_BYTES[type];
  if (width === undefined) throw bad("value-type", `Unknown value type ${type}`, place);
  const n = cursor.count(`the length of ${place}`, width, MAX_ITEMS);
  if (type === 5 || type === 6) {
    const bytes = new Uint8Array(n * 4);
    cursor.bytesInto(bytes);
    return type === 5 ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer);
  }
  const list = [];
  for (let i = 0; i < n; i++) list.push(readValue(cursor, type, place, bad, depth));
  return list;
}

/** 64-bit numbers become ordinary ones where these are exact. */
function narrow(n: bigint): number | bigint {
  const number = Number(n);
  return Number.isSafeInteger(number) ? number : n;
}

/** Reads forward through a window of the file. */
function createCursor(file: RandomAccessFile, bad: Bad) {
  let window = new Uint8Array(0);
  let windowStart = 0;
  let at = 0;
  // A byte-order mark is a token of some vocabularies, so it must survive.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** The next `n` bytes, as an offset into the window. */
  const advance = (n: number): number => {
    if (at + n > file.size) {
      throw bad("truncated", `The header goes on past the end of the file, at byte ${at}`);
    }
    if (at + n > windowStart + window.length) {
      window = new Uint8Array(Math.min(Math.max(n, WINDOW_BYTES), file.size - at));
      file.readInto(window, at);
      windowStart = at;
    }
    at += n;
    return at - n - windowStart;
  };
  const view = (n: number): DataView => {
    const from = advance(n);
    return new DataView(window.buffer, from, n);
  };
  const u64 = (what: string): number => {
    const n = view(8).getBigUint64(0, true);
    if (n > BigInt(Number.MAX_SAFE_INTEGER)) throw bad("number", `${n} is out of range for ${what}`);
    return Number(n);
  };
  /** A count of things that take `each` bytes at least: more than the file can hold is a lie. */
  const count = (what: string, each: number, most = Infinity): number => {
    const n = u64(what);
    if (n > most) throw bad("count", `${n} is impossible for ${what}: ${most} is the most that is read`);
    if (n * each > file.size - at) {
      throw bad("count", `${n} is impossible for ${what}: the file has only ${file.size - at} more bytes`);
    }
    return n;
  };
  return {
    view,
    u64,
    count,
    u32: () => view(4).getUint32(0, true),
    position: () => at,
    string(place: string): string {
      const n = count(`the length of ${place}`, 1, MAX_STRING_BYTES);
      const from = advance(n);
      return decoder.decode(window.subarray(from, from + n));
    },
    bytesInto(into: Uint8Array): void {
      file.readInto(into, at);
      at += into.length;
    },
  };
}
