/**
 * GGUF models: tensors under Hugging Face names and in Hugging Face order, the config, and the tokenizer.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { CHUNK_BYTES, openFile, type RandomAccessFile } from "./file.ts";
import { ggufArchitecture, ggufConfig, ggufHeads, type GgufMetadata, ggufMetadata } from "./gguf_config.ts";
import { type GgufTensor, type GgufValue, readGgufHeader } from "./gguf_header.ts";
import { hfTensorName, type Restore, restoreOf, storedRow } from "./gguf_names.ts";
import { checkRange, missingTensor } from "./safetensors.ts";
import { elementCount, type TensorInfo, type TensorSource } from "./source.ts";

/** An open GGUF model. */
export interface GgufSource extends TensorSource {
  /** `config.json` as Hugging Face would write it. */
  readonly config: Record<string, unknown>;
  /** All metadata under GGUF's own keys. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Typed access to the metadata. */
  readonly meta: GgufMetadata;
  /** Tensors of the file that Hugging Face's don't have (`rope_freqs.weight`): not among `tensors`. */
  readonly unmapped: readonly string[];
}

interface Entry {
  stored: GgufTensor;
  restore: Restore;
}

/**
 * Open a GGUF model.
 *
 * `readF32` undoes what the converter did: q and k rows come in Hugging Face's order, Gemma's norms without the
 * added 1. `readBytes` gives the bytes as they lie in the file, in the file's row order.
 * @throws NibbleError for a malformed file, an unsupported architecture or type, a split or adapter file
 *
 * @example
 * ```ts ignore
 * const source = openGguf("SmolLM2-135M-Instruct.Q4_1.gguf");
 * source.config.hidden_size; // 576
 * source.readF32("model.layers.0.self_attn.q_proj.weight"); // 576 x 576 values
 * ```
 */
export function openGguf(path: string): GgufSource {
  const file = openFile(path);
  try {
    return makeSource(file);
  } catch (e) {
    file.close();
    throw e;
  }
}

function makeSource(file: RandomAccessFile): GgufSource {
  const header = readGgufHeader(file);
  const meta = ggufMetadata(file.path, header.metadata);
  const kind = meta.string("general.type") ?? "model";
  if (kind !== "model") {
    throw new NibbleError("formats/gguf-kind", `The file holds no model but: ${kind}`, {
      where: `${file.path}, key "general.type"`,
      remedy: "Give the GGUF file of the model.",
    });
  }
  if ((meta.number("split.count") ?? 1) > 1) {
    throw new NibbleError("formats/gguf-split", "Models split over several GGUF files cannot be read", {
      where: file.path,
      remedy: "Merge the parts first (llama-gguf-split --merge).",
    });
  }
  const arch = ggufArchitecture(meta);
  const heads = ggufHeads(meta, arch);

  const entries = new Map<string, Entry>();
  const tensors = new Map<string, TensorInfo>();
  const unmapped = new Map<string, GgufTensor>();
  for (const stored of header.tensors) {
    const name = hfTensorName(arch, stored.name);
    if (name === undefined) {
      unmapped.set(stored.name, stored);
      continue;
    }
    const restore = restoreOf(arch, name, heads);
    if (restore.kind === "unpermute" && stored.shape[0]! % (2 * restore.heads) !== 0) {
      throw new NibbleError(
        "formats/gguf-shape",
        `${stored.shape[0]} rows cannot be divided among ${restore.heads} heads`,
        {
          where: `${file.path}, tensor "${stored.name}"`,
          remedy: "The metadata does not fit: convert the model again.",
        },
      );
    }
    entries.set(name, { stored, restore });
    tensors.set(name, { name, dtype: stored.type.name, shape: stored.shape, bytes: stored.bytes });
  }
  const embedding = tensors.get("model.embed_tokens.weight");
  if (!embedding || embedding.shape.length !== 2) {
    throw new NibbleError("formats/gguf-kind", "The file has no embedding", {
      where: `${file.path}, tensor "token_embd.weight"`,
      remedy: "It holds a vocabulary or a part of a model: give the GGUF file of the whole model.",
    });
  }
  const config = ggufConfig(meta, arch, {
    has: (name) => entries.has(name),
    vocabSize: embedding.shape[0]!,
    values: (name) => {
      const stored = unmapped.get(name);
      return stored && readStored(file, stored, 0, elementCount(stored.shape));
    },
  });

  const find = (name: string): Entry => entries.get(name) ?? missingTensor(file.path, name, tensors);
  return {
    path: file.path,
    tensors,
    config,
    meta,
    metadata: header.metadata,
    unmapped: [...unmapped.keys()],
    readF32(name, start = 0, end) {
      const { stored, restore } = find(name);
      const count = elementCount(stored.shape);
      const last = end ?? count;
      checkRange(file.path, name, start, last, count);
      if (restore.kind === "unpermute") return readUnpermuted(file, stored, restore.heads, start, last);
      const out = readStored(file, stored, start, last);
      if (restore.kind === "minusOne") { for (let i = 0; i < out.length; i++) out[i] = out[i]! - 1; }
      return out;
    },
    readBytes(name, start = 0, end) {
      const { stored } = find(name);
      const last = end ?? stored.bytes;
      checkRange(file.path, name, start, last, stored.bytes);
      const out = new Uint8Array(last - start);
      file.readInto(out, stored.offset + start);
      return out;
    },
    close: () => file.close(),
  };
}

