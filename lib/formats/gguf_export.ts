/**
 * A Hugging Face model as a GGUF file that llama.cpp loads.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { CHUNK_BYTES } from "./file.ts";
import {
  GGUF_ARCHITECTURES,
  type GgufArchitecture,
  ggufTensorName,
  restoreOf,
  storedRow,
} from "./gguf_names.ts";
import { tokenizerEntries } from "./gguf_tokenizer_write.ts";
import { type GgufEntries, type GgufWritableTensor, type GgufWritableType, writeGguf } from "./gguf_write.ts";
import type { ModelFiles } from "./model_files.ts";
import { elementCount } from "./source.ts";

/** What a config.json comes to once its family's defaults are in: `ModelConfig` of lib/model has all of it. */
export interface GgufModelFacts {
  model_type: string;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  vocab_size: number;
  norm_eps: number;
  rope_theta: number;
  rotary_dim: number;
  max_position_embeddings: number;
  /** `rope_scaling`, with `rope_type`. */
  rope_scaling: object | undefined;
  layers: readonly { rope: boolean; window: number | undefined }[];
}

/** Options of {@link writeGgufModel}. */
export interface WriteGgufOptions {
  /** How matrices are stored; vectors stay F32. */
  type: "F16" | "Q8_0";
  /** `general.name`. */
  name?: string;
  /** Tokens that end a turn or a text. */
  stopIds?: readonly number[];
  onProgress?: (done: number, total: number) => void;
}

/** `general.file_type`. */
export const FILE_TYPES = { F32: 0, F16: 1, Q8_0: 7 } as const;

/** The architecture under which llama.cpp knows a `model_type`. */
export function architectureOf(modelType: string, where: string): GgufArchitecture {
  const name = modelType === "mistral" ? "llama" : modelType;
  const known = GGUF_ARCHITECTURES.find((a) => a === name);
  if (known && known !== "gemma2" && known !== "gemma3") return known;
  throw new NibbleError(
    "formats/gguf-architecture",
    `A model of type ${modelType} cannot be written as GGUF`,
    {
      where,
      remedy: "Keep the Hugging Face folder, and convert it with llama.cpp's own converter.",
    },
  );
}

/**
 * Writes a model as GGUF: metadata, vocabulary with chat template and stop tokens, tensors under GGUF's names with the
 * rows of q and k in ggml's order. Tensor by tensor; the host holds a few MiB, or one head of q and k.
 *
 * @param files an open Hugging Face folder of 16 or 32 bits
 * @param facts its config, with defaults
 * @throws NibbleError `formats/gguf-architecture`, `formats/gguf-tokenizer`, `formats/f16-range`
 */
export function writeGgufModel(
  files: ModelFiles,
  facts: GgufModelFacts,
  path: string,
  options: WriteGgufOptions,
): void {
  const { source } = files;
  const arch = architectureOf(facts.model_type, files.path);
  const scaling = ropeEntries(arch, facts, files.path);
  const tensors = [...scaling.tensors];
  const names = [...source.tensors.keys()];
  const total = names.reduce((n, name) => n + elementCount(source.tensors.get(name)!.shape), 0);
  let done = 0;
  for (const name of names) {
    const stored = ggufTensorName(arch, name);
    if (stored === undefined) {
      if (/rotary_emb\.inv_freq$/.test(name)) continue; // a buffer of older files, recomputed by all
      throw new NibbleError(
        "formats/gguf-architecture",
        `GGUF has no name for '${name}' in a ${arch} model`,
        {
          where: files.path,
          remedy: "Keep the Hugging Face folder, and convert it with llama.cpp's own converter.",
        },
      );
    }
    const { shape } = source.tensors.get(name)!;
    const columns = shape.at(-1)!;
    const type: GgufWritableType = shape.length < 2
      ? "F32"
      : options.type === "Q8_0" && columns % 32 !== 0
      ? "F16"
      : options.type;
    tensors.push({
      name: stored,
      type,
      shape,
      data: function* () {
        for (const piece of storedValues(files, arch, name, facts)) {
          yield piece;
          options.onProgress?.(done += piece.length, total);
        }
      },
    });
  }
  const entries: GgufEntries = [
    ["general.architecture", arch],
    ["general.type", "model"],
    ["general.name", options.name ?? facts.model_type],
    ["general.file_type", { u32: FILE_TYPES[options.type] }],
    ["general.quantization_version", { u32: 2 }],
    ...architectureEntries(arch, facts),
    ...scaling.entries,
    ...tokenizerEntries({
      tokenizerJson: files.tokenizerJson,
      tokenizerConfig: files.tokenizerConfig,
      chatTemplate: files.chatTemplate,
      stopIds: options.stopIds ?? stopIds(files),
      vocabSize: facts.vocab_size,
      path: files.path,
    }),
  ];
  writeGguf(path, entries, tensors);
}

/** Stop tokens of generation_config.json or config.json. */
function stopIds({ generationConfig, config }: ModelFiles): number[] {
  return [generationConfig["eos_token_id"], config["eos_token_id"]].flat()
    .filter((id): id is number => typeof id === "number");
}

