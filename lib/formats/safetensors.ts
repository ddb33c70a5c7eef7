/**
 * Reading safetensors, one file or many shards, without holding a file in memory.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { decodeToF32, DTYPE_BYTES, isPlain } from "./dtype.ts";
import { CHUNK_BYTES, isObject, openFile, type RandomAccessFile, readObjectIfThere } from "./file.ts";
import { readSafetensorsHeader, type StoredTensor } from "./safetensors_header.ts";
import { elementCount, type TensorInfo, type TensorSource } from "./source.ts";

/** A safetensors file or set of shards. */
export interface SafetensorsSource extends TensorSource {
  /** `__metadata__` of the file (of the first shard). */
  readonly metadata: Readonly<Record<string, string>>;
}

interface Placed {
  info: StoredTensor;
  file: RandomAccessFile;
}

/**
 * Open one `.safetensors` file.
 * @throws NibbleError when the file is missing, cut short, or its header does not add up
 *
 * @example
 * ```ts
 * import { openSafetensors } from "./safetensors.ts";
 * import { writeSafetensors } from "./safetensors_write.ts";
 * const path = await Deno.makeTempFile({ suffix: ".safetensors" });
 * writeSafetensors(path, [{ name: "w", dtype: "F16", shape: [2, 2], data: new Float32Array([1, 2, 3, 4]) }]);
 * const source = openSafetensors(path);
 * if (source.readF32("w", 2).join() !== "3,4") throw new Error("second row");
 * source.close();
 * await Deno.remove(path);
 * ```
 */
export function openSafetensors(path: string): SafetensorsSource {
  const file = openFile(path);
  try {
    const header = readSafetensorsHeader(file);
    const placed = new Map([...header.tensors].map(([name, info]) => [name, { info, file }]));
    return makeSource(path, placed, [file], header.metadata);
  } catch (e) {
    file.close();
    throw e;
  }
}

/**
 * Open the shards that an index file (`model.safetensors.index.json`) lists, as one source.
 * @throws NibbleError when the index is malformed, a shard is missing, or a shard lacks a listed tensor
 */
export function openShardedSafetensors(indexPath: string): SafetensorsSource {
  const index = readObjectIfThere(indexPath);
  if (!index) {
    throw new NibbleError("formats/missing-file", "There is no index of shards", {
      where: indexPath,
      remedy: "Give the path of model.safetensors.index.json.",
    });
  }
  const map = index["weight_map"];
  if (!isObject(map) || Object.values(map).some((v) => typeof v !== "string")) {
    throw new NibbleError("formats/bad-index", "weight_map must map tensor names to file names", {
      where: indexPath,
      remedy: "Fetch the index again.",
    });
  }
  const folder = join(indexPath, "..");
  const shards = new Map<string, { file: RandomAccessFile; tensors: Map<string, StoredTensor> }>();
  const placed = new Map<string, Placed>();
  let metadata: Record<string, string> = {};
  try {
    for (const [name, shard] of Object.entries(map as Record<string, string>)) {
      let opened = shards.get(shard);
      if (!opened) {
        const file = openShard(folder, shard, indexPath, name);
        // Recorded before its header is read, so that a bad header closes this file too.
        shards.set(shard, opened = { file, tensors: new Map() });
        const header = readSafetensorsHeader(file);
        opened.tensors = header.tensors;
        if (shards.size === 1) metadata = header.metadata;
      }
      const info = opened.tensors.get(name);
      if (!info) {
        throw new NibbleError("formats/missing-tensor", `${shard} has no tensor "${name}"`, {
          where: indexPath,
          remedy: "Index and shards do not belong together: fetch the model again.",
        });
      }
      placed.set(name, { info, file: opened.file });
    }
  } catch (e) {
    for (const s of shards.values()) s.file.close();
    throw e;
  }
  return makeSource(folder, placed, [...shards.values()].map((s) => s.file), metadata);
}

