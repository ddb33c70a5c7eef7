/**
 * From an adapter's folder to a model that needs none: what `deno task merge` does.
 * @module
 */
import { basename, dirname, join } from "@std/path";
import { loadAdapter, loadModel, loadTokenizer } from "./api.ts";
import { NibbleError } from "./errors.ts";
import {
  type AdapterConfig,
  isFile,
  makeOutputFolder,
  type ModelFiles,
  openModel,
  openModelSides,
  readAdapter,
  refuseOverwriting,
  writeGgufAdapter,
  writeGgufModel,
  writeText,
} from "./formats/mod.ts";
import { baseOfAdapter } from "./lora/chain.ts";
import { type Drift, drift, driftLine, type Probe, probe, PROBE_TEXT } from "./lora/drift.ts";
import { mergeInto4bit, writeModel, type WriteModelOptions } from "./lora/merge.ts";
import { writeQuantizedModel } from "./lora/merge_4bit.ts";
import { savedConfig } from "./lora/peft.ts";
import { mergedRecord, parseQuantization } from "./lora/provenance.ts";
import { rankAndScale } from "./lora/targets.ts";
import { readConfig } from "./model/config.ts";
import { buildModel } from "./model/load.ts";
import type { Model } from "./model/model.ts";
import { createTokenizer, type Tokenizer } from "./text/mod.ts";

/** Options of {@link mergeFolder}. */
export interface MergeFolderOptions {
  /** Folder of the adapter. */
  adapter: string;
  /** Where the merged model goes; without it only `ggufAdapter` is written. */
  output?: string | undefined;
  /** The base; default the one that the adapter names. */
  model?: string | undefined;
  /** Stored type; default F16 where the base is stored so, else BF16. */
  dtype?: NonNullable<WriteModelOptions["dtype"]> | undefined;
  maxShardBytes?: number | undefined;
  /** Whether the base is taken in 4 bits; default as in training. */
  load_in_4bit?: boolean | undefined;
  /** Quantizes the merged weights again, for bitsandbytes, in place of 16 bits. */
  requantize?: "nf4" | "fp4" | undefined;
  /** GGUF files to write beside the merged model. */
  gguf?: readonly ("F16" | "Q8_0")[] | undefined;
  /** File for the adapter itself as GGUF. */
  ggufAdapter?: string | undefined;
  /** Text on which drift is measured; false measures nothing. */
  check?: string | false | undefined;
  onNote?: (note: string) => void;
  onProgress?: (done: number, total: number) => void;
}

/** What {@link mergeFolder} wrote, and how far each is from the adapter on its base. */
export interface MergeFolderResult {
  /** Paths, weights first. */
  files: string[];
  drift: Drift | undefined;
  gguf: { path: string; drift: Drift | undefined }[];
}

/**
 * Merges an adapter into its base, dequantized if it was trained in 4 bits, and writes the result as a Hugging Face
 * folder, on request also as GGUF. What was written is loaded again and compared with the adapter on its base.
 *
 * @throws NibbleError `merge/arguments`, `lora/base-mismatch`, `merge/gguf-tokens`, and what reading and writing throw
 */
export async function mergeFolder(options: MergeFolderOptions): Promise<MergeFolderResult> {
  const { adapter: folder, output, requantize, gguf = [], check = PROBE_TEXT } = options;
  const note = options.onNote ?? (() => {});
  if (!output && !options.ggufAdapter) {
    throw new NibbleError("merge/arguments", "There is nothing to write", {
      remedy: "Say where the merged model goes with --output.",
    });
  }
  if (requantize && (gguf.length > 0 || options.dtype)) {
    throw new NibbleError(
      "merge/arguments",
      "--requantize writes 4 bits, for which --gguf and --dtype mean nothing",
      {
        remedy: "Merge once without --requantize for GGUF.",
      },
    );
  }
  if (output) refuseOverwriting(output, [folder, ...(options.model ? [options.model] : [])]);
  const saved = readAdapter(folder).config;
  const base = options.model ? { name: options.model } : await baseOfAdapter(saved);
  if (!base) {
    throw new NibbleError("merge/arguments", "The adapter names no base model", {
      where: `${folder}/adapter_config.json`,
      remedy: "Say where it is with --model.",
    });
  }
  const result: MergeFolderResult = { files: [], drift: undefined, gguf: [] };
  const model = await loadBase(base, saved, options);
  try {
    if (output) refuseOverwriting(output, [model.path]);
    if (options.ggufAdapter) {
      ggufAdapter(folder, model, options.ggufAdapter);
      note(`${options.ggufAdapter}: the adapter as GGUF`);
      result.files.push(options.ggufAdapter);
    }
    if (!output) return result;
    const adapter = loadAdapter(model, folder);
    const tokenizer = isFile(join(folder, "tokenizer.json"))
      ? await loadTokenizer(folder)
      : await loadTokenizer(base.name, base);
    const ids = check === false ? undefined : tokenizer.encode(check);
    const before = ids && await probe(model, ids);
    makeOutputFolder(output);
    const how = {
      merged: mergedRecord(folder),
      ...(options.maxShardBytes ? { maxShardBytes: options.maxShardBytes } : {}),
    };
    if (requantize) {
      mergeInto4bit(model, adapter, { quantType: requantize, doubleQuant: true, dtype: "bfloat16" });
      result.files = (await writeQuantizedModel(model, adapter, output, how)).map((f) => join(output, f));
    } else {
      const dtype = options.dtype ?? storedDtype(model.path);
      const { onProgress } = options;
      const files = await writeModel(model, adapter, output, {
        ...{ ...how, dtype },
        ...(onProgress ? { onProgress } : {}),
      });
      result.files = files.map((f) => join(output, f));
    }
    tokenizer.save(output);
    writeGeneration(output, model.path, tokenizer);
    adapter.dispose();
    model.dispose(); // the merged one may need its room
    if (before) result.drift = drift(before, await probeOf(output, "auto", ids!));
    if (result.drift) note(`${output}: ${driftLine(result.drift)}`);
    for (const type of gguf) result.gguf.push(await writeGguf(output, type, tokenizer, before, ids, options));
    return result;
  } finally {
    model.dispose();
  }
}