function architectureEntries(arch: GgufArchitecture, c: GgufModelFacts): GgufEntries {
  const u32 = (name: string, n: number) => [`${arch}.${name}`, { u32: n }] as const;
  const f32 = (name: string, n: number) => [`${arch}.${name}`, { f32: n }] as const;
  const window = c.layers.find((l) => l.window !== undefined)?.window;
  const norm = arch === "starcoder2" ? "layer_norm_epsilon" : "layer_norm_rms_epsilon";
  return [
    u32("context_length", c.max_position_embeddings),
    u32("embedding_length", c.hidden_size),
    u32("block_count", c.num_hidden_layers),
    u32("feed_forward_length", c.intermediate_size),
    u32("attention.head_count", c.num_attention_heads),
    u32("attention.head_count_kv", c.num_key_value_heads),
    u32("attention.key_length", c.head_dim),
    u32("attention.value_length", c.head_dim),
    f32(`attention.${norm}`, c.norm_eps),
    ...(window === undefined ? [] : [u32("attention.sliding_window", window)]),
    f32("rope.freq_base", c.rope_theta),
    u32("rope.dimension_count", c.rotary_dim),
    u32("vocab_size", c.vocab_size),
  ];
}

/** How positions are scaled: keys, or for Llama 3 and LongRoPE divisors of the frequencies as tensors. */
function ropeEntries(
  arch: GgufArchitecture,
  c: GgufModelFacts,
  where: string,
): { entries: GgufEntries; tensors: GgufWritableTensor[] } {
  const refuse = (what: string): never => {
    throw new NibbleError("formats/gguf-architecture", `${what} cannot be said in GGUF`, {
      where: `${where}, config.json`,
      remedy: "Keep the Hugging Face folder.",
    });
  };
  const usual = (i: number) => arch !== "smollm3" || (i + 1) % 4 !== 0; // built into llama.cpp
  if (c.layers.some((l, i) => l.rope !== usual(i))) refuse("This choice of layers without rotary positions");
  const scaling = c.rope_scaling as Readonly<Record<string, unknown>> | undefined;
  if (!scaling) return { entries: [], tensors: [] };
  const number = (key: string) => scaling[key] as number;
  const divisors = (name: string, values: Float32Array): GgufWritableTensor => ({
    name,
    type: "F32",
    shape: [values.length],
    data: () => [values],
  });
  const key = (name: string) => `${arch}.rope.scaling.${name}`;
  const original = [key("original_context_length"), {
    u32: number("original_max_position_embeddings"),
  }] as const;
  switch (scaling["rope_type"]) {
    case "linear":
      return { entries: [[key("type"), "linear"], [key("factor"), { f32: number("factor") }]], tensors: [] };
    case "yarn": {
      const extra = Object.keys(scaling).find((k) => /^(attention_factor|beta_|mscale|truncate)/.test(k));
      if (extra) refuse(`rope_scaling's ${extra}`);
      return {
        entries: [[key("type"), "yarn"], [key("factor"), { f32: number("factor") }], original],
        tensors: [],
      };
    }
    case "llama3":
      return { entries: [], tensors: [divisors("rope_freqs.weight", llama3Divisors(c, number))] };
    case "longrope":
      return {
        entries: [original],
        tensors: ["long", "short"].map((kind) =>
          divisors(`rope_factors_${kind}.weight`, Float32Array.from(scaling[`${kind}_factor`] as number[]))
        ),
      };
    default:
      return refuse(`rope_scaling of type ${JSON.stringify(scaling["rope_type"])}`);
  }
}

/** Llama 3.1's divisors (`llama3` in Transformers' rope utilities): 1 for short waves, `factor` for long ones. */
function llama3Divisors(c: GgufModelFacts, number: (key: string) => number): Float32Array {
  const [factor, low, high] = [number("factor"), number("low_freq_factor"), number("high_freq_factor")];
  const original = number("original_max_position_embeddings");
  return Float32Array.from({ length: c.rotary_dim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * c.rope_theta ** (2 * i / c.rotary_dim);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const s = (original / wavelength - low) / (high - low);
    return 1 / ((1 - s) / factor + s);
  });
}

/** A tensor's values in the file's order, in pieces of whole rows. */
function* storedValues(
  { source }: ModelFiles,
  arch: GgufArchitecture,
  name: string,
  c: GgufModelFacts,
): Generator<Float32Array> {
  const { shape } = source.tensors.get(name)!;
  const columns = shape.length < 2 ? 1 : shape.at(-1)!, rows = elementCount(shape) / columns;
  const restore = restoreOf(arch, name, { query: c.num_attention_heads, keyValue: c.num_key_value_heads });
  if (restore.kind === "unpermute") {
    const headRows = rows / restore.heads;
    for (let head = 0; head < rows; head += headRows) {
      yield permuted(source.readF32(name, head * columns, (head + headRows) * columns), headRows, columns);
    }
    return;
  }
  const step = Math.max(1, Math.floor(CHUNK_BYTES / 4 / columns));
  for (let row = 0; row < rows; row += step) {
    const values = source.readF32(name, row * columns, Math.min(rows, row + step) * columns);
    yield restore.kind === "minusOne" ? values.map((v) => v + 1) : values;
  }
}

/** One head or several, with the rows of each in ggml's order. */
export function permuted(x: Float32Array, headRows: number, columns: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let row = 0; row < x.length / columns; row++) {
    out.set(x.subarray(row * columns, (row + 1) * columns), storedRow(row, headRows) * columns);
  }
  return out;
}
