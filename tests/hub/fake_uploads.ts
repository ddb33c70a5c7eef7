/**
 * The half of the fake Hub that takes uploads: who am I, new repositories and branches, pre-upload, the git-lfs batch
 * with single and multi-part transfers, and commits as NDJSON.
 * @module
 */
import { createHash } from "node:crypto";
import type { FakeRepo } from "./fake_hub.ts";

/** Someone with a token. */
export interface Account {
  name: string;
  /** May write to repositories under the name. */
  write: boolean;
}

/** A commit as it arrived. */
export interface Push {
  repo: string;
  branch: string;
  title: string;
  /** Paths, with `lfs` for those that came as large files. */
  files: Record<string, "regular" | "lfs">;
}

/** What uploads need to remember. */
export interface Uploads {
  repos: Record<string, FakeRepo>;
  accounts: Record<string, Account>;
  pushes: Push[];
  /** Large files by sha256. */
  stored: Map<string, Uint8Array>;
  /** Parts of large files on their way. */
  parts: Map<string, Uint8Array>;
  partSize: number;
}

/** A Hub with one account that may write: `hf_writer`, called `writer`. */
export function newUploads(): Omit<Uploads, "repos"> {
  return {
    accounts: { hf_writer: { name: "writer", write: true }, hf_reader: { name: "writer", write: false } },
    pushes: [],
    stored: new Map(),
    parts: new Map(),
    partSize: Infinity,
  };
}

interface Ask {
  method: string;
  url: URL;
  token: string | undefined;
  body: Uint8Array;
  /** Address of the host that large files go to. */
  cdn: string;
}

const text = (body: Uint8Array) => new TextDecoder().decode(body);
const json = (body: Uint8Array) => JSON.parse(text(body));
const says = (status: number, error: string) => Response.json({ error }, { status });
/** What the Hub's .gitattributes send to git-lfs. */
const isLarge = (path: string, size: number) => /\.(safetensors|bin)$|tfevents/.test(path) || size > 1e7;

/** Answers one request of an upload. */
export function answerUpload(hub: Uploads, { method, url, token, body, cdn }: Ask): Response {
  const path = url.pathname;
  if (method === "PUT") { // storage knows no tokens, the address is the permission
    if (token) return says(400, "A token was sent to the storage host");
    const [, , oid, part] = path.split("/");
    if (part) hub.parts.set(`${oid}/${part}`, body);
    else if (createHash("sha256").update(body).digest("hex") !== oid) return says(400, "wrong hash");
    else hub.stored.set(oid!, body);
    return new Response(null, { headers: { etag: `"${part ?? "whole"}"` } });
  }
  if (path.startsWith("/complete/")) {
    const { oid, parts } = json(body) as { oid: string; parts: { partNumber: number; etag: string }[] };
    const pieces = parts.map(({ partNumber }) => hub.parts.get(`${oid}/${partNumber}`)!);
    const whole = new Uint8Array(pieces.flatMap((piece) => [...piece]));
    if (createHash("sha256").update(whole).digest("hex") !== oid) return says(400, "wrong hash");
    hub.stored.set(oid, whole);
    return Response.json({ success: true });
  }
  const account = hub.accounts[token ?? ""];
  if (!account) return says(401, "Invalid username or password.");
  if (path === "/api/whoami-v2") return Response.json({ type: "user", name: account.name, auth: {} });
  if (path === "/api/repos/create") {
    const { organization, name, visibility, private: hidden } = json(body);
    const id = `${organization ?? account.name}/${name}`;
    if (!account.write || organization !== account.name) return says(403, "You don't have the rights");
    if (hub.repos[id]) return says(409, "You already created this model repo");
    hub.repos[id] = { kind: "model", files: {}, private: visibility === "private" || hidden === true };
    return Response.json({ url: `${url.origin}/${id}`, id });
  }
  const batch = /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/.exec(path);
  const api = /^\/api\/models\/([^/]+\/[^/]+)\/(branch|preupload|commit)\/([^/]+)$/.exec(path);
  const id = batch?.[1] ?? api?.[1] ?? "";
  const repo = hub.repos[id];
  if (!repo) return says(404, "Repository not found");
  if (!account.write) return says(403, "This token may only read");
  if (batch) return lfsBatch(hub, json(body), url.origin, cdn);
  const branch = decodeURIComponent(api![3]!);
  if (api![2] === "branch") {
    if (repo.revisions?.[branch]) return says(409, "Reference already exists");
    (repo.revisions ??= {})[branch] = { ...repo.files };
    return Response.json({});
  }
  if (branch !== "main" && !repo.revisions?.[branch]) return says(404, "Invalid rev id");
  if (api![2] === "preupload") {
    const { files } = json(body) as { files: { path: string; size: number }[] };
    return Response.json({
      files: files.map((f) => ({ path: f.path, uploadMode: isLarge(f.path, f.size) ? "lfs" : "regular" })),
    });
  }
  return commit(hub, id, branch, text(body));
}

function lfsBatch(
  hub: Uploads,
  { objects }: { objects: { oid: string; size: number }[] },
  origin: string,
  cdn: string,
): Response {
  return Response.json({
    transfer: "basic",
    objects: objects.map(({ oid, size }) => {
      if (hub.stored.has(oid)) return { oid, size };
      if (size <= hub.partSize) return { oid, size, actions: { upload: { href: `${cdn}/lfs/${oid}` } } };
      const count = Math.ceil(size / hub.partSize);
      const numbers = Array.from({ length: count }, (_, i) => String(i + 1).padStart(5, "0"));
      const parts = Object.fromEntries(numbers.map((n) => [n, `${cdn}/lfs/${oid}/${Number(n)}`]));
      const header = { chunk_size: String(hub.partSize), ...parts };
      return { oid, size, actions: { upload: { href: `${origin}/complete/${oid}`, header } } };
    }),
  });
}

function commit(hub: Uploads, id: string, branch: string, lines: string): Response {
  const repo = hub.repos[id]!;
  const files = branch === "main" ? repo.files : repo.revisions![branch]!;
  const push: Push = { repo: id, branch, title: "", files: {} };
  for (const line of lines.trim().split("\n")) {
    const { key, value } = JSON.parse(line);
    if (key === "header") push.title = value.summary;
    if (key === "file") {
      files[value.path] = Uint8Array.fromBase64(value.content);
      push.files[value.path] = "regular";
    }
    if (key === "lfsFile") {
      const content = hub.stored.get(value.oid);
      if (!content) return says(400, `${value.path} was never uploaded`);
      files[value.path] = content;
      if (!repo.lfs?.includes(value.path)) (repo.lfs ??= []).push(value.path);
      push.files[value.path] = "lfs";
    }
  }
  hub.pushes.push(push);
  const oid = createHash("sha1").update(`${id} ${hub.pushes.length}`).digest("hex");
  return Response.json({
    success: true,
    commitOid: oid,
    commitUrl: `http://hub/${id}/commit/${oid}`,
    hookOutput: "",
  });
}
