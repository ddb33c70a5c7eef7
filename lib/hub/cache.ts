/**
 * The cache on the disk, in huggingface_hub's layout, so that what Python fetched is found and what nibble fetches
 * serves Python:
 *
 *     models--org--name/refs/main                       the commit that a branch or tag pointed at
 *     models--org--name/blobs/<hash>                    contents, named by sha256 (large files) or git's sha1
 *     models--org--name/snapshots/<commit>/config.json  link to a blob
 *     models--org--name/trees/<commit>.json             the repository's list of files, with sizes and hashes
 *     .locks/models--org--name/<hash>.lock              held while a blob is being written
 *
 * @module
 */
import { dirname, join, relative } from "@std/path";
import { NibbleError } from "../errors.ts";
import type { Subject } from "./http.ts";

/** One file of a repository, as the Hub's tree lists it. */
export interface RepoFile {
  /** Path in the repository, with forward slashes. */
  path: string;
  /** Bytes. */
  size: number;
  /** Name of its blob: the content's sha256 for large files, git's blob hash (sha1) for the others. */
  hash: string;
}

const COMMIT = /^[0-9a-f]{40}$/;

/** Folder of one repository in the cache. */
export function repoFolder(cache: string, subject: Subject): string {
  return join(cache, [`${subject.kind}s`, ...subject.repo.split("/")].join("--"));
}

/** Is this revision a full commit, which needs no look-up? */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/** The commit that a revision stood for when it was last fetched, where the cache knows. */
export function readRef(folder: string, revision: string): string | undefined {
  if (isCommit(revision)) return revision;
  const commit = readText(join(folder, "refs", ...revision.split("/")))?.trim();
  return commit && isCommit(commit) ? commit : undefined;
}

/** Notes the commit that a revision stands for. */
export function writeRef(folder: string, revision: string, commit: string): void {
  if (revision === commit) return;
  writeWhole(join(folder, "refs", ...revision.split("/")), commit);
}

/** Folder of a commit's files. */
export function snapshotFolder(folder: string, commit: string): string {
  return join(folder, "snapshots", commit);
}

/** The repository's list of files at a commit, where an earlier fetch (or Python's, from its version 2) left it. */
export function readTree(folder: string, commit: string): RepoFile[] | undefined {
  const text = readText(join(folder, "trees", `${commit}.json`));
  if (text === undefined) return undefined;
  try {
    const { format_version, files } = JSON.parse(text);
    if (format_version !== 1) return undefined;
    return Object.entries(files as Record<string, { size: number; blob_id: string; lfs_sha256?: string }>)
      .map(([path, f]) => ({ path, size: f.size, hash: f.lfs_sha256 ?? f.blob_id }));
  } catch {
    return undefined; // a cache that cannot be read is a cache that does not know
  }
}

/** Keeps the list of files of a commit, so that a later run knows without a network whether its snapshot is whole. */
export function writeTree(folder: string, commit: string, files: (RepoFile & { blobId: string })[]): void {
  const entries = files.map((f) => [
    f.path,
    f.hash === f.blobId
      ? { size: f.size, blob_id: f.blobId }
      : { size: f.size, blob_id: f.blobId, lfs_sha256: f.hash, lfs_size: f.size },
  ]);
  const text = JSON.stringify({ format_version: 1, files: Object.fromEntries(entries.sort()) }, null, 1);
  writeWhole(join(folder, "trees", `${commit}.json`), text);
}

/** Puts a blob into a commit's snapshot by a relative link, or as a copy where the system allows no links. */
export function linkBlob(folder: string, commit: string, file: RepoFile): void {
  const blob = join(folder, "blobs", file.hash);
  const pointer = join(snapshotFolder(folder, commit), ...file.path.split("/"));
  if (exists(pointer)) return;
  Deno.mkdirSync(dirname(pointer), { recursive: true });
  // A link whose blob is gone is in the way of a new one.
  if (exists(pointer, Deno.lstatSync)) Deno.removeSync(pointer);
  try {
    Deno.symlinkSync(relative(dirname(pointer), blob), pointer, { type: "file" });
  } catch (error) {
    if (exists(pointer)) return; // another process was quicker
    if (!(error instanceof Deno.errors.PermissionDenied) && Deno.build.os !== "windows") throw error;
    Deno.copyFileSync(blob, `${pointer}.tmp`);
    Deno.renameSync(`${pointer}.tmp`, pointer);
  }
}

/** Runs `work` while holding the lock of one blob, so that two programs do not write the same partial file. */
export async function withLock<T>(
  cache: string,
  folder: string,
  hash: string,
  work: () => Promise<T>,
): Promise<T> {
  const path = join(cache, ".locks", relative(cache, folder), `${hash}.lock`);
  Deno.mkdirSync(dirname(path), { recursive: true });
  using lock = Deno.openSync(path, { create: true, write: true });
  try {
    await lock.lock(true);
  } catch {
    // File systems without locks exist; the worst case is a partial file that fails its hash and is fetched again.
  }
  return await work();
}

/** Does the path exist (following links, unless told otherwise)? */
export function exists(path: string, stat: (path: string) => Deno.FileInfo = Deno.statSync): boolean {
  try {
    stat(path);
    return true;
  } catch {
    return false;
  }
}

/** Creates a folder; a refusal names it. */
export function makeFolder(path: string): void {
  try {
    Deno.mkdirSync(path, { recursive: true });
  } catch (cause) {
    throw new NibbleError("hub/cache", `Cannot create the cache folder (${(cause as Error).message})`, {
      where: path,
      remedy: "Make it writable, or set HF_HOME to a folder that is.",
      cause,
    });
  }
}

function writeWhole(path: string, text: string): void {
  makeFolder(dirname(path));
  const beside = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  Deno.writeTextFileSync(beside, text);
  Deno.renameSync(beside, path);
}

function readText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}