function openShard(folder: string, shard: string, indexPath: string, tensor: string): RandomAccessFile {
  // An index from elsewhere must not be able to name files outside its folder.
  if (shard === "" || shard === ".." || /[/\\]/.test(shard)) {
    throw new NibbleError("formats/bad-index", `"${shard}" is not a plain file name`, {
      where: `${indexPath}, tensor "${tensor}"`,
      remedy: "Shards lie beside their index: correct weight_map or fetch the model again.",
    });
  }
  try {
    return openFile(join(folder, shard));
  } catch (cause) {
    throw new NibbleError("formats/missing-shard", `Shard ${shard} is missing`, {
      where: `${indexPath}, needed for tensor "${tensor}"`,
      remedy: "The download is incomplete: fetch the model again.",
      cause,
    });
  }
}

function makeSource(
  path: string,
  placed: Map<string, Placed>,
  files: RandomAccessFile[],
  metadata: Record<string, string>,
): SafetensorsSource {
  const tensors = new Map<string, TensorInfo>();
  for (const [name, { info }] of placed) {
    tensors.set(name, { name, dtype: info.dtype, shape: info.shape, bytes: info.bytes });
  }
  const find = (name: string): Placed => placed.get(name) ?? missingTensor(path, name, tensors);
  return {
    path,
    tensors,
    metadata,
    readF32(name, start = 0, end) {
      const { info, file } = find(name);
      const last = end ?? elementCount(info.shape);
      checkRange(path, name, start, last, elementCount(info.shape));
      const width = DTYPE_BYTES[info.dtype];
      const out = new Float32Array(last - start);
      const at = info.offset + start * width;
      if (info.dtype === "F32") {
        file.readInto(new Uint8Array(out.buffer), at);
        return out;
      }
      const step = CHUNK_BYTES / width;
      const scratch = new Uint8Array(Math.min(step, out.length) * width);
      for (let i = 0; i < out.length; i += step) {
        const n = Math.min(step, out.length - i);
        const bytes = scratch.subarray(0, n * width);
        file.readInto(bytes, at + i * width);
        decodeToF32(info.dtype, bytes, out.subarray(i, i + n));
      }
      return out;
    },
    readBytes(name, start = 0, end) {
      const { info, file } = find(name);
      const last = end ?? info.bytes;
      checkRange(path, name, start, last, info.bytes);
      const out = new Uint8Array(last - start);
      file.readInto(out, info.offset + start);
      return out;
    },
    readPlain(name, into, start) {
      const { info, file } = find(name);
      if (!isPlain(info.dtype)) return undefined;
      checkRange(path, name, start, start + into.length, info.bytes);
      return into.length > 0 ? file.fill(into, info.offset + start) : Promise.resolve();
    },
    close() {
      for (const f of files) f.close();
    },
  };
}

/** Throw for a tensor that a source lacks, with the nearest names it has. */
export function missingTensor(path: string, name: string, tensors: ReadonlyMap<string, unknown>): never {
  const tail = name.split(".").slice(-2).join(".");
  const near = [...tensors.keys()].filter((n) => n.endsWith(tail)).slice(0, 3);
  throw new NibbleError("formats/missing-tensor", `There is no tensor "${name}"`, {
    where: path,
    remedy: near.length > 0
      ? `The file has ${near.map((n) => `"${n}"`).join(", ")}: is it of the model that you mean?`
      : `The file has ${tensors.size} tensors, none of this kind: is it the model that you mean?`,
  });
}

/** Throw unless `0 <= start <= end <= size`, all whole. */
export function checkRange(path: string, name: string, start: number, end: number, size: number): void {
  if (Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start <= end && end <= size) return;
  throw new NibbleError("formats/range", `Cannot read [${start}, ${end}) of a tensor of ${size}`, {
    where: `${path}, tensor "${name}"`,
    remedy: "Ask for a range inside the tensor.",
  });
}
