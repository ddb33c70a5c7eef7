/**
 * Tokens in a file: what tokenization is cached in, and what a data set larger than memory is trained from.
 *
 * Little-endian: `nibbtok1`; the words of all sequences (u32, token_store.ts); their lengths (u32); their rows (u32);
 * JSON; then 64 bytes: numbers of words, sequences and JSON bytes (u64 each), SHA-256 of all before, `nibbtok1`.
 * @module
 */
import { createHash } from "node:crypto";
import { dirname } from "@std/path";
import { NibbleError } from "../errors.ts";
import type { TokenSequence } from "./pack.ts";
import { storeOf, type TokenStore, toWords } from "./token_store.ts";

const MAGIC = new TextEncoder().encode("nibbtok1");
const TRAILER = 64;
const CHUNK = 1 << 20;

/** A token file being written. */
export interface TokenFileWriter {
  /** Adds a sequence. */
  put(sequence: TokenSequence): void;
  /** Writes what remains, brings it to disk and gives the file its name. */
  finish(meta: unknown): void;
  /** Removes what was written, unless it is finished. */
  close(): void;
}

/**
 * Begins a token file beside its place. Memory: 8 bytes a sequence and a buffer of 1 MiB.
 *
 * @throws NibbleError `data/token-cache` where it cannot be written
 */
export function writeTokenFile(path: string): TokenFileWriter {
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  const guarded = <T>(act: () => T): T => {
    try {
      return act();
    } catch (cause) {
      throw new NibbleError("data/token-cache", `Cannot write tokens (${(cause as Error).message})`, {
        where: path,
        remedy: "Make room there, or set XDG_CACHE_HOME to a folder that can be written.",
        cause,
      });
    }
  };
  const file = guarded(() => {
    Deno.mkdirSync(dirname(path), { recursive: true });
    return Deno.openSync(beside, { write: true, createNew: true });
  });
  const hash = createHash("sha256");
  const buffer = new Uint8Array(CHUNK);
  let filled = 0, open = true;
  const flush = () =>
    guarded(() => {
      for (let at = 0; at < filled;) at += file.writeSync(buffer.subarray(at, filled));
      filled = 0;
    });
  const write = (bytes: Uint8Array) => {
    hash.update(bytes);
    for (let at = 0; at < bytes.length;) {
      const n = Math.min(bytes.length - at, CHUNK - filled);
      buffer.set(bytes.subarray(at, at + n), filled);
      filled += n;
      at += n;
      if (filled === CHUNK) flush();
    }
  };
  const lengths = growing(), rows = growing();
  let words = 0;
  write(MAGIC);
  return {
    put(sequence) {
      const data = toWords(sequence);
      write(new Uint8Array(data.buffer));
      lengths.push(data.length);
      rows.push(sequence.row);
      words += data.length;
    },
    finish(meta) {
      const json = new TextEncoder().encode(JSON.stringify(meta));
      for (const list of [lengths, rows]) write(new Uint8Array(list.values().buffer));
      write(json);
      const trailer = new Uint8Array(TRAILER);
      const view = new DataView(trailer.buffer);
      [words, lengths.size(), json.length].forEach((n, i) => view.setBigUint64(8 * i, BigInt(n), true));
      trailer.set(hash.digest(), 24);
      trailer.set(MAGIC, 56);
      flush();
      guarded(() => {
        for (let at = 0; at < TRAILER;) at += file.writeSync(trailer.subarray(at));
        file.syncSync();
        file.close();
        open = false;
        Deno.renameSync(beside, path);
      });
    },
    close() {
      if (!open) return;
      open = false;
      file.close();
      Deno.removeSync(beside);
    },
  };
}

/**
 * Opens a token file, whose every byte is checked.
 *
 * @param inMemory keep the tokens in memory, or read each sequence from the file when it is asked for
 * @returns undefined where there is none, or it is not whole and sound
 */
export function readTokenFile(
  path: string,
  inMemory: boolean,
): { store: TokenStore; meta: unknown } | undefined {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path);
  } catch {
    return undefined;
  }
  using _ = file;
  const size = file.statSync().size;
  if (size < MAGIC.length + TRAILER) return undefined;
  const trailer = readAt(file, size - TRAILER, TRAILER);
  const view = new DataView(trailer.buffer);
  const [words, count, jsonBytes] = [0, 8, 16].map((at) => Number(view.getBigUint64(at, true)));
  if (MAGIC.length + 4 * words! + 8 * count! + jsonBytes! + TRAILER !== size) return undefined;
  const hash = createHash("sha256");
  const take = <T extends Uint8Array>(at: number, bytes: number, into?: T) => {
    for (let done = 0; done < bytes;) {
      const part = readAt(file, at + done, Math.min(CHUNK, bytes - done));
      hash.update(part);
      into?.set(part, done);
      done += part.length;
    }
  };
  const tokens = new Uint32Array(inMemory ? words! : 0);
  const [lengths, rows] = [new Uint32Array(count!), new Uint32Array(count!)];
  const json = new Uint8Array(jsonBytes!);
  take(0, MAGIC.length);
  take(MAGIC.length, 4 * words!, inMemory ? new Uint8Array(tokens.buffer) : undefined);
  const index = MAGIC.length + 4 * words!;
  take(index, 4 * count!, new Uint8Array(lengths.buffer));
  take(index + 4 * count!, 4 * count!, new Uint8Array(rows.buffer));
  take(index + 8 * count!, jsonBytes!, json);
  if (!hash.digest().equals(trailer.subarray(24, 56))) return undefined;
  const read = inMemory
    ? (start: number, end: number) => tokens.subarray(start, end)
    : (start: number, end: number) => {
      using again = Deno.openSync(path); // for this piece only: nothing has to be closed later
      return new Uint32Array(readAt(again, MAGIC.length + 4 * start, 4 * (end - start)).buffer);
    };
  return { store: storeOf(lengths, rows, read), meta: JSON.parse(new TextDecoder().decode(json)) };
}

function readAt(file: Deno.FsFile, at: number, bytes: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(bytes);
  file.seekSync(at, Deno.SeekMode.Start);
  for (let done = 0; done < bytes;) {
    const n = file.readSync(out.subarray(done));
    if (n === null) throw new NibbleError("data/token-cache", "A file of tokens was cut short while in use");
    done += n;
  }
  return out;
}

/** A list of whole numbers in 4 bytes each. */
function growing() {
  let values = new Uint32Array(1024), size = 0;
  return {
    push(value: number) {
      if (size === values.length) {
        const larger = new Uint32Array(2 * size);
        larger.set(values);
        values = larger;
      }
      values[size++] = value;
    },
    size: () => size,
    values: () => values.slice(0, size),
  };
}
