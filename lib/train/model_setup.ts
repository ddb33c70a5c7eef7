/**
 * The model of a run: base loaded, quantized or not, adapter or all weights made trainable.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { contentHashOf, type ModelFiles, openModelSides } from "../formats/mod.ts";
import { fetchModel } from "../hub/mod.ts";
import { initOf } from "../lora/config.ts";
import { type Adapter, adapterShapes, addAdapter, type LoraConfig } from "../lora/lora.ts";
import { readConfig } from "../model/config.ts";
import { parameterShapes } from "../model/config.ts";
import { openChain, resolveModel } from "../lora/chain.ts";
import { buildModel, type BuildOptions } from "../model/load.ts";
import type { Model } from "../model/model.ts";
import { isEmbedding } from "../model/parameters.ts";
import { randomSource } from "../model/random_source.ts";
import {
  createOptimizer,
  createParameterPages,
  decays,
  type Optimizer,
  type ParameterPages,
} from "../optim/mod.ts";
import { createTokenizer, type Tokenizer } from "../text/mod.ts";
import { givenTemplate } from "./chat_template.ts";
import { generatedBase } from "./generated.ts";
import type { TrainSettings } from "./settings.ts";

/** A model ready to train. */
export interface TrainableModel {
  model: Model;
  /** Undefined when every weight trains. */
  adapter: Adapter | undefined;
  pages: ParameterPages;
  optimizer: Optimizer;
  dispose(): void;
}

/** The files of a run's base model. */
export interface BaseFiles {
  files: ModelFiles;
  tokenizer: Tokenizer;
  /** SHA-256 over config and tensors, which adapters record. */
  hash: string;
  /** What an adapter records as its base. */
  origin: { base: string; revision: string | undefined };
}

/** Options of {@link openBase}. */
export interface OpenBaseOptions {
  base?: string | undefined;
  onNote?: ((note: string) => void) | undefined;
  onProgress?: ((file: string, done: number, total: number) => void) | undefined;
}

/**
 * Finds the base model, in the cache, on the Hub or on a mirror, and its tokenizer. Where the model is an adapter, as
 * when DPO follows SFT, that is the adapter's base with the adapter merged in.
 */
export async function openBase(s: TrainSettings, options: OpenBaseOptions = {}): Promise<BaseFiles> {
  const fetchOptions = {
    revision: s.model_revision,
    ...(options.base ? { base: options.base } : {}),
    ...(options.onNote ? { onNote: options.onNote } : {}),
    ...(options.onProgress
      ? {
        onProgress: (p: { file: string; done: number; total: number }) =>
          options.onProgress!(p.file, p.done, p.total),
      }
      : {}),
  };
  if (!s.model_name_or_path) {
    throw new NibbleError("train/no-model", "The recipe names no model", {
      remedy: "Set model_name_or_path.",
    });
  }
  if (s.nibble_random_weights) return await generatedBase(s, options);
  const baseRevision = s.base_model_revision ?? undefined;
  const { base, revision, ...chain } = s.nibble_model_config
    ? {
      ...{ base: s.model_name_or_path, revision: s.model_revision, adapters: [] },
      path: await fetchModel(s.model_name_or_path, fetchOptions),
    }
    : await resolveModel(s.model_name_or_path, { ...fetchOptions, baseRevision });
  const files = s.nibble_model_config ? freshFiles(chain.path, s) : openChain(chain);
  const last = chain.adapters.at(-1);
  if (last) {
    options.onNote?.(`model       ${base} with ${chain.adapters.map((a) => a.name).join(", ")} merged in`);
  }
  const from = s.tokenizer_name_or_path
    ? openModelSides(await fetchModel(s.tokenizer_name_or_path, fetchOptions))
    : last && hasTokenizer(last.folder)
    ? { ...tokenizerFiles(last.folder), path: last.folder, generationConfig: files.generationConfig }
    : files;
  const tokenizer = createTokenizer(
    {
      tokenizerJson: from.tokenizerJson,
      tokenizerConfig: from.tokenizerConfig,
      generationConfig: from.generationConfig,
      chatTemplate: await givenTemplate(s, fetchOptions) ?? from.chatTemplate,
      path: from.path,
    },
    {
      ...(s.eos_token ? { eos_token: s.eos_token } : {}),
      ...(s.pad_token ? { pad_token: s.pad_token } : {}),
    },
  );
  const config = readConfig(files.config, files.path);
  if (tokenizer.vocabSize > config.vocab_size) {
    throw new NibbleError(
      "model/vocabulary",
      `The tokenizer has ${tokenizer.vocabSize} tokens, the model's embedding ${config.vocab_size} rows`,
      {
        where: files.path,
        remedy: "Use the tokenizer that belongs to the model; the vocabulary is not grown.",
      },
    );
  }
  const hash = s.nibble_model_config ? "fresh" : contentHashOf(files);
  return { files, tokenizer, hash, origin: { base, revision } };
}

