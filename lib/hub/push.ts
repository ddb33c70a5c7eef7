/**
 * A model repository on the Hub that results are uploaded to, by `@huggingface/hub`: made where it is missing, files
 * committed together, large ones by git-lfs in parts.
 *
 * The library is given our own `fetch` and the address of HF_ENDPOINT. Its newer transfer (xet) is left out: the plain
 * one is understood by every Hub and needs no WebAssembly.
 * @module
 */
import { createBranch, createRepo, HubApiError, uploadFiles, whoAmI } from "@huggingface/hub";
import { openAsBlob } from "node:fs";
import { NibbleError } from "../errors.ts";
import { retryingFetch } from "./http.ts";
import { type HubSettings, hubSettings } from "./settings.ts";

/** Options of {@link openHubRepo}. */
export interface OpenHubRepoOptions {
  /** Access token; default: HF_TOKEN, else the stored login. */
  token?: string | undefined;
  /** Whether a new repository is private; default: what its owner's settings say. */
  private?: boolean | undefined;
  /** Branch to commit to; made where it is missing. Default `main`. */
  branch?: string | undefined;
  /** First delay between tries, in milliseconds. */
  retryDelay?: number;
  onNote?: (note: string) => void;
}

/** A file to upload: where it lies on this disk, or its text; and its path in the repository. */
export type HubFile = { path: string } & ({ from: string } | { text: string });

/** A repository that may be written to. */
export interface HubRepo {
  /** `owner/name`. */
  readonly id: string;
  /** Its page. */
  readonly url: string;
  readonly branch: string;
  /**
   * Commits files together.
   *
   * @returns the commit's id
   * @throws NibbleError `hub/push` and the Hub's refusals
   */
  upload(files: readonly HubFile[], title: string): Promise<string>;
}

/**
 * Finds or makes the repository, before anything is spent on what will go there.
 *
 * @param name `owner/name`, or a name alone, which belongs to the owner of the token
 * @throws NibbleError `hub/offline`, `hub/no-token`, `hub/bad-token`, `hub/forbidden`, `hub/push`
 */
export async function openHubRepo(name: string, options: OpenHubRepoOptions = {}): Promise<HubRepo> {
  const settings = hubSettings({
    ...(options.token ? { token: options.token } : {}),
    ...(options.retryDelay ? { retryDelay: options.retryDelay } : {}),
    ...(options.onNote ? { onNote: options.onNote } : {}),
  });
  if (settings.offline) {
    throw new NibbleError("hub/offline", "push_to_hub: true, and HF_HUB_OFFLINE is set", {
      remedy: "Unset HF_HUB_OFFLINE, or train with --push_to_hub=false.",
    });
  }
  if (!settings.token) {
    throw new NibbleError("hub/no-token", "push_to_hub: true needs an access token", {
      where: settings.endpoint,
      remedy: `Set HF_TOKEN to a token with the right to write (${settings.endpoint}/settings/tokens), ` +
        "or train with --push_to_hub=false.",
    });
  }
  const call = { hubUrl: settings.endpoint, fetch: retryingFetch(settings), accessToken: ACCESS };
  const guarded = <T>(repo: string, work: () => Promise<T>) => guard(settings, repo, work);

  const id = name.includes("/") ? name : `${(await guarded(name, () => whoAmI(call))).name}/${name}`;
  const branch = options.branch ?? "main";
  const visibility = options.private === undefined ? {} : { private: options.private };
  await guarded(id, () => unlessThere(createRepo({ ...call, ...visibility, repo: id })));
  if (branch !== "main") await guarded(id, () => unlessThere(createBranch({ ...call, repo: id, branch })));
  return {
    id,
    branch,
    url: `${settings.endpoint}/${id}`,
    async upload(files, title) {
      const contents = await Promise.all(files.map(async (file) => ({
        path: file.path,
        content: "text" in file ? new Blob([file.text]) : await openAsBlob(file.from),
      })));
      const done = await guarded(
        id,
        () => uploadFiles({ ...call, repo: id, branch, files: contents, commitTitle: title, useXet: false }),
      );
      return done?.commit.oid ?? "";
    },
  };
}

/** The library insists on a token of this form; {@link retryingFetch} sends the real one. */
const ACCESS = "hf_nibble";

/** A repository or branch that is there already is what was wanted. */
async function unlessThere(making: Promise<unknown>): Promise<void> {
  try {
    await making;
  } catch (error) {
    if (!(error instanceof HubApiError && error.statusCode === 409)) throw error;
  }
}

/** The Hub's refusals in our words. */
async function guard<T>(settings: HubSettings, repo: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const where = `${settings.endpoint}/${repo}`;
    const status = cause instanceof HubApiError ? cause.statusCode : 0;
    if (status === 401) {
      throw new NibbleError("hub/bad-token", "The Hub does not know the access token", {
        where,
        remedy: "Set HF_TOKEN (or hub_token) to a valid token with the right to write.",
        cause,
      });
    }
    if (status === 403) {
      throw new NibbleError("hub/forbidden", `The token may not write to ${repo}`, {
        where,
        remedy: "Use a token with the right to write, or name a repository of your own in hub_model_id.",
        cause,
      });
    }
    const why = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw new NibbleError("hub/push", `The upload to ${repo} failed: ${why}`, {
      where,
      remedy: "What was trained is in output_dir; run again, or upload that folder by hand.",
      cause,
    });
  }
}
