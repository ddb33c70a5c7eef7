/**
 * Files read at an offset, and files that appear whole or not at all.
 * @module
 */
import { dirname } from "@std/path";
import { NibbleError } from "../errors.ts";

/** Largest piece that readers and writers hold at once. */
export const CHUNK_BYTES = 4 * 1024 * 1024;

/** An open file of known size. */
export interface RandomAccessFile {
  readonly path: string;
  /** Size when it was opened, in bytes. */
  readonly size: number;
  /** Fill `into` from `offset`; a file that ends earlier is an error that says so. */
  readInto(into: Uint8Array, offset: number): void;
  /** The same while the thread goes on, which may read elsewhere meanwhile. */
  fill(into: Uint8Array, offset: number): Promise<void>;
  close(): void;
}

/**
 * Open a file for reading at offsets.
 * @throws NibbleError `formats/missing-file` when it cannot be opened, `formats/truncated` when it is too short
 */
export function openFile(path: string): RandomAccessFile {
  let file: Deno.FsFile;
  let size: number;
  try {
    file = Deno.openSync(path, { read: true });
  } catch (cause) {
    throw new NibbleError("formats/missing-file", `Cannot open ${path}`, {
      where: path,
      remedy: "Check that the path is right and that the file may be read.",
      cause,
    });
  }
  try {
    const stat = file.statSync();
    if (!stat.isFile) {
      throw new NibbleError("formats/not-a-file", `${path} is not a file`, {
        where: path,
        remedy: "Give the path of a file, not of a folder.",
      });
    }
    size = stat.size;
  } catch (e) {
    file.close();
    throw e;
  }
  let open = true;
  const more: Deno.FsFile[] = [], idle: Deno.FsFile[] = []; // a handle has one position, which reading moves
  const truncated = (end: number, needed: number) =>
    new NibbleError(
      "formats/truncated",
      `${path} ends at byte ${end}, but bytes up to ${needed} are needed`,
      {
        where: path,
        remedy: "The file is cut short: download or copy it again.",
      },
    );
  return {
    path,
    size,
    readInto(into, offset) {
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let got = 0; got < into.length;) {
        const n = file.readSync(into.subarray(got));
        if (n === null) throw truncated(offset + got, offset + into.length);
        got += n;
      }
    },
    async fill(into, offset) {
      const handle = idle.pop() ?? more[more.push(Deno.openSync(path, { read: true })) - 1]!;
      handle.seekSync(offset, Deno.SeekMode.Start);
      for (let got = 0; got < into.length;) {
        const n = await handle.read(into.subarray(got));
        if (n === null) throw truncated(offset + got, offset + into.length);
        got += n;
      }
      idle.push(handle);
    },
    close() {
      // Twice is harmless: a model and its owner may both let go.
      if (open) [file, ...more].forEach((f) => f.close());
      open = false;
    },
  };
}

/**
 * Write a file beside its place and rename it when it is whole and on disk: readers see the old file or the new
 * one, never a half. If `write` throws, the part that was written is removed.
 *
 * @example
 * ```ts
 * import { writeWhole } from "./file.ts";
 * const path = await Deno.makeTempFile();
 * writeWhole(path, (put) => put(new TextEncoder().encode("all of it")));
 * if (await Deno.readTextFile(path) !== "all of it") throw new Error("not written");
 * await Deno.remove(path);
 * ```
 */
export function writeWhole(path: string, write: (put: Put) => void): void {
  const file = beginWhole(path);
  try {
    write(file.put);
    file.commit();
  } catch (cause) {
    throw file.discard(cause);
  }
}

/**
 * Creates a folder for output, with those above it; nothing happens where it is there.
 *
 * @throws NibbleError `formats/cannot-write` where a file has that name, or it may not be created
 */
export function makeOutputFolder(path: string): void {
  try {
    Deno.mkdirSync(path, { recursive: true });
  } catch (cause) {
    const file = cause instanceof Deno.errors.AlreadyExists || cause instanceof Deno.errors.NotADirectory;
    throw new NibbleError(
      "formats/cannot-write",
      file ? "A file stands where the output folder should be" : "The output folder cannot be created",
      { where: path, remedy: "Name a folder that is new, or one that may be written to.", cause },
    );
  }
}

