/**
 * Writing GGUF files: metadata, tensor table, data, piece by piece.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { bytesOf, f32ToF16 } from "./dtype.ts";
import { type Put, writeWhole } from "./file.ts";
import { ggmlType } from "./gguf_blocks.ts";
import { elementCount } from "./source.ts";

/** A metadata value with its type in the file. */
export type GgufEntryValue =
  | string
  | boolean
  | { u32: number }
  | { f32: number }
  | { i32s: ArrayLike<number> }
  | { f32s: ArrayLike<number> }
  | { strings: readonly string[] };

/** Metadata in the order in which it is written. */
export type GgufEntries = (readonly [key: string, value: GgufEntryValue])[];

/** Types that are written. */
export type GgufWritableType = "F32" | "F16" | "Q8_0";

/** A tensor to write. */
export interface GgufWritableTensor {
  /** GGUF's name, `blk.0.attn_q.weight`. */
  name: string;
  type: GgufWritableType;
  /** Outermost dimension first. */
  shape: readonly number[];
  /** Values in pieces of whole rows, made when their turn comes. */
  data: () => Iterable<Float32Array>;
}

const ALIGNMENT = 32;
const TYPE = { u32: 4, f32: 6, boolean: 7, string: 8, array: 9, i32: 5 } as const;

/**
 * Writes a GGUF file of version 3: beside its place first, then renamed.
 *
 * @throws NibbleError `formats/f16-range` for a number that f16 cannot hold, `formats/size-mismatch`
 * @example
 * ```ts
 * import { openFile } from "./file.ts";
 * import { readGgufHeader } from "./gguf_header.ts";
 * import { writeGguf } from "./gguf_write.ts";
 * const path = await Deno.makeTempFile();
 * const data = () => [Float32Array.of(1, 2)];
 * writeGguf(path, [["general.architecture", "llama"]], [{ name: "t", type: "F16", shape: [2], data }]);
 * const file = openFile(path);
 * if (readGgufHeader(file).tensors[0]?.bytes !== 4) throw new Error("two numbers of two bytes");
 * file.close();
 * await Deno.remove(path);
 * ```
 */
export function writeGguf(path: string, entries: GgufEntries, tensors: readonly GgufWritableTensor[]): void {
  const head = bytesWriter();
  head.u32(0x46554747); // "GGUF"
  head.u32(3);
  head.u64(tensors.length);
  head.u64(entries.length);
  for (const [key, value] of entries) {
    head.string(key);
    writeValue(head, value);
  }
  let offset = 0;
  for (const t of tensors) {
    const type = ggmlType(t.type)!;
    head.string(t.name);
    head.u32(t.shape.length);
    for (const d of t.shape.toReversed()) head.u64(d);
    head.u32(type.id);
    head.u64(offset);
    offset = aligned(offset + byteLength(t));
  }
  writeWhole(path, (put) => {
    const bytes = head.done();
    put(bytes);
    pad(put, bytes.length);
    for (const t of tensors) {
      const encode = ENCODERS[t.type];
      let written = 0;
      for (const piece of t.data()) {
        const part = encode(piece, `${path}, tensor "${t.name}"`);
        written += part.length;
        put(part);
      }
      if (written !== byteLength(t)) {
        throw new NibbleError("formats/size-mismatch", `${written} bytes where ${byteLength(t)} belong`, {
          where: `${path}, tensor "${t.name}" [${t.shape.join(", ")}]`,
          remedy: "Give data of the tensor's shape, in whole rows.",
        });
      }
      pad(put, written);
    }
  });
}

const aligned = (n: number) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;

function pad(put: Put, written: number): void {
  if (written % ALIGNMENT !== 0) put(new Uint8Array(aligned(written) - written));
}

function byteLength({ type: name, shape }: Pick<GgufWritableTensor, "type" | "shape">): number {
  const type = ggmlType(name)!;
  return elementCount(shape) / type.values * type.bytes;
}

