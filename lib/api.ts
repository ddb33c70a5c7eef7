/**
 * The public functions of `mod.ts` that put several rooms together: a model from a path, an adapter that owns its
 * parameters, text in and text out, training from a recipe or a plain object.
 * @module
 */
import { dirname } from "@std/path";
import {
  contentHashOf,
  makeOutputFolder,
  openModelSides,
  readAdapter,
  type TensorSource,
} from "./formats/mod.ts";
import { type Gpu, type GpuOptions, openGpu } from "./gpu/mod.ts";
import { fetchModel } from "./hub/mod.ts";
import { type ModelChain, openChain, resolveModel } from "./lora/chain.ts";
import { type Adapter, adapterShapes, addAdapter, type LoraConfig } from "./lora/lora.ts";
import { writeModel, type WriteModelOptions } from "./lora/merge.ts";
import * as peft from "./lora/peft.ts";
import { quantizationName } from "./lora/provenance.ts";
import { generate as generateTokens, type GenerateOptions, type Generation } from "./model/generate.ts";
import { buildModel, type QuantizationConfig } from "./model/load.ts";
import type { Model } from "./model/model.ts";
import type { TorchDtype } from "./model/storage.ts";
import { presented } from "./notebook/present.ts";
import {
  presentAdapter,
  presentGpu,
  presentModel,
  presentPlan,
  presentRecipe,
  presentResult,
} from "./notebook/present_run.ts";
import { createParameterPages, type ParameterPages } from "./optim/mod.ts";
import type { QuantType } from "./quant/mod.ts";
import { readRecipe as readRecipeFile, type Recipe, recipeOf } from "./recipe/mod.ts";
import { writeRecipe } from "./recipe/mod.ts";
import type { Tensor } from "./tensor/tensor.ts";
import { createTokenizer, encodeChatPrompt, type Message, type Tokenizer } from "./text/mod.ts";
import { textStream } from "./text/stream.ts";
import { planRecipe, type PlanRecipeOptions, type RecipePlan } from "./train/plan_recipe.ts";
import { train as trainSettings, type TrainOptions, type TrainResult } from "./train/run.ts";
import type { TrainSettings } from "./train/settings.ts";

/**
 * Opens the adapter's device, which everything computes on. Calling it again returns the open one, unless options are
 * given.
 *
 * Functions that need a device open it themselves, except `tensor` and what works on tensors alone.
 *
 * @returns the device: its name, features and limits, and `close()`
 * @throws NibbleError `gpu/no-adapter` where WebGPU finds no adapter
 * @example
 * ```ts
 * import { device } from "./api.ts";
 * const gpu = await device();
 * if (gpu !== await device()) throw new Error("there is one device");
 * ```
 */
export async function device(options?: GpuOptions): Promise<Gpu> {
  return presented(await openGpu(options), presentGpu);
}

/** Options of {@link loadModel}. */
export interface LoadModelOptions {
  /** Code book, or all settings, of the linear layers' 4 bits; absent: 32-bit floats. Default of the settings: NF4, blocks of 64, double quantization. */
  quantization?: QuantType | Partial<QuantizationConfig> | undefined;
  /** How matrices that are not quantized are held, embeddings too; default float32. */
  torch_dtype?: TorchDtype | undefined;
  /** Longest sequence, prompt and answer together; default the model's own maximum, at most 8,192. */
  maxPositions?: number;
  /** Branch, tag or commit on the Hub; default `main`. */
  revision?: string;
  /** Parameters loaded so far, and all. */
  onProgress?: (done: number, total: number) => void;
}