/** Whether two paths lead to one folder or file; what is not there is nothing else's. */
export function isSamePlace(a: string, b: string): boolean {
  try {
    return Deno.realPathSync(a) === Deno.realPathSync(b);
  } catch {
    return false;
  }
}

/**
 * Refuses a folder for output that is one of those which are read, under whatever name.
 *
 * @throws NibbleError `formats/overwrites`
 */
export function refuseOverwriting(output: string, inputs: readonly string[]): void {
  if (!inputs.some((input) => isSamePlace(input, output))) return;
  throw new NibbleError("formats/overwrites", "The output would overwrite what it is made from", {
    where: output,
    remedy: "Name another folder.",
  });
}

/** {@link writeWhole} for a text. */
export function writeText(path: string, text: string): void {
  writeWhole(path, (put) => put(new TextEncoder().encode(text)));
}

/** {@link writeWhole} for content that takes waiting, such as what is read back from a device. */
export async function writeWholeAsync(path: string, write: (put: Put) => Promise<void>): Promise<void> {
  const file = beginWhole(path);
  try {
    await write(file.put);
    file.commit();
  } catch (cause) {
    throw file.discard(cause);
  }
}

/** Appends bytes to a file that is being written. */
export type Put = (bytes: Uint8Array) => void;

/** A file beside its place: `commit` renames it, `discard` removes it and returns the error to throw. */
function beginWhole(
  path: string,
): { put: Put; commit: () => void; discard: (cause: unknown) => NibbleError } {
  const beside = `${path}.tmp`;
  let file: Deno.FsFile | undefined;
  const discard = (cause: unknown): NibbleError => {
    file?.close();
    try {
      Deno.removeSync(beside);
    } catch {
      // Nothing was written, or it is gone already: the first error is the one that tells.
    }
    if (cause instanceof NibbleError) return cause;
    return new NibbleError("formats/cannot-write", `Cannot write ${path}: ${messageOf(cause)}`, {
      where: path,
      remedy: "Check that the folder exists, may be written, and has space left.",
      cause,
    });
  };
  try {
    file = Deno.openSync(beside, { write: true, create: true, truncate: true });
  } catch (cause) {
    throw discard(cause);
  }
  return {
    put(bytes) {
      for (let done = 0; done < bytes.length;) done += file!.writeSync(bytes.subarray(done));
    },
    commit() {
      file!.syncSync();
      file!.close();
      file = undefined;
      Deno.renameSync(beside, path);
      syncFolder(dirname(path));
    },
    discard,
  };
}

/** Put a rename on disk, where the system lets a folder be synced. */
function syncFolder(folder: string): void {
  if (Deno.build.os === "windows") return;
  using handle = Deno.openSync(folder, { read: true });
  handle.syncSync();
}

/** Whether there is a file at this path; what cannot be looked at is none. */
export function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** Text of a file, or `undefined` when there is none. Other failures are errors. */
export function readTextIfThere(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotADirectory) return undefined;
    throw new NibbleError("formats/cannot-read", `Cannot read ${path}: ${messageOf(cause)}`, {
      where: path,
      remedy: "Check that it is a file that may be read.",
      cause,
    });
  }
}

/**
 * A JSON file's value, or `undefined` when there is no such file.
 * @throws NibbleError `formats/bad-json` when it isn't JSON
 */
export function readJsonIfThere(path: string): unknown {
  const text = readTextIfThere(path);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new NibbleError("formats/bad-json", `${path} is not valid JSON: ${messageOf(cause)}`, {
      where: path,
      remedy: "The file is damaged or was edited by hand: fetch it again or correct it.",
      cause,
    });
  }
}

/** Like {@link readJsonIfThere} for files that hold an object. */
export function readObjectIfThere(path: string): Record<string, unknown> | undefined {
  const value = readJsonIfThere(path);
  if (value === undefined || isObject(value)) return value;
  throw new NibbleError("formats/bad-json", `${path} must hold a JSON object`, {
    where: path,
    remedy: "Fetch the file again or correct it.",
  });
}

/** Whether a value is a plain JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
