/**
 * A Hub on this machine for tests: it speaks the part of the protocol that fetching needs (revision, tree in pages,
 * resolve with ranges, large files by a redirect to another host), takes uploads (fake_uploads.ts) and misbehaves on
 * demand.
 * @module
 */
import { createHash } from "node:crypto";
import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { type Account, answerUpload, newUploads, type Push } from "./fake_uploads.ts";

/** What a repository holds. */
export interface FakeRepo {
  kind: "model" | "dataset";
  files: Record<string, string | Uint8Array>;
  /** Names of large files, which are redirected to the other host and named by sha256. */
  lfs?: string[];
  /** Revisions beside `main`; all are the same commit unless a file table of their own is given. */
  revisions?: Record<string, Record<string, string | Uint8Array>>;
  /** Only this token may read. */
  token?: string;
  gated?: boolean;
  /** Made so by an upload. */
  private?: boolean;
}

/** A request as the server saw it. */
export interface Seen {
  host: "hub" | "cdn";
  path: string;
  range: string | null;
  authorization: string | null;
}

/** A misbehaviour: given the request, a response in place of the right one, or nothing. */
export type Trouble = (seen: Seen, body: Uint8Array) => Response | Promise<Response> | undefined;

/** The running server. */
export interface FakeHub extends AsyncDisposable {
  url: string;
  seen: Seen[];
  trouble: Trouble | undefined;
  commit(repo: string, revision?: string): string;
  /** Repositories as they are now, those made by uploads too. */
  repos: Record<string, FakeRepo>;
  /** Who may upload, by token. */
  accounts: Record<string, Account>;
  /** Commits that were made by uploads. */
  pushes: Push[];
  /** Large files above this size are sent in parts of it. */
  partSize: number;
}

const bytes = (content: string | Uint8Array) =>
  typeof content === "string" ? new TextEncoder().encode(content) : content;
/** Remembers what was computed of an array: weights are asked for by many pages of a tree. */
function remembered(hash: (data: Uint8Array) => string): (data: Uint8Array) => string {
  const known = new WeakMap<Uint8Array, string>();
  return (data) => known.get(data) ?? known.set(data, hash(data)).get(data)!;
}
const sha1 = remembered((data) =>
  createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex")
);
/** sha256 of a file. */
export const sha256: (data: Uint8Array) => string = remembered((data) =>
  createHash("sha256").update(data).digest("hex")
);