/** Stored elements `[start, end)` of a tensor, decoded by whole blocks in pieces of bounded size. */
function readStored(
  file: RandomAccessFile,
  stored: GgufTensor,
  start: number,
  end: number,
  out: Float32Array<ArrayBuffer> = new Float32Array(end - start),
): Float32Array<ArrayBuffer> {
  const { values, bytes, decode } = stored.type;
  const perPiece = Math.floor(CHUNK_BYTES / bytes);
  const lastBlock = Math.ceil(end / values);
  const first = Math.floor(start / values);
  const scratch = new Uint8Array(Math.min(perPiece, lastBlock - first) * bytes);
  for (let block = first; block < lastBlock; block += perPiece) {
    const n = Math.min(perPiece, lastBlock - block);
    const raw = scratch.subarray(0, n * bytes);
    file.readInto(raw, stored.offset + block * bytes);
    const from = block * values;
    const to = from + n * values;
    if (from >= start && to <= end) {
      decode(raw, out.subarray(from - start, to - start));
    } else { // a range that begins or ends inside a block
      const whole = new Float32Array(to - from);
      decode(raw, whole);
      const low = Math.max(from, start);
      out.set(whole.subarray(low - from, Math.min(to, end) - from), low - start);
    }
  }
  return out;
}

/** Like {@link readStored} in Hugging Face's row order: each needed head is decoded whole, its rows put in place. */
function readUnpermuted(
  file: RandomAccessFile,
  stored: GgufTensor,
  heads: number,
  start: number,
  end: number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(end - start);
  const rows = stored.shape[0]!;
  const headRows = rows / heads;
  const columns = elementCount(stored.shape) / rows; // 1 for a bias
  const headSize = headRows * columns;
  const head = new Float32Array(headSize);
  for (let base = Math.floor(start / headSize) * headSize; base < end; base += headSize) {
    readStored(file, stored, base, base + headSize, head);
    for (let r = 0; r < headRows; r++) {
      const low = Math.max(base + r * columns, start);
      const high = Math.min(base + (r + 1) * columns, end);
      if (low >= high) continue;
      // Offset of the element within its row plus the beginning of the stored row.
      const from = storedRow(r, headRows) * columns + (low - base - r * columns);
      out.set(head.subarray(from, from + high - low), low - start);
    }
  }
  return out;
}
