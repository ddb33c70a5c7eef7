/** Helpers of the tests of lib/formats: temporary folders, hand-made files, and errors by their code. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { GGML_TYPES } from "../../lib/formats/gguf_blocks.ts";

/** A folder that is gone at the end of the block. */
export function temporaryFolder() {
  const path = Deno.makeTempDirSync();
  return {
    path,
    file: (name: string, content: Uint8Array | string | object = ""): string => {
      const at = join(path, name);
      if (content instanceof Uint8Array) Deno.writeFileSync(at, content);
      else Deno.writeTextFileSync(at, typeof content === "string" ? content : JSON.stringify(content));
      return at;
    },
    [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }),
  };
}

/** Assert a NibbleError of a code whose message holds all the words, and which says what to do. */
export function throwsCode(action: () => unknown, code: string, ...words: string[]): void {
  assert.throws(action, (e: unknown) => {
    assert.ok(e instanceof NibbleError, `not a NibbleError: ${e}`);
    assert.equal(e.code, code, e.message);
    for (const word of words) assert.ok(e.message.includes(word), `"${word}" is not in: ${e.message}`);
    assert.ok(e.where && e.remedy, `place or remedy is missing in: ${e.message}`);
    return true;
  });
}

/** A JSON file beside the tests. */
export function golden<T>(name: string): T {
  return JSON.parse(Deno.readTextFileSync(new URL(`./golden/${name}`, import.meta.url))) as T;
}

/** Bytes of base64 text. */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

/** f32 values of base64 text. */
export function floats(text: string): Float32Array<ArrayBuffer> {
  return new Float32Array(fromBase64(text).buffer);
}

/** A safetensors file from a header of any kind and a number of data bytes. */
export function rawSafetensors(
  header: unknown,
  dataBytes: number,
  claimedLength?: bigint,
): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, claimedLength ?? BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

/** A metadata value with its GGUF type, or its raw bytes. */
export type Kv = string | boolean | { u32: number } | { f32: number } | { i32s: number[] } | {
  f32s: number[];
} | {
  strings: string[];
} | { raw: [type: number, bytes: number[]] };

/** A tensor for {@link buildGguf}; `type` is ggml's name. */
export interface BuiltTensor {
  shape: number[];
  type?: string;
  data?: Uint8Array;
  typeId?: number;
  offset?: number;
}

/** A GGUF file of version 3; `counts` and `version` may lie. */
export function buildGguf(
  metadata: Record<string, Kv> | [string, Kv][],
  tensors: Record<string, BuiltTensor> | [string, BuiltTensor][] = {},
  lies: { magic?: number; version?: number; tensorCount?: number; kvCount?: number } = {},
): Uint8Array<ArrayBuffer> {
  const out: number[] = [];
  const entries = Array.isArray(metadata) ? metadata : Object.entries(metadata);
  const rows = Array.isArray(tensors) ? tensors : Object.entries(tensors);
  const bytes = (view: ArrayBufferView) => {
    for (const b of new Uint8Array(view.buffer, view.byteOffset, view.byteLength)) out.push(b);
  };
  const u32 = (n: number) => bytes(new Uint32Array([n]));
  const u64 = (n: number) => bytes(new BigUint64Array([BigInt(n)]));
  const string = (s: string) => {
    const utf8 = new TextEncoder().encode(s);
    u64(utf8.length);
    bytes(utf8);
  };
  u32(lies.magic ?? 0x46554747);
  u32(lies.version ?? 3);
  u64(lies.tensorCount ?? rows.length);
  u64(lies.kvCount ?? entries.length);
  for (const [key, value] of entries) {
    string(key);
    if (typeof value === "string") u32(8), string(value);
    else if (typeof value === "boolean") u32(7), out.push(value ? 1 : 0);
    else if ("u32" in value) u32(4), u32(value.u32);
    else if ("f32" in value) u32(6), bytes(new Float32Array([value.f32]));
    else if ("i32s" in value) u32(9), u32(5), u64(value.i32s.length), bytes(new Int32Array(value.i32s));
    else if ("f32s" in value) u32(9), u32(6), u64(value.f32s.length), bytes(new Float32Array(value.f32s));
    else if ("strings" in value) u32(9), u32(8), u64(value.strings.length), value.strings.forEach(string);
    else u32(value.raw[0]), out.push(...value.raw[1]);
  }
  const types = new Map([...GGML_TYPES.values()].map((t) => [t.name, t]));
  let at = 0;
  const blobs: [number, Uint8Array][] = [];
  for (const [name, t] of rows) {
    const type = types.get(t.type ?? "F32")!;
    const size = t.shape.reduce((n, d) => n * d, 1) / type.values * type.bytes;
    const data = t.data ?? new Uint8Array(Math.min(size, 1 << 20));
    string(name);
    u32(t.shape.length);
    for (const d of [...t.shape].reverse()) u64(d);
    u32(t.typeId ?? type.id);
    u64(t.offset ?? at);
    blobs.push([t.offset ?? at, data]);
    at = Math.ceil((at + data.length) / 32) * 32;
  }
  const start = Math.ceil(out.length / 32) * 32;
  const file = new Uint8Array(start + Math.max(0, ...blobs.map(([offset, data]) => offset + data.length)));
  file.set(out);
  for (const [offset, data] of blobs) file.set(data, start + offset);
  return file;
}

/** Metadata that a one-layer llama needs; `extra` overrides. */
export function llamaMetadata(extra: Record<string, Kv> = {}, arch = "llama"): Record<string, Kv> {
  return {
    "general.architecture": arch,
    [`${arch}.context_length`]: { u32: 64 },
    [`${arch}.embedding_length`]: { u32: 32 },
    [`${arch}.block_count`]: { u32: 1 },
    [`${arch}.feed_forward_length`]: { u32: 64 },
    [`${arch}.attention.head_count`]: { u32: 4 },
    [`${arch}.attention.head_count_kv`]: { u32: 2 },
    [`${arch}.attention.layer_norm_rms_epsilon`]: { f32: 1e-5 },
    ...extra,
  };
}

/** The embedding that every model has. */
export const EMBEDDING: Record<string, BuiltTensor> = { "token_embd.weight": { shape: [8, 32] } };

/** A URL in the shared folder beside the repository, and whether it is there. */
export function sharedFile(path: string): { path: string; missing: boolean } {
  const url = new URL(`../../../shared/${path}`, import.meta.url);
  try {
    Deno.statSync(url);
    return { path: url.pathname, missing: false };
  } catch {
    return { path: url.pathname, missing: true };
  }
}

/** Name of a test that is skipped when something is absent. */
export function skippable(name: string, missing: boolean, what: string): { name: string; ignore: boolean } {
  return { name: missing ? `${name} (skipped: ${what} is absent)` : name, ignore: missing };
}
