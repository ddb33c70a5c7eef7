/**
 * One file of a repository into the cache: resumed where an earlier run stopped, checked by size and hash, and
 * given its final name only when it is whole.
 *
 * Plain `fetch` rather than `@huggingface/hub`'s `downloadFileToCacheDir`: that one neither resumes, nor checks the
 * hash, nor tries again, and asks for each file's metadata once more.
 * @module
 */
import { createHash, type Hash } from "node:crypto";
import { statfsSync } from "node:fs";
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { exists, makeFolder, type RepoFile, withLock } from "./cache.ts";
import { pause, reason, request, type Subject, TransientError, TRIES } from "./http.ts";
import type { FetchOptions, HubSettings } from "./settings.ts";

/**
 * Fetches one blob, unless the cache holds it.
 *
 * The partial file is `blobs/<hash>.incomplete`; a later run goes on where it ends. Tries are counted anew whenever
 * bytes arrived, so a long file over a bad line ends as long as it moves.
 *
 * @param url address of the content
 * @throws {NibbleError} `hub/wrong-hash` when the whole file twice does not have the hash that the Hub names,
 *   `hub/disk-full` when the disk cannot hold it
 * @throws {TransientError} when {@link TRIES} tries in a row brought nothing
 */
export async function downloadBlob(
  settings: HubSettings,
  folder: string,
  file: RepoFile,
  url: string,
  subject: Subject,
  onProgress?: FetchOptions["onProgress"],
): Promise<void> {
  const blob = join(folder, "blobs", file.hash);
  const report = (done: number) => onProgress?.({ file: file.path, done, total: file.size });
  if (exists(blob)) return report(file.size);
  makeFolder(join(folder, "blobs"));
  await withLock(settings.cache, folder, file.hash, async () => {
    if (exists(blob)) return; // fetched by another program while this one waited
    const partial = `${blob}.incomplete`;
    let wrong = 0;
    for (let failures = 0;;) {
      const before = sizeOf(partial);
      try {
        const hash = await append(settings, partial, file, url, subject, report);
        if (hash === file.hash) break;
        Deno.removeSync(partial);
        if (++wrong < 2) continue;
        throw new NibbleError(
          "hub/wrong-hash",
          `${file.path} does not have the content that the Hub announced`,
          {
            where: `${url}: expected ${file.hash}, got ${hash}`,
            remedy:
              "Fetch it again later; a proxy or mirror (HF_ENDPOINT) between here and the Hub may alter files.",
          },
        );
      } catch (error) {
        if (!(error instanceof TransientError)) throw diskFull(error, partial);
        failures = sizeOf(partial) > before ? 1 : failures + 1;
        if (failures >= TRIES) throw error;
        await pause(settings, failures, error);
      }
    }
    Deno.renameSync(partial, blob);
  });
}

/** Refuses before the first byte what the disk cannot hold. `needed` in bytes. */
export function checkSpace(folder: string, needed: number): void {
  makeFolder(folder);
  let free: number;
  try {
    const disk = statfsSync(folder);
    free = disk.bavail * disk.bsize;
  } catch {
    return; // a system that does not tell; a write that fails is still reported
  }
  if (needed <= free) return;
  throw new NibbleError("hub/disk-full", `The files need ${mib(needed)} and the disk has ${mib(free)} left`, {
    where: folder,
    remedy: "Make room, or set HF_HOME to a folder on another disk.",
  });
}

/** Appends what is missing to the partial file and returns the hash of the whole. */
async function append(
  settings: HubSettings,
  partial: string,
  file: RepoFile,
  url: string,
  subject: Subject,
  report: (done: number) => void,
): Promise<string> {
  using out = Deno.openSync(partial, { create: true, read: true, write: true });
  let done = out.statSync().size;
  if (done > file.size) out.truncateSync(done = 0);
  const hash = startHash(file);
  const again = () => {
    out.truncateSync(done = 0);
    out.seekSync(0, Deno.SeekMode.Start);
  };
  if (done < file.size || file.size === 0) {
    const lost = new AbortController();
    const response = await watched(
      settings,
      lost,
      () =>
        request(settings, url, { ...subject, file: file.path }, {
          signal: lost.signal,
          headers: done > 0 ? { range: `bytes=${done}-` } : {},
          tries: 1,
        }),
    );
    // A server that ignores the range (200), cannot serve it (416) or starts elsewhere makes us begin anew.
    const from = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1];
    if (done > 0 && (response.status !== 206 || Number(from) !== done)) again();
    if (response.status === 416) {
      await response.body?.cancel();
      throw new TransientError(`${new URL(url).host} refused to go on from the middle of ${file.path}`);
    }
    rehash(out, hash, done);
    report(done);
    await drain(settings, response, lost, (chunk) => {
      if (done + chunk.length > file.size) {
        again();
        throw new NibbleError(
          "hub/wrong-size",
          `${file.path} is longer than the ${file.size} bytes announced`,
          {
            where: url,
            remedy: "Fetch it again later; a proxy or mirror (HF_ENDPOINT) may alter files.",
          },
        );
      }
      hash.update(chunk);
      for (let at = 0; at < chunk.length;) at += out.writeSync(chunk.subarray(at));
      report(done += chunk.length);
    });
    if (done < file.size) {
      throw new TransientError(`The connection ended after ${done} of ${file.size} bytes of ${file.path}`);
    }
    out.syncSync();
  } else {
    rehash(out, hash, done);
    report(done);
  }
  return hash.digest("hex");
}

/** Hands the body's chunks on; a body that stalls or breaks off is a transient failure. */
async function drain(
  settings: HubSettings,
  response: Response,
  lost: AbortController,
  take: (chunk: Uint8Array) => void,
): Promise<void> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      let part;
      try {
        part = await watched(settings, lost, () => reader.read());
      } catch (cause) {
        throw new TransientError(`The connection was lost (${reason(cause)})`, { cause });
      }
      if (part.done) return;
      take(part.value);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** Gives up a connection on which nothing came for `idleTimeout`. */
async function watched<T>(settings: HubSettings, lost: AbortController, wait: () => Promise<T>): Promise<T> {
  const seconds = settings.idleTimeout / 1000;
  const stalled = () => lost.abort(new Error(`nothing came for ${seconds} s`));
  const timer = setTimeout(stalled, settings.idleTimeout);
  try {
    return await wait();
  } finally {
    clearTimeout(timer);
  }
}

/** sha256 of the content for large files; git's blob hash, sha1 of "blob <size>\0<content>", for the others. */
function startHash(file: RepoFile): Hash {
  return file.hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${file.size}\0`);
}

/** Feeds the first `length` bytes of a file to the hash and leaves the file positioned behind them. */
function rehash(file: Deno.FsFile, hash: Hash, length: number): void {
  file.seekSync(0, Deno.SeekMode.Start);
  const chunk = new Uint8Array(1 << 20);
  for (let at = 0; at < length;) {
    const n = file.readSync(chunk.subarray(0, Math.min(chunk.length, length - at)));
    if (n === null) break;
    hash.update(chunk.subarray(0, n));
    at += n;
  }
}

function diskFull(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !/ENOSPC|os error 28|No space left|os error 112/i.test(error.message)) {
    return error;
  }
  return new NibbleError("hub/disk-full", "The disk is full; what was fetched so far is kept", {
    where: path,
    remedy: "Make room and run the same command again: it goes on from there. HF_HOME moves the cache.",
    cause: error,
  });
}

function sizeOf(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return 0;
  }
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
