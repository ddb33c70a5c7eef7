/**
 * A repository on the Hub: which commit a revision is, which files that commit has, and a chosen part of them
 * fetched into the cache.
 *
 * The tree is listed by `@huggingface/hub` (it knows the paging), with our own `fetch` and the address of
 * HF_ENDPOINT passed in, as its default address is a constant. The commit is asked for directly: its `modelInfo`
 * would request a dozen fields more.
 * @module
 */
import { listFiles } from "@huggingface/hub";
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import * as cache from "./cache.ts";
import { checkSpace, downloadBlob } from "./download.ts";
import { request, type Subject, TransientError } from "./http.ts";
import type { FetchOptions, HubSettings } from "./settings.ts";

/** Tries of the first contact: few, so that a machine without a way to the Hub hears so soon. */
const FIRST_TRIES = 3;

/** Picks the files that are needed; throws where the repository holds nothing of use. */
export type Choice = (files: cache.RepoFile[]) => cache.RepoFile[];

/**
 * Fetches the chosen files of a revision and returns the folder of its snapshot.
 *
 * @throws {NibbleError} the Hub's refusals, `hub/wrong-hash`, `hub/disk-full`, and what `choose` throws
 * @throws {TransientError} when the Hub could not be reached, or not for long enough
 */
export async function fetchSnapshot(
  settings: HubSettings,
  subject: Subject,
  choose: Choice,
  onProgress?: FetchOptions["onProgress"],
): Promise<string> {
  const folder = cache.repoFolder(settings.cache, subject);
  const commit = await commitOf(settings, subject);
  const chosen = choose(cache.readTree(folder, commit) ?? await listTree(settings, subject, commit, folder));
  const blobs = join(folder, "blobs");
  const missing = chosen.filter((f) => !cache.exists(join(blobs, f.hash)));
  if (missing.length > 0) checkSpace(blobs, missing.reduce((sum, f) => sum + f.size, 0));
  for (const file of chosen) {
    const url = fileUrl(settings, subject, commit, file.path);
    await downloadBlob(settings, folder, file, url, subject, onProgress);
    cache.linkBlob(folder, commit, file);
  }
  // Last, so that a branch never points at a snapshot that was not finished.
  cache.writeRef(folder, subject.revision, commit);
  return cache.snapshotFolder(folder, commit);
}

/** The commit that a revision is now. */
async function commitOf(settings: HubSettings, subject: Subject): Promise<string> {
  if (cache.isCommit(subject.revision)) return subject.revision;
  const { repo, kind, revision } = subject;
  const url = `${settings.endpoint}/api/${kind}s/${repo}/revision/${encodeURIComponent(revision)}`;
  const response = await request(settings, url, subject, { tries: FIRST_TRIES });
  const sha = await response.json().then((info) => info?.sha).catch(() => undefined);
  if (typeof sha !== "string" || !cache.isCommit(sha)) throw notAHub(url);
  return sha;
}

/** All files of a commit; the list is kept in the cache. */
async function listTree(
  settings: HubSettings,
  subject: Subject,
  commit: string,
  folder: string,
): Promise<cache.RepoFile[]> {
  const files: (cache.RepoFile & { blobId: string })[] = [];
  const entries = listFiles({
    repo: { type: subject.kind, name: subject.repo },
    revision: commit,
    recursive: true,
    hubUrl: settings.endpoint,
    fetch: (url) => request(settings, String(url), subject, { tries: FIRST_TRIES }),
  });
  try {
    for await (const entry of entries) {
      if (entry.type !== "file") continue;
      const blobId = entry.oid ?? "";
      const hash = entry.lfs?.oid ?? blobId;
      // Both become names on this disk, so a server's word is not taken for them.
      const sound = /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash) &&
        entry.path.split("/").every((part) => part && part !== "." && part !== "..") &&
        !/[\\\0:]/.test(entry.path);
      if (!sound) throw notAHub(`${settings.endpoint}, entry "${entry.path}" with hash "${hash}"`);
      files.push({ path: entry.path, size: entry.lfs?.size ?? entry.size, hash, blobId });
    }
  } catch (error) {
    if (error instanceof NibbleError || error instanceof TransientError) throw error;
    throw notAHub(settings.endpoint, error);
  }
  cache.writeTree(folder, commit, files);
  return files;
}

function fileUrl(settings: HubSettings, subject: Subject, commit: string, path: string): string {
  const prefix = subject.kind === "dataset" ? "datasets/" : "";
  const name = path.split("/").map(encodeURIComponent).join("/");
  return `${settings.endpoint}/${prefix}${subject.repo}/resolve/${commit}/${name}`;
}

function notAHub(where: string, cause?: unknown): NibbleError {
  return new NibbleError("hub/not-a-hub", "The answer is not one that a Hugging Face Hub gives", {
    where,
    remedy: "Check HF_ENDPOINT, and whether a proxy or login page stands between here and the Hub.",
    cause,
  });
}