/**
 * Puts a causal language model on the device, quantized tensor by tensor on the way if asked for.
 *
 * @param path a folder in Hugging Face layout, a `.gguf` file, or a Hub id such as `org/name`; an adapter's folder or
 *   id gives its base with the adapter merged in. A checkpoint that bitsandbytes, or `deno task quantize`, put into 4
 *   bits is taken as it is, whatever `quantization` says
 * @returns the model, in device memory until its `dispose()`; it shows itself in a notebook
 * @throws NibbleError for a model that cannot be found, read, or is of another architecture; each names the file
 * @example
 * ```ts
 * import { loadModel } from "./api.ts";
 * const model = await loadModel("assets/models/tiny", { quantization: "nf4" });
 * if (model.summary.quantizedLayers !== 35) throw new Error("5 blocks of 7 linear layers");
 * model.dispose();
 * ```
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<Model> {
  await openGpu();
  const { quantization, torch_dtype, maxPositions, revision, onProgress } = options;
  const chain = await resolveModel(path, revision ? { revision } : {});
  const files = openChain(chain);
  const given = typeof quantization === "string" ? { quantType: quantization } : quantization;
  const config = given && { quantType: "nf4" as const, blocksize: 64, doubleQuant: true, ...given };
  try {
    const model = await buildModel(files.config, files.source, {
      ...{ path: files.path, quantization: config, torch_dtype },
      ...(maxPositions ? { maxPositions } : {}),
      ...(onProgress ? { onProgress } : {}),
    });
    origins.set(model, { chain, quantization: config });
    return presented(model, presentModel);
  } finally {
    files.source.close();
  }
}

/** Where a model came from, which adapters record and are checked against. */
interface Origin {
  chain: ModelChain;
  quantization: QuantizationConfig | undefined;
}

const origins = new WeakMap<Model, Origin>();

/**
 * The tokenizer of a model, with its chat template.
 *
 * @param path as for {@link loadModel}, or the output folder of a run
 * @throws NibbleError for files that cannot be found or read; `text/no-tokenizer`, `text/bad-tokenizer`
 * @example
 * ```ts
 * import { loadTokenizer } from "./api.ts";
 * const tokenizer = await loadTokenizer("assets/models/tiny");
 * const ids = tokenizer.encode("What light?");
 * if (tokenizer.decode(ids) !== "What light?") throw new Error("there and back");
 * ```
 */
export async function loadTokenizer(path: string, options: { revision?: string } = {}): Promise<Tokenizer> {
  const folder = await fetchModel(path, options);
  const read = (name: string) => {
    try {
      return JSON.parse(Deno.readTextFileSync(`${folder}/${name}`));
    } catch {
      return undefined;
    }
  };
  // an adapter's folder has a tokenizer and no config.json
  const tokenizerJson = read("tokenizer.json");
  if (tokenizerJson && !read("config.json")) {
    return createTokenizer({
      tokenizerJson,
      tokenizerConfig: read("tokenizer_config.json") ?? {},
      path: folder,
    });
  }
  return createTokenizer(openModelSides(folder));
}

/** An adapter with the parameters that it owns. */
export interface LoraAdapter extends Adapter {
  /** The model it is on. */
  readonly model: Model;
  /** Trainable parameters and their gradients, for an optimizer; undefined when loaded to be used only. */
  readonly pages: ParameterPages | undefined;
  /** Trainable numbers. */
  readonly parameterCount: number;
  /** Takes the adapter off the model and gives its memory back. */
  dispose(): void;
}

/** Settings of {@link addLora}, under PEFT's names; what is not given has PEFT's default. */
export interface LoraOptions extends Partial<LoraConfig> {
  /** Of the random A matrices; default 42. */
  seed?: number;
}

/**
 * Puts a fresh trainable adapter on a model: A `[r, in]` random, B `[out, r]` zero, so the model still answers as
 * before. The layer then computes `W x + s B A x` (Hu et al. 2021, arXiv 2106.09685, section 4.1) with
 * `s = lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`.
 *
 * @param options defaults: `r` and `lora_alpha` 8, no dropout, the family's usual `target_modules`
 * @throws NibbleError `lora/no-target` when `target_modules` matches nothing, `lora/pattern`, `lora/init`
 * @example
 * ```ts
 * import { addLora, loadModel } from "./api.ts";
 * const model = await loadModel("assets/models/tiny", { quantization: "nf4" });
 * const adapter = addLora(model, { r: 4, target_modules: ["q_proj", "v_proj"] });
 * if (adapter.layers.size !== 10) throw new Error("two in each of five blocks");
 * adapter.dispose();
 * model.dispose();
 * ```
 */