/** The base as it was trained on, unless told otherwise. */
async function loadBase(
  { name, revision }: { name: string; revision?: string },
  saved: AdapterConfig,
  options: MergeFolderOptions,
): Promise<Model> {
  const trained = parseQuantization(saved.nibble?.base_quantization);
  const quantization = options.load_in_4bit ?? trained !== undefined
    ? trained ?? { quantType: "nf4" as const, blocksize: 64, doubleQuant: true }
    : undefined;
  try {
    return await loadModel(name, {
      quantization,
      torch_dtype: "auto", // what is not quantized stays as the file has it
      ...(revision ? { revision } : {}),
      ...(options.onProgress ? { onProgress: options.onProgress } : {}),
    });
  } catch (error) {
    if (options.model || !(error instanceof NibbleError) || error.code !== "hub/not-found") throw error;
    throw new NibbleError("merge/base", `The base model that the adapter names is not here: ${name}`, {
      remedy: "Say where it is with --model.",
      cause: error,
    });
  }
}

function ggufAdapter(folder: string, model: Model, path: string): void {
  const adapter = readAdapter(folder);
  const config = savedConfig(model, adapter.config);
  Deno.mkdirSync(dirname(path), { recursive: true });
  writeGgufAdapter(adapter, model.config, path, {
    scalingOf: (module) => rankAndScale(config, module).scaling,
  });
}

/** F16 where the base's matrices are stored so; BF16 has the range of what else there is. */
export function storedDtype(path: string): "F16" | "BF16" {
  const { source } = openModel(path);
  source.close();
  const matrices = [...source.tensors.values()].filter((t) => t.shape.length > 1);
  return matrices.every((t) => t.dtype === "F16") ? "F16" : "BF16";
}

/** generation_config.json: the base's, with the tokenizer's stop tokens. */
export function writeGeneration(output: string, base: string, tokenizer: Tokenizer): void {
  const { generationConfig } = openModelSides(base);
  const eos = tokenizer.eosIds.length === 1 ? tokenizer.eosIds[0] : tokenizer.eosIds;
  const text = JSON.stringify({ ...generationConfig, eos_token_id: eos }, null, 2) + "\n";
  writeText(join(output, "generation_config.json"), text);
}

async function probeOf(
  path: string,
  torch_dtype: "auto" | "float16",
  ids: readonly number[],
): Promise<Probe> {
  const files = openModel(path);
  let model: Model | undefined;
  try {
    model = await buildModel(files.config, files.source, { torch_dtype });
    return await probe(model, ids);
  } finally {
    model?.dispose();
    files.source.close();
  }
}

/** A GGUF of the merged folder, read back: the same token ids, and logits to compare. */
async function writeGguf(
  output: string,
  type: "F16" | "Q8_0",
  tokenizer: Tokenizer,
  before: Probe | undefined,
  ids: readonly number[] | undefined,
  options: MergeFolderOptions,
): Promise<MergeFolderResult["gguf"][number]> {
  const name = basename(output);
  const path = join(output, `${name}-${type}.gguf`);
  const files = openModel(output);
  try {
    writeGgufModel(files, readConfig(files.config, output), path, {
      ...{ type, name, stopIds: tokenizer.eosIds },
      ...(options.onProgress ? { onProgress: options.onProgress } : {}),
    });
  } finally {
    files.source.close();
  }
  if (options.check !== false) checkTokens(path, tokenizer);
  writeModelfile(output, basename(path), tokenizer);
  const measured = before && drift(before, await probeOf(path, "float16", ids!));
  options.onNote?.(`${path}: ${measured ? driftLine(measured) : "written"}`);
  return { path, drift: measured };
}

/** What Ollama makes a model from: the GGUF, whose template it reads itself, and the tokens that stop an answer. */
function writeModelfile(output: string, gguf: string, tokenizer: Tokenizer): void {
  const stops = tokenizer.eosIds.map((id) =>
    JSON.stringify(tokenizer.decode([id], { skipSpecialTokens: false }))
  );
  const text = [`FROM ./${gguf}`, ...stops.map((stop) => `PARAMETER stop ${stop}`), ""].join("\n");
  writeText(join(output, "Modelfile"), text);
}

/** Texts that tell tokenizers apart: spaces, digits, accents, other scripts, line ends, punctuation. */
const TRICKY = [
  PROBE_TEXT,
  "a  b   c\n\n\td",
  "It's 1234567 o'clock, isn't it?",
  "naïve Ünïcode – “quotes” 日本語 🍋",
];

/** @throws NibbleError `merge/gguf-tokens` where the file's vocabulary gives other ids than the tokenizer */
function checkTokens(path: string, tokenizer: Tokenizer): void {
  const files: ModelFiles = openModel(path);
  try {
    const back = createTokenizer(files);
    const differs = TRICKY.find((text) => `${back.encode(text)}` !== `${tokenizer.encode(text)}`);
    if (differs === undefined) return;
    Deno.removeSync(path);
    throw new NibbleError(
      "merge/gguf-tokens",
      "The GGUF's tokenizer would give other tokens than the model's",
      {
        where: `${path}, for ${JSON.stringify(differs.slice(0, 60))}`,
        remedy: "Convert the merged folder with llama.cpp's own converter; the GGUF was removed.",
      },
    );
  } finally {
    files.source.close();
  }
}
