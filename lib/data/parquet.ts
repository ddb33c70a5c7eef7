/**
 * Parquet files, a row group at a time.
 * @module
 */
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { type AsyncBuffer, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { NibbleError } from "../errors.ts";
import type { Row } from "./rows.ts";

/** Snappy is hyparquet's own; the runtime has the rest that data sets use. */
const COMPRESSORS = {
  GZIP: (input: Uint8Array) => new Uint8Array(gunzipSync(input)),
  ZSTD: (input: Uint8Array) => new Uint8Array(zstdDecompressSync(input)),
  BROTLI: (input: Uint8Array) => new Uint8Array(brotliDecompressSync(input)),
};

/**
 * Rows of a Parquet file in order; memory is bounded by the largest row group. 64-bit integers become numbers where
 * they are exact. Throws {@link NibbleError} `data/parquet` with the file.
 */
export async function* readParquet(path: string): AsyncGenerator<Row> {
  using handle = await Deno.open(path);
  const file = bufferOf(handle);
  try {
    const metadata = await parquetMetadataAsync(file);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const rows = await parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors: COMPRESSORS });
      for (const row of rows) yield plainNumbers(row) as Row;
      rowStart = rowEnd;
    }
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

/** Rows of a Parquet file, by its own account. Throws {@link NibbleError} `data/parquet`. */
export async function countParquet(path: string): Promise<number> {
  using handle = await Deno.open(path);
  try {
    return Number((await parquetMetadataAsync(bufferOf(handle))).num_rows);
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function bufferOf(handle: Deno.FsFile): AsyncBuffer {
  const byteLength = handle.statSync().size;
  return {
    byteLength,
    slice(start, end = byteLength) {
      const bytes = new Uint8Array(end - start);
      handle.seekSync(start, Deno.SeekMode.Start);
      for (let done = 0; done < bytes.length;) {
        const count = handle.readSync(bytes.subarray(done));
        if (count === null) throw new Error(`file ends at byte ${start + done}`);
        done += count;
      }
      return bytes.buffer;
    },
  };
}

function unreadable(path: string, cause: unknown): NibbleError {
  return new NibbleError("data/parquet", `Cannot read Parquet: ${(cause as Error).message}`, {
    where: path,
    remedy: "Check that the file is whole. Compression may be none, snappy, gzip, zstd or brotli.",
    cause,
  });
}

function plainNumbers(value: unknown): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (Array.isArray(value)) return value.map(plainNumbers);
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
    return value;
  }
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainNumbers(inner)]));
}