export function addLora(model: Model, options: LoraOptions = {}): LoraAdapter {
  const { seed = 42, ...given } = options;
  const config: LoraConfig = {
    ...{ r: 8, lora_alpha: 8, lora_dropout: 0, use_rslora: false },
    target_modules: model.config.family.loraTargets,
    ...given,
  };
  const pages = createParameterPages(adapterShapes(model, config), "adapter");
  try {
    const adapter = withWeights(
      model,
      (weights) => addAdapter(model, config, pages.tensors, seed, { weights }),
    );
    return owned(model, adapter, pages);
  } catch (error) {
    pages.dispose();
    throw error;
  }
}

/** Runs `work` with the model's files open, where they are known, for initialisations that decompose them. */
function withWeights<T>(model: Model, work: (weights: TensorSource | undefined) => T): T {
  const origin = origins.get(model);
  if (!origin) return work(undefined);
  const { source } = openChain(origin.chain);
  try {
    return work(source);
  } finally {
    source.close();
  }
}

/** `adapter` itself becomes the owner: its `enabled` switch is what the layers look at. */
function owned(model: Model, adapter: Adapter, pages: ParameterPages | undefined): LoraAdapter {
  const tensors = [
    ...[...adapter.layers.values()].flatMap(({ a, b, dora }) => dora ? [a, b, dora.magnitude] : [a, b]),
    ...[...adapter.whole.values()].map(({ trained }) => trained),
  ];
  return Object.assign(presented(adapter, presentAdapter), {
    model,
    pages,
    parameterCount: tensors.reduce((n, t) => n + t.size, 0),
    dispose() {
      adapter.remove();
      pages?.dispose();
    },
  });
}

/** Options of {@link saveAdapter}. */
export interface SaveOptions {
  /** Written beside the weights, so that the folder is complete. */
  tokenizer?: Tokenizer;
  /** `base_model_name_or_path` in adapter_config.json; default the path that the model was loaded from. */
  base?: string;
}

/**
 * Writes an adapter as PEFT's folder: adapter_model.safetensors and adapter_config.json.
 *
 * @param folder created where it is not there; its files of those names are replaced
 * @throws NibbleError `formats/cannot-write`
 */
export async function saveAdapter(
  adapter: LoraAdapter,
  folder: string,
  options: SaveOptions = {},
): Promise<void> {
  const { model } = adapter;
  const origin = origins.get(model);
  makeOutputFolder(folder);
  await peft.saveAdapter(adapter, folder, {
    base: options.base ?? origin?.chain.base ?? model.path,
    revision: origin?.chain.revision,
    ...(origin ? { provenance: provenanceOf(origin), openBase: () => openChain(origin.chain) } : {}),
  });
  options.tokenizer?.save(folder);
}

function hashOf(chain: ModelChain): string {
  const files = openChain(chain);
  try {
    return contentHashOf(files);
  } finally {
    files.source.close();
  }
}

function provenanceOf({ chain, quantization }: Origin): { base_hash: string; base_quantization?: string } {
  const base_hash = hashOf(chain);
  return quantization ? { base_hash, base_quantization: quantizationName(quantization) } : { base_hash };
}

