/**
 * What the environment says about the Hub: the same variables, with the same meaning and order, that Python's
 * huggingface_hub reads, so that one login and one cache serve both.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";

/** Progress of one file: `done` of `total` bytes, resumed bytes included. */
export interface FetchProgress {
  /** Name of the file in its repository. */
  file: string;
  /** Bytes on the disk so far. */
  done: number;
  /** Bytes of the whole file. */
  total: number;
}

/** Options that fetching a model and fetching a data set share. */
export interface FetchOptions {
  /** Branch, tag, pull request (`refs/pr/1`) or commit. Default `main`. */
  revision?: string;
  /** Access token. Default: `HF_TOKEN`, else the file that `hf auth login` left. */
  token?: string;
  /** A folder against which a relative path is tried after the current folder; a recipe passes its own. */
  base?: string;
  /** Called for each file as it grows. */
  onProgress?: (progress: FetchProgress) => void;
  /** Called with one sentence where something is worth telling: a mirror in place of the Hub, a retry. */
  onNote?: (note: string) => void;
  /** First delay between tries, in milliseconds; it doubles at each try. Default 500. */
  retryDelay?: number;
}

/** Everything that a request or a look into the cache needs to know. */
export interface HubSettings {
  /** `HF_ENDPOINT` without a slash at its end. */
  endpoint: string;
  /** Access token, where there is one. */
  token: string | undefined;
  /** `HF_HUB_CACHE`: the folder of `models--org--name` folders. */
  cache: string;
  /** nibble's own folder, for what does not come from the Hub. */
  nibbleCache: string;
  /** `HF_HUB_OFFLINE`: nothing leaves this machine. */
  offline: boolean;
  /** Milliseconds before the second try. */
  retryDelay: number;
  /** Milliseconds without a byte after which a connection counts as lost. */
  idleTimeout: number;
  /** Receives sentences worth telling. */
  note: (text: string) => void;
}

/**
 * Reads the settings of the Hub from the environment.
 *
 * @example
 * ```ts
 * import { hubSettings } from "./settings.ts";
 * Deno.env.set("HF_ENDPOINT", "http://127.0.0.1:9/");
 * if (hubSettings().endpoint !== "http://127.0.0.1:9") throw new Error("the slash goes");
 * Deno.env.delete("HF_ENDPOINT");
 * ```
 */
export function hubSettings(options: FetchOptions = {}): HubSettings {
  const env = (name: string) => Deno.env.get(name) || undefined;
  const home = cacheHome();
  const hfHome = expand(env("HF_HOME") ?? join(home, "huggingface"));
  const endpoint = (env("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint)) {
    throw new NibbleError("hub/endpoint", `HF_ENDPOINT is not an address: ${endpoint}`, {
      where: "environment variable HF_ENDPOINT",
      remedy: "Give it as https://host, or unset it.",
    });
  }
  return {
    endpoint,
    token: options.token ?? env("HF_TOKEN") ?? env("HUGGING_FACE_HUB_TOKEN") ??
      storedToken(expand(env("HF_TOKEN_PATH") ?? join(hfHome, "token"))),
    cache: expand(env("HF_HUB_CACHE") ?? env("HUGGINGFACE_HUB_CACHE") ?? join(hfHome, "hub")),
    nibbleCache: nibbleCache(),
    offline: isTrue(env("HF_HUB_OFFLINE") ?? env("TRANSFORMERS_OFFLINE")),
    retryDelay: options.retryDelay ?? 500,
    idleTimeout: 1000 * (Number(env("HF_HUB_DOWNLOAD_TIMEOUT")) || 30),
    note: options.onNote ?? (() => {}),
  };
}

/** nibble's own cache folder: `XDG_CACHE_HOME/nibble`, by default `~/.cache/nibble`. */
export function nibbleCache(): string {
  return join(cacheHome(), "nibble");
}

/** `~`, by the variable each system uses. */
export function homeFolder(): string {
  return Deno.env.get("HOME") || Deno.env.get("USERPROFILE") || Deno.cwd();
}

/** A leading `~` and `$NAME` as a shell would read them; Python's cache settings allow both. */
export function expand(path: string): string {
  return path
    .replace(/^~(?=$|[\\/])/, homeFolder())
    .replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, a, b) => Deno.env.get(a ?? b) ?? whole);
}

function cacheHome(): string {
  return expand(Deno.env.get("XDG_CACHE_HOME") || join(homeFolder(), ".cache"));
}

function isTrue(value: string | undefined): boolean {
  return ["1", "ON", "YES", "TRUE"].includes((value ?? "").toUpperCase());
}

function storedToken(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path).trim() || undefined;
  } catch {
    return undefined;
  }
}