/** Starts a Hub with the given repositories, by `org/name`. */
export function startHub(repos: Record<string, FakeRepo>): FakeHub {
  const seen: Seen[] = [];
  const uploads = newUploads();
  const hub = { seen, trouble: undefined as Trouble | undefined, repos, ...uploads };

  const table = (repo: FakeRepo, revision: string) => repo.revisions?.[revision] ?? repo.files;
  const commitOf = (name: string, revision: string) =>
    createHash("sha1").update(JSON.stringify([
      name,
      Object.keys(table(repos[name]!, revision)),
      hub.pushes.filter((push) => push.repo === name && push.branch === revision).length,
    ])).digest("hex");
  const known = (name: string, revision: string) =>
    ["main", ...Object.keys(repos[name]!.revisions ?? {})].find((r) =>
      r === revision || commitOf(name, r) === revision
    );
  const refuse = (status: number, code: string, message: string) =>
    new Response(JSON.stringify({ error: message }), {
      status,
      headers: { "x-error-code": code, "x-error-message": message },
    });

  function answer(host: "hub" | "cdn") {
    return async (request: Request): Promise<Response> => {
      const url = new URL(request.url);
      const note: Seen = {
        host,
        path: url.pathname + url.search,
        range: request.headers.get("range"),
        authorization: request.headers.get("authorization"),
      };
      seen.push(note);
      if (request.method === "PUT" || request.method === "POST" || url.pathname === "/api/whoami-v2") {
        const body = new Uint8Array(await request.arrayBuffer());
        return await hub.trouble?.(note, body) ??
          answerUpload(hub, { method: request.method, url, token: note.authorization?.slice(7), body, cdn });
      }
      const api = /^\/api\/(model|dataset)s\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)$/.exec(url.pathname);
      const file = /^(?:\/(datasets))?\/([^/]+\/[^/]+)\/(?:resolve|content)\/([^/]+)\/(.+)$/.exec(
        url.pathname,
      );
      const name = api?.[2] ?? file?.[2] ?? "";
      const kind = api?.[1] ?? (file?.[1] ? "dataset" : "model");
      const repo = repos[name];
      if (!repo || repo.kind !== kind) return refuse(401, "RepoNotFound", "Invalid username or password.");
      if (host === "hub") {
        const allowed = repo.token === undefined || note.authorization === `Bearer ${repo.token}`;
        if (!allowed && repo.gated) {
          return refuse(note.authorization ? 403 : 401, "GatedRepo", "Access is restricted.");
        }
        if (!allowed) return refuse(401, "RepoNotFound", "Repository not found");
      }
      const revision = known(name, decodeURIComponent(api?.[4] ?? file?.[3] ?? ""));
      if (!revision) return refuse(404, "RevisionNotFound", "Invalid rev id");
      const files = table(repo, revision);
      if (api?.[3] === "revision") {
        return await hub.trouble?.(note, new Uint8Array()) ??
          Response.json({ id: name, sha: commitOf(name, revision) });
      }
      if (api) return await hub.trouble?.(note, new Uint8Array()) ?? tree(url, files, repo.lfs ?? []);
      const path = decodeURIComponent(file?.[4] ?? "");
      if (files[path] === undefined) return refuse(404, "EntryNotFound", "Entry not found");
      const body = bytes(files[path]);
      const odd = await hub.trouble?.(note, body);
      if (odd) return odd;
      if (host === "hub" && repo.lfs?.includes(path)) {
        const to = `${cdn}${url.pathname.replace("/resolve/", "/content/")}?signature=1`;
        const linked = { "x-linked-etag": `"${sha256(body)}"`, "x-linked-size": String(body.length) };
        const commit = { "x-repo-commit": commitOf(name, revision) };
        return new Response(null, { status: 302, headers: { location: to, ...linked, ...commit } });
      }
      const response = serve(note, body);
      // What Python's huggingface_hub reads from the answer to HEAD.
      response.headers.set("x-repo-commit", commitOf(name, revision));
      response.headers.set("etag", `"${sha1(body)}"`);
      response.headers.set(
        "content-length",
        String(body.length - Number(/\d+/.exec(note.range ?? "")?.[0] ?? 0)),
      );
      return response;
    };
  }

  /** Two entries a page, as a long tree comes. */
  function tree(url: URL, files: Record<string, string | Uint8Array>, lfs: string[]): Response {
    const entries = Object.entries(files).map(([path, content]) => {
      const data = bytes(content);
      const plain = { type: "file", path, size: data.length, oid: sha1(data) };
      return lfs.includes(path)
        ? { ...plain, oid: "0".repeat(40), lfs: { oid: sha256(data), size: data.length, pointerSize: 134 } }
        : plain;
    });
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (from + 2 < entries.length) {
      url.searchParams.set("cursor", String(from + 2));
      headers["link"] = `<${url}>; rel="next"`;
    }
    return new Response(JSON.stringify(entries.slice(from, from + 2)), { headers });
  }

  const options = { port: 0, hostname: "127.0.0.1", onListen: () => {} };
  const cdnServer = Deno.serve(options, answer("cdn"));
  const cdn = `http://127.0.0.1:${cdnServer.addr.port}`;
  const hubServer = Deno.serve(options, answer("hub"));
  return Object.assign(hub, {
    url: `http://127.0.0.1:${hubServer.addr.port}`,
    commit: (name: string, revision = "main") => commitOf(name, revision),
    async [Symbol.asyncDispose]() {
      await Promise.all([hubServer.shutdown(), cdnServer.shutdown()]);
    },
  });
}