/**
 * Puts an adapter from PEFT's folder on a model.
 *
 * @param folder a local folder: nibble's output, or a download
 * @param options `is_trainable`: with gradients, to train on; default false, as in PEFT
 * @throws NibbleError `formats/missing-file` where it is no adapter's folder, `lora/base-mismatch` when it was trained
 *   on another base (by the content hash it records, else by `revision`), `lora/shape`, `lora/unsupported`
 * @example
 * ```ts
 * import { addLora, loadAdapter, loadModel, saveAdapter } from "./api.ts";
 * const model = await loadModel("assets/models/tiny"), folder = await Deno.makeTempDir();
 * const fresh = addLora(model, { r: 4 });
 * await saveAdapter(fresh, folder);
 * fresh.dispose();
 * const again = loadAdapter(model, folder);
 * if (again.config.r !== 4) throw new Error("the rank is in the folder");
 * again.enabled = false; // the base alone
 * again.dispose();
 * model.dispose();
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function loadAdapter(
  model: Model,
  folder: string,
  options: { is_trainable?: boolean } = {},
): LoraAdapter {
  const saved = readAdapter(folder).config;
  const origin = origins.get(model);
  const base = origin && {
    ...{ name: origin.chain.base, revision: origin.chain.revision },
    hash: saved.nibble?.base_hash ? hashOf(origin.chain) : undefined,
  };
  const load = (parameters?: ReadonlyMap<string, Tensor>) =>
    withWeights(
      model,
      (weights) => peft.loadAdapter(model, folder, { base, weights, ...(parameters ? { parameters } : {}) }),
    );
  if (!options.is_trainable) return owned(model, load(), undefined);
  const pages = createParameterPages(adapterShapes(model, peft.savedConfig(model, saved)), "adapter");
  try {
    return owned(model, load(pages.tensors), pages);
  } catch (error) {
    pages.dispose();
    throw error;
  }
}

/**
 * Writes the model with the adapter merged in as a plain Hugging Face folder that needs no adapter: each adapted
 * weight becomes `W + s B A`, where W is `dequantize(W)` if the base is in 4 bits.
 *
 * @param adapter undefined writes the base alone
 * @param options `dtype` of what is written, default bfloat16; `tokenizer` is written beside the weights
 * @throws NibbleError `formats/cannot-write`
 */
export async function mergeAdapter(
  model: Model,
  adapter: Adapter | undefined,
  folder: string,
  options: WriteModelOptions & { tokenizer?: Tokenizer } = {},
): Promise<void> {
  const { tokenizer, ...how } = options;
  await writeModel(model, adapter, folder, how);
  tokenizer?.save(folder);
}

/** Options of {@link generate}; sampling as in Transformers, greedy unless `temperature` is given. */
export interface GenerateTextOptions extends GenerateOptions {
  /** Called with each piece of text as it is written, whole characters only. */
  onText?: (piece: string) => void;
}

/** What {@link generate} returns. */
export interface GeneratedText extends Generation {
  /** The new text, without prompt and stop token. */
  text: string;
  /** Tokens of the prompt, the chat template's included. */
  promptTokens: number;
}

/**
 * Continues a text, or answers a conversation through the model's chat template.
 *
 * @param prompt text to continue, or messages that end with the user's
 * @returns the new text and its tokens, why it ended, and the seconds for prompt and text
 * @throws NibbleError `model/too-long` when the prompt exceeds the positions that the model was loaded for,
 *   `model/empty-prompt`
 * @example
 * ```ts
 * import { generate, loadModel, loadTokenizer } from "./api.ts";
 * const [model, tokenizer] = [await loadModel("assets/models/tiny"), await loadTokenizer("assets/models/tiny")];
 * const { ids, text } = await generate(model, tokenizer, "ROMEO:\nBut soft,", { max_new_tokens: 4 });
 * if (ids.length > 4 || text === "") throw new Error("up to four tokens, as text");
 * model.dispose();
 * ```
 */