function readText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}

/** An adapter's folder carries the tokenizer that it was trained with, as a rule. */
function hasTokenizer(folder: string): boolean {
  return readText(`${folder}/tokenizer.json`) !== undefined;
}

function tokenizerFiles(folder: string) {
  const read = (name: string) => JSON.parse(readText(`${folder}/${name}`) ?? "{}");
  const config = read("tokenizer_config.json");
  return {
    tokenizerJson: read("tokenizer.json"),
    tokenizerConfig: config,
    chatTemplate: readText(`${folder}/chat_template.jinja`) ??
      (typeof config.chat_template === "string" ? config.chat_template : undefined),
  };
}

/** A model that does not exist yet: the tokenizer's folder and the recipe's config. */
function freshFiles(path: string, s: TrainSettings): ModelFiles {
  const read = (name: string) => {
    try {
      return JSON.parse(Deno.readTextFileSync(`${path}/${name}`));
    } catch {
      return undefined;
    }
  };
  const config = s.nibble_model_config!;
  return {
    path,
    config,
    source: randomSource(readConfig(config, "nibble_model_config"), s.seed),
    tokenizerJson: read("tokenizer.json"),
    tokenizerConfig: read("tokenizer_config.json") ?? {},
    generationConfig: {},
    chatTemplate: undefined,
  };
}

/** LoRA settings of a run. Targets default to PEFT's choice for the model's family, such as query and value. */
export function loraConfig(s: TrainSettings, model: Model): LoraConfig {
  const { lora_alpha, lora_dropout, use_rslora, use_dora, exclude_modules, layers_pattern, bias } = s;
  const { init_lora_weights: init } = s;
  const config: LoraConfig = {
    ...{ lora_alpha, lora_dropout, use_rslora, use_dora, exclude_modules, layers_pattern, bias },
    r: s.lora_r,
    target_modules: s.lora_target_modules ?? model.config.family.loraTargets,
    rank_pattern: numbers("rank_pattern", s.rank_pattern),
    alpha_pattern: numbers("alpha_pattern", s.alpha_pattern),
    layers_to_transform: s.layers_to_transform?.map(Number) ?? null,
    modules_to_save: s.lora_modules_to_save,
    init_lora_weights: /^(true|false)$/i.test(init) ? init.toLowerCase() === "true" : init,
  };
  if (initOf(config).kind === "qera" && s.weight_decay > 0) {
    throw new NibbleError("train/decay", "It would shrink the correction that the adapters begin with", {
      where: "weight_decay",
      remedy: `Set weight_decay: 0, or init_lora_weights other than ${init}.`,
    });
  }
  return config;
}

function numbers(key: string, map: Record<string, unknown> | null): Record<string, number> {
  const wrong = Object.entries(map ?? {}).find(([, n]) => typeof n !== "number");
  if (!wrong) return { ...map } as Record<string, number>;
  throw new NibbleError("train/pattern", `${key} gives '${wrong[0]}' ${JSON.stringify(wrong[1])}`, {
    where: key,
    remedy: "It maps names or regular expressions to numbers.",
  });
}