type BytesWriter = ReturnType<typeof bytesWriter>;

function writeValue(out: BytesWriter, value: GgufEntryValue): void {
  if (typeof value === "string") {
    out.u32(TYPE.string);
    out.string(value);
  } else if (typeof value === "boolean") {
    out.u32(TYPE.boolean);
    out.bytes(Uint8Array.of(value ? 1 : 0));
  } else if ("u32" in value) {
    out.u32(TYPE.u32);
    out.u32(value.u32);
  } else if ("f32" in value) {
    out.u32(TYPE.f32);
    out.bytes(bytesOf(Float32Array.of(value.f32)));
  } else {
    const [type, items] = "i32s" in value
      ? [TYPE.i32, value.i32s]
      : "f32s" in value
      ? [TYPE.f32, value.f32s]
      : [TYPE.string, value.strings];
    out.u32(TYPE.array);
    out.u32(type);
    out.u64(items.length);
    if ("i32s" in value) out.bytes(bytesOf(Int32Array.from(value.i32s)));
    else if ("f32s" in value) out.bytes(bytesOf(Float32Array.from(value.f32s)));
    else for (const s of value.strings) out.string(s);
  }
}

/** Little-endian bytes that grow. */
function bytesWriter() {
  let buffer = new Uint8Array(1 << 16), at = 0;
  const utf8 = new TextEncoder();
  const bytes = (more: Uint8Array) => {
    if (at + more.length > buffer.length) {
      const wider = new Uint8Array(Math.max(2 * buffer.length, at + more.length));
      wider.set(buffer.subarray(0, at));
      buffer = wider;
    }
    buffer.set(more, at);
    at += more.length;
  };
  const u64 = (n: number) => bytes(bytesOf(BigUint64Array.of(BigInt(n))));
  return {
    bytes,
    u64,
    u32: (n: number) => bytes(bytesOf(Uint32Array.of(n))),
    string(text: string) {
      const encoded = utf8.encode(text);
      u64(encoded.length);
      bytes(encoded);
    },
    done: () => buffer.slice(0, at),
  };
}

const ENCODERS: Record<GgufWritableType, (x: Float32Array, where: string) => Uint8Array> = {
  F32: (x) => bytesOf(x),
  F16: encodeF16,
  Q8_0: encodeQ8_0,
};

function encodeF16(x: Float32Array, where: string): Uint8Array {
  const bits = f32ToF16(x);
  const beyond = bits.findIndex((b) => (b & 0x7c00) === 0x7c00);
  if (beyond < 0) return bytesOf(bits);
  throw new NibbleError("formats/f16-range", `It holds ${x[beyond]}, more than f16's 65504`, {
    where,
    remedy: "Write Q8_0, whose blocks have a scale.",
  });
}

/**
 * Q8_0, 34 bytes for 32 values: `d = max|x| / 127` in f16, then signed bytes x / d, halves rounded away from zero. The
 * division is by the f32 d, as ggml has it.
 */
export function encodeQ8_0(x: Float32Array): Uint8Array<ArrayBuffer> {
  const f = Math.fround;
  const blocks = x.length / 32;
  const out = new Uint8Array(34 * blocks);
  const signed = new Int8Array(out.buffer);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    let most = 0;
    for (let i = 0; i < 32; i++) most = Math.max(most, Math.abs(x[32 * b + i]!));
    const d = scales[b] = f(most / 127);
    const inverse = d === 0 ? 0 : f(1 / d);
    for (let i = 0; i < 32; i++) {
      const v = f(x[32 * b + i]! * inverse), size = Math.abs(v), whole = Math.floor(size);
      signed[34 * b + 2 + i] = Math.sign(v) * (size - whole >= 0.5 ? whole + 1 : whole);
    }
  }
  const halves = f32ToF16(scales);
  for (let b = 0; b < blocks; b++) {
    out[34 * b] = halves[b]! & 255;
    out[34 * b + 1] = halves[b]! >> 8;
  }
  return out;
}
