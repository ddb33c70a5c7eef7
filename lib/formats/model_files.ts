/**
 * A model on disk: a Hugging Face folder or a GGUF file, seen alike.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { quantizedSource } from "./bnb_source.ts";
import { readJsonIfThere, readObjectIfThere, readTextIfThere } from "./file.ts";
import { openGguf } from "./gguf.ts";
import { ggufGenerationConfig, ggufTokenizerConfig, ggufTokenizerJson } from "./gguf_tokenizer.ts";
import { openSafetensors, openShardedSafetensors } from "./safetensors.ts";
import type { TensorSource } from "./source.ts";

/** Everything that nibble reads of a model. */
export interface ModelFiles {
  /** The folder or file. */
  path: string;
  /** `config.json`, as Hugging Face writes it. */
  config: Record<string, unknown>;
  /** Weights; close it when done. */
  source: TensorSource;
  /** `tokenizer.json`, or `undefined` when there is none. Built on first use for a GGUF file. */
  readonly tokenizerJson: unknown | undefined;
  /** `tokenizer_config.json`, `{}` when there is none. */
  tokenizerConfig: Record<string, unknown>;
  /** `generation_config.json`, `{}` when there is none. */
  generationConfig: Record<string, unknown>;
  /** The Jinja chat template, from whichever place holds one. */
  chatTemplate: string | undefined;
}

/**
 * Open a local model.
 * @param path a Hugging Face folder (`config.json` with `model.safetensors` or its shards) or a `.gguf` file
 * @throws NibbleError naming the missing or malformed file, and what to do
 *
 * @example
 * ```ts ignore
 * const { config, source, chatTemplate } = openModel("models/SmolLM2-135M-Instruct");
 * ```
 */
export function openModel(path: string): ModelFiles {
  let stat: Deno.FileInfo;
  try {
    stat = Deno.statSync(path);
  } catch (cause) {
    throw new NibbleError("formats/missing-model", `There is no model at ${path}`, {
      where: path,
      remedy: "Give a Hugging Face folder or a .gguf file; a model on the Hub must be fetched first.",
      cause,
    });
  }
  if (stat.isDirectory) return openFolder(path);
  if (/\.gguf$/i.test(path)) return openGgufModel(path);
  throw new NibbleError("formats/missing-model", `${path} is neither a folder nor a .gguf file`, {
    where: path,
    remedy: "Give the folder that holds config.json and the weights, or a .gguf file.",
  });
}

/** {@link openModel} for those who want config, tokenizer and template: the weights are closed again. */
export function openModelSides(path: string): Omit<ModelFiles, "source"> {
  const files = openModel(path);
  files.source.close();
  return files;
}

function openGgufModel(path: string): ModelFiles {
  const source = openGguf(path);
  try {
    const tokenizerConfig = ggufTokenizerConfig(source.meta);
    let built: { json: unknown } | undefined;
    return {
      path,
      config: source.config,
      source,
      // Tens of thousands of entries: made only for those who ask, and only then can it fail.
      get tokenizerJson() {
        return (built ??= { json: ggufTokenizerJson(source.meta) }).json;
      },
      tokenizerConfig,
      generationConfig: ggufGenerationConfig(source.meta),
      chatTemplate: templateOf(tokenizerConfig["chat_template"]),
    };
  } catch (e) {
    source.close();
    throw e;
  }
}

function openFolder(folder: string): ModelFiles {
  const config = readObjectIfThere(join(folder, "config.json"));
  if (!config) {
    throw new NibbleError("formats/missing-file", "There is no config.json", {
      where: folder,
      remedy: noConfigRemedy(folder),
    });
  }
  const tokenizerConfig = readObjectIfThere(join(folder, "tokenizer_config.json")) ?? {};
  return {
    path: folder,
    config,
    tokenizerJson: readJsonIfThere(join(folder, "tokenizer.json")),
    tokenizerConfig,
    generationConfig: readObjectIfThere(join(folder, "generation_config.json")) ?? {},
    // As in transformers, the file of its own wins over what the tokenizer's config says.
    chatTemplate: readTextIfThere(join(folder, "chat_template.jinja")) ??
      templateOf(readObjectIfThere(join(folder, "chat_template.json"))?.["chat_template"]) ??
      templateOf(tokenizerConfig["chat_template"]),
    source: openQuantized(folder), // last: it holds open files
  };
}

/** A template given as text, or as a list of named ones, of which `default` is the one for chat. */
function templateOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.find((entry) => entry?.name === "default");
  return typeof named?.template === "string" ? named.template : undefined;
}

function openQuantized(folder: string): TensorSource {
  const source = openWeights(folder);
  try {
    return quantizedSource(source);
  } catch (error) {
    source.close();
    throw error;
  }
}

function openWeights(folder: string): TensorSource {
  const files = new Set([...Deno.readDirSync(folder)].map((entry) => entry.name));
  if (files.has("model.safetensors")) return openSafetensors(join(folder, "model.safetensors"));
  const index = "model.safetensors.index.json";
  if (files.has(index)) return openShardedSafetensors(join(folder, index));
  const shard = [...files].find((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name));
  const pickle = [...files].find((name) => /^pytorch_model.*\.bin$/.test(name));
  const gguf = [...files].find((name) => /\.gguf$/i.test(name));
  let remedy = "The model is incomplete: fetch it again.";
  if (shard) remedy = `${index}, which says what ${shard} and the other shards hold, is missing: fetch it.`;
  else if (pickle) remedy = `${pickle} is a pickle, which runs code when read: convert it to safetensors.`;
  else if (gguf) remedy = `Give the path of the GGUF file: ${join(folder, gguf)}.`;
  throw new NibbleError("formats/missing-file", "There are no weights (model.safetensors)", {
    where: folder,
    remedy,
  });
}

function noConfigRemedy(folder: string): string {
  const files = [...Deno.readDirSync(folder)].map((entry) => entry.name);
  if (files.includes("adapter_config.json")) {
    return "This is the folder of an adapter: give the base model here, and the adapter where one is asked for.";
  }
  const gguf = files.find((name) => /\.gguf$/i.test(name));
  if (gguf) return `Give the path of the GGUF file: ${join(folder, gguf)}.`;
  return "Give the folder of a Hugging Face model, the one with config.json.";
}
