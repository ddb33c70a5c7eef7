/**
 * Weights quantized to 4 bits, as bitsandbytes keeps them in safetensors files.
 *
 * Beside the packed bytes `P.weight` lie `P.weight.absmax`, `P.weight.quant_map`, with double quantization
 * `P.weight.nested_absmax` and `P.weight.nested_quant_map`, and `P.weight.quant_state.bitsandbytes__nf4` (or
 * `__fp4`), a tensor whose bytes are JSON.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { isObject } from "./file.ts";
import { DTYPE_BYTES } from "./dtype.ts";
import type { WritableTensor } from "./safetensors_write.ts";
import { elementCount, type TensorSource } from "./source.ts";

/** Type that the weight had, and to which bitsandbytes decodes it. */
export type QuantDtype = "float32" | "float16" | "bfloat16";

/** The second level of double quantization. */
export interface NestedState {
  /** Scales of the 8-bit absmax values, one for each `blocksize` of them. */
  absmax: Float32Array;
  /** 256 levels. */
  quantMap: Float32Array;
  /** 8-bit absmax values in a block, 256. */
  blocksize: number;
  /** Mean that was subtracted from the absmax values. */
  offset: number;
}

/** In which form a weight is held: what its state's JSON says. */
export interface QuantForm {
  quantType: "nf4" | "fp4";
  blocksize: number;
  shape: number[];
  dtype: QuantDtype;
  /** Present with double quantization. */
  nested?: Pick<NestedState, "blocksize" | "offset">;
}

/** A 4-bit weight as stored. */
export interface QuantState {
  /** Two codes a byte, the first in the upper half; ceil(n / 2) bytes. */
  packed: Uint8Array;
  /** One scale a block: f32, or 8-bit codes into the nested map. */
  absmax: Float32Array | Uint8Array;
  /** The 16 levels. */
  quantMap: Float32Array;
  /** Which code book. */
  quantType: "nf4" | "fp4";
  /** Values in a block. */
  blocksize: number;
  /** Shape of the weight, [out, in]. */
  shape: number[];
  /** Type that decoding gives. */
  dtype: QuantDtype;
  /** Present exactly when `absmax` holds codes. */
  nested?: NestedState;
}

/** As what types packed bytes may be labelled in a file, by bitsandbytes' names for them. The bytes are the same. */
export const QUANT_STORAGE = { uint8: "U8", float16: "F16", bfloat16: "BF16", float32: "F32" } as const;

/** `bnb_4bit_quant_storage`. */
export type QuantStorage = (typeof QUANT_STORAGE)[keyof typeof QUANT_STORAGE];

const MARK = ".quant_state.bitsandbytes__";

/** Names of all weights of a source that are quantized in bitsandbytes' way. */
export function quantizedNames(source: TensorSource): string[] {
  const names = [];
  for (const key of source.tensors.keys()) {
    const at = key.indexOf(MARK);
    if (at > 0) names.push(key.slice(0, at));
  }
  return names;
}

/** Errors about one weight. */
type Complaint = (what: string) => NibbleError;

function complaint(source: TensorSource, name: string): Complaint {
  return (what) =>
    new NibbleError("formats/quant-state", what, {
      where: `${source.path}, tensor "${name}"`,
      remedy: "The quantized checkpoint is damaged or of another kind: quantize the 16-bit model instead.",
    });
}

/**
 * Read in which form one weight is quantized; of the weight itself nothing is read.
 * @throws NibbleError `formats/quant-state` when the state is missing, double or malformed
 */
export function readQuantForm(source: TensorSource, name: string): QuantForm {
  const bad = complaint(source, name);
  const marks = ["nf4", "fp4"].map((type) => name + MARK + type).filter((key) => source.tensors.has(key));
  if (marks.length !== 1) throw bad(`It has ${marks.length} quantization states; one is needed`);
  const json = parseState(source.readBytes(marks[0]!), bad);
  const { quant_type: quantType, blocksize, dtype, shape } = json;
  if (quantType !== "nf4" && quantType !== "fp4") {
    throw bad(`Unknown quant_type ${JSON.stringify(quantType)}`);
  }
  if (!isCount(blocksize)) throw bad(`blocksize must be a whole number, not ${JSON.stringify(blocksize)}`);
  if (dtype !== "float32" && dtype !== "float16" && dtype !== "bfloat16") {
    throw bad(`Unknown dtype ${JSON.stringify(dtype)}`);
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) throw bad(`Bad shape ${JSON.stringify(shape)}`);
  const form: QuantForm = { quantType, blocksize, dtype, shape: [...shape] };
  const { nested_blocksize: nestedBlocksize, nested_offset: offset } = json;
  if (nestedBlocksize === undefined) return form;
  if (!isCount(nestedBlocksize) || typeof offset !== "number") {
    throw bad("nested_blocksize and nested_offset must be numbers");
  }
  return { ...form, nested: { blocksize: nestedBlocksize, offset } };
}

/**
 * Read one quantized weight.
 * @param name of the weight, `model.layers.0.mlp.up_proj.weight`
 * @throws NibbleError `formats/quant-state` when a part is missing or its size is wrong
 */