export async function generate(
  model: Model,
  tokenizer: Tokenizer,
  prompt: string | Message[],
  options: GenerateTextOptions = {},
): Promise<GeneratedText> {
  const { onText, ...rest } = options;
  const ids = typeof prompt === "string" ? tokenizer.encode(prompt) : encodeChatPrompt(tokenizer, prompt);
  const stream = textStream(tokenizer);
  let text = "";
  const put = (piece: string) => {
    text += piece;
    if (piece) onText?.(piece);
  };
  const result = await generateTokens(model, ids, {
    eos_token_id: tokenizer.eosIds,
    ...rest,
    onToken(id) {
      rest.onToken?.(id);
      put(stream.push(id));
    },
  });
  put(stream.end());
  return { ...result, text, promptTokens: ids.length };
}

/**
 * Reads a recipe file; what it does not give has its default.
 *
 * @param overrides words of a command line, such as `--max_steps=10`, which win over the file
 * @returns settings, where each comes from, and notes for the user
 * @throws NibbleError naming file and line: a missing file, an unknown key with its nearest name, a wrong value
 * @example
 * ```ts
 * import { readRecipe } from "./api.ts";
 * const { settings } = readRecipe("recipes/quickstart/config.yaml", ["--max_steps=10"]);
 * if (settings.max_steps !== 10 || !settings.load_in_4bit) throw new Error("the words win, the rest is the file's");
 * ```
 */
export function readRecipe(path: string, overrides: readonly string[] = []): Recipe {
  return presented(readRecipeFile(path, overrides), presentRecipe);
}

/** A recipe as it was read, or an object with a recipe's keys; what is not given has its default. */
export type RecipeLike =
  | Recipe
  | ({ [K in keyof TrainSettings]?: Words<TrainSettings[K]> } & Record<string, unknown>);

/** A choice among words as any text: what an object literal kept in a variable has; the recipe's check names wrong ones. */
type Words<T> = T extends string ? string : T;

/** Settings, recipe text and folder of whatever names a run. */
function settled(
  recipe: RecipeLike,
): { settings: TrainSettings; recipeText: string; base: string | undefined } {
  const read = "provenance" in recipe && recipe.provenance instanceof Map
    ? recipe as Recipe
    : recipeOf(recipe as Record<string, unknown>);
  return {
    settings: read.settings,
    recipeText: writeRecipe(read.settings),
    base: read.file && dirname(read.file),
  };
}

/**
 * Trains by a recipe: full fine-tuning, LoRA or QLoRA, to a folder with the adapter or model, its card and its logs.
 *
 * @param recipe from `readRecipe`, or an object with a recipe's keys
 * @param options `signal` ends the run after the step in progress, and saves; the same call then goes on from there
 * @returns folder, steps, logs, the evaluations before and after, samples, seconds and bytes
 * @throws NibbleError for anything in settings, files, data or device that stands in the way
 * @example
 * ```ts ignore
 * import { readRecipe, train } from "./api.ts";
 * const { after, output_dir } = await train(readRecipe("recipes/quickstart/config.yaml", ["--max_steps=10"]));
 * console.log(after?.eval_loss, output_dir);
 * ```
 */
export async function train(recipe: RecipeLike, options: TrainOptions = {}): Promise<TrainResult> {
  const { settings, recipeText, base } = settled(recipe);
  return presented(await trainSettings(settings, { recipeText, base, ...options }), presentResult);
}

/**
 * The device memory that a run will take, by kind and in bytes, without loading a weight.
 *
 * @throws NibbleError as {@link train} for files and data; `gpu/budget` when the run cannot fit
 * @example
 * ```ts
 * import { planMemory, readRecipe } from "./api.ts";
 * const plan = await planMemory(readRecipe("recipes/quickstart/config.yaml"));
 * if (plan.memory.atPeak.base > 2e6) throw new Error("1.2 million weights, most of them in 4 bits");
 * ```
 */
export async function planMemory(recipe: RecipeLike, options: PlanRecipeOptions = {}): Promise<RecipePlan> {
  const { settings, base } = settled(recipe);
  return presented(await planRecipe(settings, { base, ...options }), presentPlan);
}
