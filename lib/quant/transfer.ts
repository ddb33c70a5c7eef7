/**
 * 4-bit tensors to and from plain host data, byte for byte as bitsandbytes stores them.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { gpu } from "../gpu/mod.ts";
import { empty, keep, Tensor } from "../tensor/tensor.ts";
import { codeBook, dynamicMap } from "./code_books.ts";
import { NESTED_BLOCKSIZE } from "./oracle.ts";
import type { QuantState } from "./quant_state.ts";
import { checkBlocksize, QuantizedTensor, sharedMap } from "./quantized_tensor.ts";

/**
 * Uploads a stored 4-bit weight without decoding it. Stored code books are used as they are.
 *
 * @param name the parameter's name, for messages
 * @throws NibbleError `quant/state` when the parts do not fit together, `quant/type`, `quant/blocksize`
 */
export function fromQuantState(state: QuantState, name?: string): QuantizedTensor {
  const { packed, absmax, nested, blocksize, shape } = state;
  const size = shape.reduce((a, b) => a * b, 1), blocks = Math.ceil(size / blocksize);
  const where = name ?? `shape [${shape}]`;
  checkBlocksize(blocksize, where);
  expect(where, "packed bytes", packed.length, Math.ceil(size / 2));
  expect(where, "absmax values", absmax.length, blocks);
  const book = codeBook(state.quantType, state.quantMap);
  if (nested) {
    expect(where, "nested block size", nested.blocksize, NESTED_BLOCKSIZE);
    expect(where, "nested absmax values", nested.absmax.length, Math.ceil(blocks / NESTED_BLOCKSIZE));
    expect(where, "nested map values", nested.quantMap.length, 256);
  }
  return new QuantizedTensor({
    shape: [...shape],
    codeBook: book,
    blocksize,
    dtype: state.dtype,
    name,
    packed: upload(packed, "u32"),
    absmax: nested ? upload(Uint8Array.from(absmax), "u32") : upload(Float32Array.from(absmax), "f32"),
    nested: nested && {
      scales: upload(Float32Array.of(nested.offset, ...nested.absmax), "f32"),
      map: uploadMap(nested.quantMap),
    },
  });
}

function expect(where: string, what: string, found: number, wanted: number): void {
  if (found === wanted) return;
  throw new NibbleError("quant/state", `${found} ${what} where ${wanted} belong`, {
    where,
    remedy: "The file is damaged or of another layout; fetch it again.",
  });
}

function upload(data: Uint8Array | Float32Array, dtype: "u32" | "f32"): Tensor {
  const t = keep(empty([Math.ceil(data.byteLength / 4)], dtype, "base"));
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  const whole = bytes.length - bytes.length % 4;
  gpu().stream.write(t.buffer, t.offset, bytes.subarray(0, whole));
  if (whole < bytes.length) {
    const tail = new Uint8Array(4);
    tail.set(bytes.subarray(whole));
    gpu().stream.write(t.buffer, t.offset + whole, tail);
  }
  return t;
}

function uploadMap(map: Float32Array): Tensor {
  const usual = dynamicMap(true);
  return map.every((v, i) => v === usual[i]) ? sharedMap().map : upload(map, "f32");
}

/** Reads a 4-bit tensor back as it is (one readback). */
export async function toQuantState(q: QuantizedTensor): Promise<QuantState> {
  const { nested } = q;
  const read = [q.packed, q.absmax, ...(nested ? [nested.scales, nested.map] : [])];
  const [packed, absmax, scales, map] = await gpu().stream.read(
    read.map((t) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
  );
  const state: QuantState = {
    packed: new Uint8Array(packed!, 0, Math.ceil(q.size / 2)),
    absmax: nested ? new Uint8Array(absmax!, 0, q.blocks) : new Float32Array(absmax!),
    quantType: q.quantType,
    quantMap: q.codeBook.values,
    blocksize: q.blocksize,
    shape: [...q.shape],
    dtype: q.dtype,
  };
  if (nested) {
    const [offset, ...rest] = new Float32Array(scales!);
    state.nested = {
      absmax: Float32Array.from(rest),
      quantMap: new Float32Array(map!),
      offset: offset!,
      blocksize: NESTED_BLOCKSIZE,
    };
  }
  return state;
}
