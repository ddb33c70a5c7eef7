/**
 * nibble: QLoRA in Deno on WebGPU. Load a language model in 4 bits, train a small adapter on your data, use it.
 *
 * The lower half of the exports is what a training loop of one's own is made of: tensors, `differentiate`, an
 * optimizer. Whole runs are one call, {@link train}.
 *
 * @example Four bits and back
 * ```ts
 * import { dequantize, device, quantize, tensor } from "./mod.ts";
 *
 * await device(); // the GPU, or a software adapter
 * const weight = tensor(Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i)), [64, 64]);
 * const nf4 = quantize(weight); // NF4 in blocks of 64, scales quantized too
 * const again = await dequantize(nf4).data();
 * const error = Math.max(...again.map((v, i) => Math.abs(v - Math.sin(i))));
 * if (nf4.bytes * 8 / 4096 > 4.2 || error > 0.16) throw new Error("half the widest gap of NF4 is 0.152");
 * ```
 *
 * @example QLoRA from an object with a recipe's keys
 * ```ts ignore
 * import { train } from "./mod.ts";
 *
 * await train({
 *   model_name_or_path: "HuggingFaceTB/SmolLM2-135M-Instruct",
 *   dataset_name: "assets/data/devils_dictionary",
 *   load_in_4bit: true,
 *   use_peft: true,
 *   output_dir: "data/devil",
 * });
 * ```
 * @module
 */
export { NibbleError, type NibbleErrorOptions } from "./lib/errors.ts";

// a whole run
export { planMemory, readRecipe, type RecipeLike, train } from "./lib/api.ts";
export type { Recipe } from "./lib/recipe/mod.ts";
export type { Sample } from "./lib/train/output.ts";
export type { TrainOptions, TrainResult } from "./lib/train/run.ts";
export type { EvalLog } from "./lib/train/evaluate.ts";
export type { TrainLog } from "./lib/train/loop.ts";
export type { PlanRecipeOptions, RecipePlan } from "./lib/train/plan_recipe.ts";
export type { TrainSettings } from "./lib/train/settings.ts";

// models, adapters, text
export {
  addLora,
  device,
  generate,
  type GeneratedText,
  type GenerateTextOptions,
  loadAdapter,
  loadModel,
  type LoadModelOptions,
  loadTokenizer,
  type LoraAdapter,
  type LoraOptions,
  mergeAdapter,
  saveAdapter,
  type SaveOptions,
} from "./lib/api.ts";
export type { Adapter, LoraConfig, LoraLayer } from "./lib/lora/lora.ts";
export type { WriteModelOptions } from "./lib/lora/merge.ts";
export type { GenerateOptions, Generation } from "./lib/model/generate.ts";
export type { QuantizationConfig } from "./lib/model/load.ts";
export type { Model } from "./lib/model/model.ts";
export type { SamplingOptions } from "./lib/model/sample.ts";
export {
  encodeChat,
  type EncodedExample,
  inspectExample,
  type Message,
  type Tokenizer,
} from "./lib/text/mod.ts";

// device, tensors, 4 bits
export {
  defineKernel,
  type Gpu,
  type GpuFeatures,
  type GpuOptions,
  type Kernel,
  type KernelTime,
  profile,
  type Tuning,
} from "./lib/gpu/mod.ts";
export { tune, type TuneOptions } from "./lib/tuning.ts";
export { type DType, type HostArray, keep, scope, Tensor, tensor } from "./lib/tensor/tensor.ts";
export {
  CODE_BOOKS,
  type CodeBook,
  dequantize,
  dynamicMap,
  quantize,
  QuantizedTensor,
  type QuantizeOptions,
  type QuantType,
} from "./lib/quant/mod.ts";

// a training loop of one's own
export { forward, type ForwardOptions, logits, type ModelInput, modelInput } from "./lib/model/model.ts";
export {
  createOptimizer,
  createParameterPages,
  type Optimizer,
  type OptimizerSettings,
  type ParameterPages,
  type StepOptions,
} from "./lib/optim/mod.ts";
export * as ops from "./lib/tensor/ops/mod.ts";
export { type HeadResult, linearCrossEntropy } from "./lib/tensor/ops/cross_entropy.ts";
export { differentiate, noGrad } from "./lib/tensor/tape.ts";
