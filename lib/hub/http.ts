/**
 * Requests to the Hub: redirects followed by hand so that the token never leaves the Hub's own host, transient
 * failures tried again with growing delays, and the Hub's refusals put in words that say what to do.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { HubSettings } from "./settings.ts";

/** Statuses that another try may mend. */
const TRANSIENT = new Set([408, 425, 429, 500, 502, 503, 504]);
/** Tries of a request before it counts as failed. */
export const TRIES = 5;
const MAX_REDIRECTS = 8;

/** A failure that another try may mend: no connection, a connection lost, a server in trouble. */
export class TransientError extends Error {
  /** Milliseconds that the server asked to wait, where it did. */
  readonly wait: number | undefined;
  constructor(message: string, options: { cause?: unknown; wait?: number | undefined } = {}) {
    super(message, { cause: options.cause });
    this.name = "TransientError";
    this.wait = options.wait;
  }
}

/** A request's subject, for messages. */
export interface Subject {
  /** `org/name`. */
  repo: string;
  /** What the Hub calls it. */
  kind: "model" | "dataset";
  /** Branch, tag or commit asked for. */
  revision: string;
  /** File asked for, where there is one. */
  file?: string;
}

/**
 * One request, tried again while its failure is transient.
 *
 * @param url absolute address
 * @param subject what is asked for, for messages
 * @param tries attempts in all; `1` for callers that count for themselves
 * @returns a response with status 2xx, or 416 (which the caller of a range understands)
 * @throws {NibbleError} `hub/gated`, `hub/no-repository`, `hub/no-revision`, `hub/no-file`, `hub/refused`
 * @throws {TransientError} when the last try failed too
 */
export async function request(
  settings: HubSettings,
  url: string,
  subject: Subject,
  options: { headers?: Record<string, string>; signal?: AbortSignal; tries?: number } = {},
): Promise<Response> {
  return await retry(settings, async () => {
    const response = await follow(settings, url, options.headers ?? {}, options.signal);
    if (response.ok || response.status === 416) return response;
    const text = (await response.text().catch(() => "")).slice(0, 300);
    checkTransient(url, response);
    throw refusal(settings, response, text, subject);
  }, options.tries ?? TRIES);
}

/** Throws where another try may bring a better answer. */
function checkTransient(url: string, response: Response): void {
  if (!TRANSIENT.has(response.status)) return;
  const after = Number(response.headers.get("retry-after"));
  throw new TransientError(`${new URL(url).host} answered ${response.status}`, {
    wait: after > 0 ? Math.min(after * 1000, 60_000) : undefined,
  });
}

/**
 * A `fetch` for the calls of `@huggingface/hub`: tried again while the failure is transient, and with the token for the
 * Hub's own host only, whatever the token looks like. Bodies must be such that can be sent twice: text and blobs.
 */
export function retryingFetch(settings: HubSettings): typeof fetch {
  const home = new URL(settings.endpoint).host;
  return async (input, init) => {
    const url = String(input instanceof Request ? input.url : input);
    const headers = new Headers(init?.headers);
    headers.delete("authorization");
    headers.set("user-agent", "nibble");
    if (new URL(url).host === home && settings.token) {
      headers.set("authorization", `Bearer ${settings.token}`);
    }
    return await retry(settings, async () => {
      let response: Response;
      try {
        response = await fetch(url, { ...init, headers });
      } catch (cause) {
        throw new TransientError(`No answer from ${new URL(url).host} (${reason(cause)})`, { cause });
      }
      if (TRANSIENT.has(response.status)) await response.body?.cancel();
      checkTransient(url, response);
      return response;
    }, TRIES);
  };
}

/** Runs `attempt` until it succeeds, fails for good, or has failed `tries` times; delays double from `retryDelay`. */
export async function retry<T>(settings: HubSettings, attempt: () => Promise<T>, tries: number): Promise<T> {
  for (let n = 1;; n++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TransientError) || n >= tries) throw error;
      await pause(settings, n, error);
    }
  }
}