/** The right answer for a file, whole or from the middle. */
export function serve(seen: Seen, body: Uint8Array): Response {
  const from = Number(/^bytes=(\d+)-$/.exec(seen.range ?? "")?.[1] ?? NaN);
  if (Number.isNaN(from)) return new Response(body.slice());
  if (from >= body.length) return new Response(null, { status: 416 });
  const range = `bytes ${from}-${body.length - 1}/${body.length}`;
  return new Response(body.slice(from), { status: 206, headers: { "content-range": range } });
}

/** The beginning of a body under a Content-Length that promises all of it; then the connection breaks. */
export async function truncated(body: Uint8Array, length: number, from = 0): Promise<Response> {
  // Deno.serve will not lie about lengths, so a raw listener speaks this one answer.
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = (listener.addr as Deno.NetAddr).port;
  (async () => {
    using connection = await listener.accept();
    await connection.read(new Uint8Array(8192));
    const status = from > 0
      ? `206 Partial Content\r\ncontent-range: bytes ${from}-${body.length - 1}/${body.length}`
      : "200 OK";
    const head = `HTTP/1.1 ${status}\r\ncontent-length: ${body.length - from}\r\n\r\n`;
    await connection.write(new TextEncoder().encode(head));
    const part = body.subarray(from, from + length);
    for (let at = 0; at < part.length;) at += await connection.write(part.subarray(at));
    listener.close();
  })();
  await Promise.resolve();
  return new Response(null, { status: 307, headers: { location: `http://127.0.0.1:${port}/` } });
}

/** Runs `work` with a fresh home and this Hub in the environment, then puts the environment back. */
export async function withHome(
  env: Record<string, string>,
  work: (home: string) => Promise<void>,
): Promise<void> {
  const home = await Deno.makeTempDir({ prefix: "nibble-hub-" });
  const ours = [
    "HOME",
    "XDG_CACHE_HOME",
    "TRANSFORMERS_OFFLINE",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGING_FACE_HUB_TOKEN",
  ];
  const hf = Object.keys(Deno.env.toObject()).filter((name) => name.startsWith("HF_"));
  const names = [...new Set([...ours, ...hf, ...Object.keys(env)])];
  const before = names.map((name) => [name, Deno.env.get(name)] as const);
  names.forEach((name) => Deno.env.delete(name));
  Object.entries({ HOME: home, ...env }).forEach(([name, value]) => Deno.env.set(name, value));
  try {
    await work(home);
  } finally {
    before.forEach(([name, value]) =>
      value === undefined ? Deno.env.delete(name) : Deno.env.set(name, value)
    );
    await Deno.remove(home, { recursive: true });
  }
}

/** Where a fresh home keeps the cache of a model. */
export function cacheOf(home: string, repo: string, kind = "models"): string {
  return join(home, ".cache", "huggingface", "hub", `${kind}--${repo.replace("/", "--")}`);
}

/** Weights long enough for several chunks. */
export const WEIGHTS = new Uint8Array(300_001).map((_, i) => (i * 31) % 251);

/** A small model, with much in it that nibble does not need. */
export const REPO: FakeRepo = {
  kind: "model",
  lfs: ["model.safetensors", "pytorch_model.bin"],
  files: {
    ".gitattributes": "*.safetensors filter=lfs",
    "README.md": "# tiny",
    "config.json": '{"model_type":"llama"}',
    "generation_config.json": "{}",
    "tokenizer.json": '{"model":{}}',
    "tokenizer_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": "a pickle",
    "flax_model.msgpack": "flax",
    "onnx/model.onnx": "onnx",
  },
};
/** Tries follow each other at once. */
export const QUICK = { retryDelay: 1 };

/** Names in a folder, sorted. */
export const names = (folder: string): string[] => [...Deno.readDirSync(folder)].map((e) => e.name).sort();

/** Is it a NibbleError with this code, and these texts in its message? */
export const failsWith = (code: string, ...texts: (string | RegExp)[]) => (error: unknown): boolean => {
  assert.ok(error instanceof NibbleError, String(error));
  assert.equal(error.code, code);
  texts.forEach((t) => assert.match(error.message, t instanceof RegExp ? t : new RegExp(RegExp.escape(t))));
  return true;
};