export function readQuantState(source: TensorSource, name: string): QuantState {
  const { nested, ...form } = readQuantForm(source, name);
  const bad = complaint(source, name);
  /** A part, checked for its type and size before it is read. */
  const part = (key: string, expectedDtype: string | undefined, count: number): string => {
    const info = source.tensors.get(key);
    if (!info) throw bad(`"${key}" is missing`);
    if (expectedDtype !== undefined && info.dtype !== expectedDtype) {
      throw bad(`"${key}" is ${info.dtype}, not ${expectedDtype}`);
    }
    const got = expectedDtype === undefined ? info.bytes : elementCount(info.shape);
    if (got !== count) throw bad(`"${key}" has ${got} ${expectedDtype ?? "bytes"}, not ${count}`);
    return key;
  };
  const values = elementCount(form.shape);
  const blocks = Math.ceil(values / form.blocksize);
  const state = {
    ...form,
    // Any stored type: bnb_4bit_quant_storage only says as what the bytes are labelled.
    packed: source.readBytes(part(name, undefined, Math.ceil(values / 2))),
    quantMap: source.readF32(part(`${name}.quant_map`, "F32", 16)),
  };
  if (!nested) return { ...state, absmax: source.readF32(part(`${name}.absmax`, "F32", blocks)) };
  const groups = Math.ceil(blocks / nested.blocksize);
  return {
    ...state,
    absmax: source.readBytes(part(`${name}.absmax`, "U8", blocks)),
    nested: {
      ...nested,
      absmax: source.readF32(part(`${name}.nested_absmax`, "F32", groups)),
      quantMap: source.readF32(part(`${name}.nested_quant_map`, "F32", 256)),
    },
  };
}

/**
 * The tensors that hold a quantized weight in a file, ready for `writeSafetensors`.
 * @param name of the weight
 * @param storage as what the packed bytes are labelled, `[bytes / size, 1]`; FSDP shards only tensors of one type, so
 *   that its users store 4 bits as `BF16`
 * @throws NibbleError `formats/quant-storage` for a weight whose bytes are no whole number of such elements
 *
 * @example
 * ```ts
 * import { quantStateTensors } from "./bnb.ts";
 * const tensors = quantStateTensors("m.weight", {
 *   packed: new Uint8Array(32),
 *   absmax: new Float32Array(1),
 *   quantMap: new Float32Array(16),
 *   quantType: "nf4",
 *   blocksize: 64,
 *   shape: [1, 64],
 *   dtype: "bfloat16",
 * });
 * if (tensors.length !== 4) throw new Error("codes, scales, levels, state");
 * ```
 */
export function quantStateTensors(
  name: string,
  state: QuantState,
  storage: QuantStorage = "U8",
): WritableTensor[] {
  const { packed, absmax, quantMap, nested } = state;
  const elements = packed.length / DTYPE_BYTES[storage];
  if (!Number.isInteger(elements)) {
    throw new NibbleError(
      "formats/quant-storage",
      `${packed.length} packed bytes are no whole number of ${storage}`,
      {
        where: `"${name}" [${state.shape.join(", ")}]`,
        remedy: "Set bnb_4bit_quant_storage to uint8, which holds any number.",
      },
    );
  }
  const json: [string, string][] = [
    ["quant_type", JSON.stringify(state.quantType)],
    ["blocksize", String(state.blocksize)],
    ["dtype", JSON.stringify(state.dtype)],
    ["shape", `[${state.shape.join(", ")}]`],
  ];
  const tensors: WritableTensor[] = [
    { name, dtype: storage, shape: [elements, 1], data: packed },
    {
      name: `${name}.absmax`,
      dtype: absmax instanceof Float32Array ? "F32" : "U8",
      shape: [absmax.length],
      data: absmax,
    },
    { name: `${name}.quant_map`, dtype: "F32", shape: [quantMap.length], data: quantMap },
  ];
  if (nested) {
    const { absmax: scales, quantMap: levels } = nested;
    tensors.push(
      { name: `${name}.nested_absmax`, dtype: "F32", shape: [scales.length], data: scales },
      { name: `${name}.nested_quant_map`, dtype: "F32", shape: [levels.length], data: levels },
    );
    json.push(
      ["nested_blocksize", String(nested.blocksize)],
      ["nested_dtype", '"float32"'],
      ["nested_offset", pythonFloat(nested.offset)],
    );
  }
  const text = new TextEncoder().encode(`{${json.map(([key, value]) => `"${key}": ${value}`).join(", ")}}`);
  tensors.push({ name: `${name}${MARK}${state.quantType}`, dtype: "U8", shape: [text.length], data: text });
  return tensors;
}

/** A float as Python's `json.dumps` writes it: `1.0`, `1e-05`, `1e+16`, and decimals in between. */
export function pythonFloat(x: number): string {
  const magnitude = Math.abs(x);
  if (x === 0) return Object.is(x, -0) ? "-0.0" : "0.0";
  if (magnitude >= 1e16 || magnitude < 1e-4) {
    return x.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  const text = String(x); // below 1e21 and at or above 1e-6: never an exponent
  return Number.isInteger(x) ? `${text}.0` : text;
}

function parseState(bytes: Uint8Array, bad: Complaint): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (isObject(json)) return json;
  } catch {
    // Falls through to the error below.
  }
  throw bad("Its quantization state is not a JSON object");
}

function isCount(n: unknown): n is number {
  return typeof n === "number" && Number.isSafeInteger(n) && n > 0;
}