/** Waits before try `n + 1`: `retryDelay` 2^(n-1), half of it at random so that many clients do not march in step. */
export async function pause(settings: HubSettings, n: number, error: TransientError): Promise<void> {
  const delay = error.wait ??
    Math.min(settings.retryDelay * 2 ** (n - 1) * (0.5 + Math.random() / 2), 16_000);
  if (n > 1) settings.note(`${error.message}; trying again in ${(delay / 1000).toFixed(1)} s`);
  await new Promise((done) => setTimeout(done, delay));
}

async function follow(
  settings: HubSettings,
  url: string,
  headers: Record<string, string>,
  signal?: AbortSignal,
): Promise<Response> {
  const home = new URL(settings.endpoint).host;
  let at = new URL(url);
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const own = at.host === home;
    let response: Response;
    try {
      response = await fetch(at, {
        redirect: "manual",
        signal: signal ?? AbortSignal.timeout(settings.idleTimeout),
        headers: {
          "user-agent": "nibble",
          // Sizes are compared with Content-Length, so the body must come as it is stored.
          "accept-encoding": "identity",
          ...headers,
          ...(own && settings.token ? { authorization: `Bearer ${settings.token}` } : {}),
        },
      });
    } catch (cause) {
      throw new TransientError(`No answer from ${at.host} (${reason(cause)})`, { cause });
    }
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || response.status === 304 || !location) {
      return response;
    }
    await response.body?.cancel();
    at = new URL(location, at);
  }
  throw new NibbleError("hub/redirects", `More than ${MAX_REDIRECTS} redirects`, {
    where: url,
    remedy: "Check HF_ENDPOINT: it should be the address of a Hub, such as https://huggingface.co.",
  });
}

/** The innermost message, which names the actual trouble (refused, DNS, reset). */
export function reason(error: unknown): string {
  let at = error;
  while (at instanceof Error && at.cause instanceof Error) at = at.cause;
  const text = at instanceof Error ? at.message : String(at);
  return text.replace(/^error sending request[^:]*: |^.*?client error \(Connect\): /, "").slice(0, 200);
}

/** The Hub's refusal in our words. Codes and their meaning: header `X-Error-Code`, as huggingface_hub reads it. */
function refusal(settings: HubSettings, response: Response, text: string, subject: Subject): NibbleError {
  const { repo, kind, revision, file } = subject;
  const code = response.headers.get("x-error-code") ?? "";
  const said = response.headers.get("x-error-message") || text.replace(/\s+/g, " ").trim();
  const page = `${settings.endpoint}/${kind === "dataset" ? "datasets/" : ""}${repo}`;
  const where = `${page}${file ? `, file ${file}` : ""}, revision ${revision}`;
  const login = settings.token
    ? "The token that was sent (HF_TOKEN or the stored login) is not enough: check that it is valid and may read this."
    : "Set HF_TOKEN to a token of an account that may read it.";
  if (code === "GatedRepo" || (response.status === 403 && /gated|restricted|authorized list/i.test(said))) {
    return new NibbleError("hub/gated", `${repo} is gated: its owners ask for consent before it is read`, {
      where,
      remedy: `Open ${page} in a browser and accept the conditions. ${login}`,
    });
  }
  if (code === "RevisionNotFound") {
    return new NibbleError("hub/no-revision", `${repo} has no revision "${revision}"`, {
      where,
      remedy: "Give a branch, tag or full commit that the repository has.",
    });
  }
  if (code === "EntryNotFound") {
    return new NibbleError("hub/no-file", `${repo} has no file ${file ?? ""} at revision "${revision}"`, {
      where,
      remedy: "Look at the repository's files, and give a revision that has it.",
    });
  }
  if (response.status === 401 || response.status === 404 || code === "RepoNotFound") {
    return new NibbleError(
      "hub/no-repository",
      `The Hub has no ${kind} ${repo}, or does not show it to this user`,
      {
        where,
        remedy: `Check the name. Where it is private: ${login}`,
      },
    );
  }
  return new NibbleError("hub/refused", `The Hub answered ${response.status}: ${said || "(no text)"}`, {
    where,
    ...(response.status === 403 ? { remedy: login } : {}),
  });
}