/** Loads the base and makes the run's parameters trainable. */
export async function setUpModel(
  s: TrainSettings,
  files: ModelFiles,
  maxPositions: number,
  extra: Extra = {},
): Promise<TrainableModel> {
  if (s.load_in_4bit && !s.use_peft) {
    throw new NibbleError(
      "train/frozen",
      "load_in_4bit without use_peft: weights in 4 bits cannot be trained",
      {
        remedy: "Set use_peft: true (QLoRA), or load_in_4bit: false.",
      },
    );
  }
  const made: { dispose(): void }[] = []; // given back in reverse when a later stage throws
  const note = <T extends { dispose(): void }>(thing: T): T => (made.push(thing), thing);
  try {
    const { model, adapter, pages } = s.use_peft
      ? await withAdapter(s, files, maxPositions, extra, note)
      : await allTrainable(files, maxPositions, extra, note);
    if (pages.tensors.size === 0) {
      throw new NibbleError("train/nothing-trains", "No parameter would be trained");
    }
    const optimizer = note(createOptimizer(pages, {
      optim: s.optim,
      adam_beta1: s.adam_beta1,
      adam_beta2: s.adam_beta2,
      adam_epsilon: s.adam_epsilon,
      weight_decay: s.weight_decay,
      max_grad_norm: s.max_grad_norm ?? 0,
      optim_args: s.optim_args ?? null,
      paging: { residentBytes: extra.residentBytes ?? 0 },
    }));
    return { model, adapter, pages, optimizer, dispose: () => made.reverse().forEach((m) => m.dispose()) };
  } catch (error) {
    made.reverse().forEach((m) => m.dispose());
    throw error;
  }
}

type Extra = Pick<BuildOptions, "onProgress" | "rehearsal" | "signal"> & {
  /** Bytes of a paged optimizer's state that stay on the device, from the plan. */
  residentBytes?: number;
};
type Note = <T extends { dispose(): void }>(thing: T) => T;
type Trainable = Pick<TrainableModel, "model" | "adapter" | "pages">;

/** LoRA and QLoRA: the base is frozen. */
async function withAdapter(
  s: TrainSettings,
  files: ModelFiles,
  maxPositions: number,
  extra: Extra,
  note: Note,
): Promise<Trainable> {
  const quantization = s.load_in_4bit
    ? {
      quantType: s.bnb_4bit_quant_type,
      blocksize: s.bnb_4bit_blocksize,
      doubleQuant: s.use_bnb_nested_quant,
    }
    : undefined;
  const model = note(
    await buildModel(files.config, files.source, {
      ...{ path: files.path, maxPositions, ...extra, quantization },
      torch_dtype: s.torch_dtype ?? undefined,
    }),
  );
  const config = loraConfig(s, model);
  const pages = note(createParameterPages(adapterShapes(model, config), "adapter"));
  const { rehearsal } = extra;
  const adapter = addAdapter(model, config, pages.tensors, s.seed, { weights: files.source, rehearsal });
  note({ dispose: () => adapter.remove() });
  return { model, pages, adapter };
}

/** Full fine-tuning: the model's weights are the pages. */
async function allTrainable(
  files: ModelFiles,
  maxPositions: number,
  extra: Extra,
  note: Note,
): Promise<Trainable> {
  const shapes = parameterShapes(readConfig(files.config, files.path));
  const pages = note(createParameterPages(
    shapes.map((spec) => ({
      ...spec,
      decay: decays(spec.name),
      optim_bits: isEmbedding(spec) ? 32 : undefined,
    })),
    "base",
  ));
  const model = note(
    await buildModel(files.config, files.source, {
      ...{ path: files.path, maxPositions, ...extra },
      allocate: (name) => pages.tensors.get(name)!,
    }),
  );
  return { model, pages, adapter: undefined };
}
