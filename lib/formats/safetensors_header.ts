/**
 * The header of a safetensors file: parse, and refuse what does not add up before anything is allocated for it.
 *
 * Layout: u64 header length, JSON `{name: {dtype, shape, data_offsets: [begin, end]}}`, data. Offsets count from
 * the byte after the header; the data is contiguous, without holes.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { DTYPE_BYTES, isStoredDtype, type StoredDtype } from "./dtype.ts";
import { isObject, type RandomAccessFile } from "./file.ts";
import type { TensorInfo } from "./source.ts";

/** Largest header that the format allows, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;

/** One tensor and the place of its first byte in the file. */
export interface StoredTensor extends TensorInfo {
  dtype: StoredDtype;
  offset: number;
}

/** A parsed header. */
export interface SafetensorsHeader {
  tensors: Map<string, StoredTensor>;
  /** The `__metadata__` entry, strings only. */
  metadata: Record<string, string>;
  /** The byte at which data begins. */
  dataStart: number;
}

/**
 * Read and check the header of an open safetensors file.
 * @throws NibbleError `formats/safetensors-*`, naming the file, the tensor, and the remedy
 */
export function readSafetensorsHeader(file: RandomAccessFile): SafetensorsHeader {
  const { path, size } = file;
  const bad = (code: string, what: string, tensor?: string) =>
    new NibbleError(`formats/safetensors-${code}`, what, {
      where: tensor === undefined ? path : `${path}, tensor "${tensor}"`,
      remedy: "The file is damaged or not a safetensors file: download or write it again.",
    });

  if (size < 8) throw bad("truncated", `The file has ${size} bytes; a safetensors file has 8 at least`);
  const prefix = new Uint8Array(8);
  file.readInto(prefix, 0);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw bad("header-length", `The header claims ${length} bytes; the format allows ${MAX_HEADER_BYTES}`);
  }
  const headerBytes = Number(length);
  if (8 + headerBytes > size) {
    throw bad("truncated", `The header claims ${headerBytes} bytes, but the file has only ${size - 8} more`);
  }
  const text = new Uint8Array(headerBytes);
  file.readInto(text, 8);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text));
  } catch {
    throw bad("header-json", "The header is not JSON");
  }
  if (!isObject(json)) throw bad("header-json", "The header is not a JSON object");

  const dataStart = 8 + headerBytes;
  const dataBytes = size - dataStart;
  const tensors = new Map<string, StoredTensor>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") {
      if (!isObject(entry) || Object.values(entry).some((v) => typeof v !== "string")) {
        throw bad("metadata", "__metadata__ must map strings to strings");
      }
      metadata = entry as Record<string, string>;
    } else {
      tensors.set(name, checkEntry(name, entry, dataStart, dataBytes, bad));
    }
  }
  checkCoverage(tensors, dataStart, dataBytes, bad);
  return { tensors, metadata, dataStart };
}

type Bad = (code: string, what: string, tensor?: string) => NibbleError;

function checkEntry(
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
  bad: Bad,
): StoredTensor {
  if (!isObject(entry)) throw bad("entry", "Its header entry is not an object", name);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !isStoredDtype(dtype)) {
    throw bad("dtype", `Unknown dtype ${JSON.stringify(dtype)}`, name);
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw bad("shape", `Its shape ${JSON.stringify(shape)} is not a list of whole numbers`, name);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw bad("offsets", `Its data_offsets ${JSON.stringify(offsets)} are not two whole numbers`, name);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw bad("offsets", `Its data begins at ${begin} and ends before, at ${end}`, name);
  if (end > dataBytes) {
    throw bad("truncated", `Its data ends at byte ${end}, but the file holds ${dataBytes} data bytes`, name);
  }
  const needed = (shape as number[]).reduce((n, d) => n * d, DTYPE_BYTES[dtype]);
  if (needed !== end - begin) {
    throw bad(
      "size",
      `${dtype} [${shape.join(", ")}] needs ${needed} bytes, but data_offsets hold ${end - begin}`,
      name,
    );
  }
  return { name, dtype, shape: shape as number[], bytes: needed, offset: dataStart + begin };
}

/** Sorted by place, each tensor must begin where the one before ends, and the last must end with the file. */
function checkCoverage(
  tensors: Map<string, StoredTensor>,
  dataStart: number,
  dataBytes: number,
  bad: Bad,
): void {
  let at = dataStart;
  const inOrder = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  for (const t of inOrder) {
    if (t.offset < at) throw bad("overlap", "Its data overlaps that of another tensor", t.name);
    if (t.offset > at) {
      throw bad("hole", `${t.offset - at} bytes before its data belong to no tensor`, t.name);
    }
    at += t.bytes;
  }
  if (at !== dataStart + dataBytes) {
    throw bad("hole", `The last ${dataStart + dataBytes - at} bytes of the file belong to no tensor`);
  }
}

function isCount(n: unknown): n is number {
  return typeof n === "number" && Number.isSafeInteger(n) && n >= 0;
}
