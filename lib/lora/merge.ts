/**
 * Merging an adapter into its base: `dequantize(W) + s B A`, the very function that was trained.
 *
 * The original 16-bit W would differ from it by the quantization error, and quantizing the sum again rounds small
 * updates away: that is done on request only ({@link mergeInto4bit}), and its cost is to be measured.
 * @module
 */
import { join } from "@std/path";
import { MERGED_ADAPTERS, type MergedAdapter, streamShardedSafetensors, writeText } from "../formats/mod.ts";
import type { Model } from "../model/model.ts";
import { parameterShapes, type ParameterSpec, storedShape, toStored } from "../model/parameters.ts";
import {
  createQuantized,
  finishQuantized,
  type QuantizedTensor,
  type QuantizeOptions,
  quantizeRows,
} from "../quant/mod.ts";
import { productInto } from "../tensor/ops/linear.ts";
import { copy, mul } from "../tensor/ops/pointwise.ts";
import { noGrad } from "../tensor/tape.ts";
import { keep, scope, type Tensor } from "../tensor/tensor.ts";
import { over, rowNorms } from "./dora.ts";
import type { Adapter, LoraLayer } from "./lora.ts";
import { rowPieces, rowsOf } from "./rows.ts";
import { allParameters } from "./targets.ts";

/** Options of {@link writeModel}. */
export interface WriteModelOptions {
  /** Stored type; default `BF16`. */
  dtype?: "F32" | "F16" | "BF16";
  /** Bytes of one shard at most; default 5 GB, as Transformers has it. */
  maxShardBytes?: number;
  /** Recorded in config.json, so that adapters trained on the result know their parents. */
  merged?: MergedAdapter;
  /** Parameters written so far, and all. */
  onProgress?: (done: number, total: number) => void;
}

/** `torch_dtype` of a stored type, and the reverse. */
export const DTYPE_NAMES = { F32: "float32", F16: "float16", BF16: "bfloat16" } as const;
export const STORED_TYPES = { float32: "F32", float16: "F16", bfloat16: "BF16" } as const;

/**
 * Writes the model with the adapter merged in as a Hugging Face folder: weights in shards with their index, piece by
 * piece from the device, and config.json last.
 *
 * @param adapter undefined writes the base alone, as after full fine-tuning
 * @returns names of the weights' files
 */
export async function writeModel(
  model: Model,
  adapter: Adapter | undefined,
  folder: string,
  options: WriteModelOptions = {},
): Promise<string[]> {
  const { dtype = "BF16", maxShardBytes, onProgress } = options;
  const specs = mergedParameters(model, adapter);
  const total = specs.reduce((n, s) => n + s.shape.reduce((a, b) => a * b, 1), 0);
  let done = 0;
  const tensors = specs.map((spec) => ({
    name: spec.name,
    dtype,
    shape: storedShape(spec),
    data: async function* () {
      for await (const piece of mergedValues(model, adapter, spec)) {
        yield piece;
        onProgress?.(done += piece.length, total);
      }
    },
  }));
  const files = await streamShardedSafetensors(folder, tensors, maxShardBytes ? { maxShardBytes } : {});
  writeConfig(model, adapter, folder, { dtype, merged: options.merged });
  return files;
}

/** config.json of a merged model. */
export function writeConfig(
  model: Model,
  adapter: Adapter | undefined,
  folder: string,
  options: {
    dtype: keyof typeof DTYPE_NAMES;
    merged?: MergedAdapter | undefined;
    /** `quantization_config`, of a model in 4 bits. */
    quantization?: Record<string, unknown>;
  },
): void {
  const { quantization_config: _, dtype: newName, ...config } = model.rawConfig;
  const dtype = DTYPE_NAMES[options.dtype];
  const parents = (config[MERGED_ADAPTERS] as MergedAdapter[] | undefined) ?? [];
  const value = {
    ...config,
    torch_dtype: dtype,
    ...(newName === undefined ? {} : { dtype }), // Transformers 5
    ...(unties(model, adapter) ? { tie_word_embeddings: false } : {}),
    ...(options.merged ? { [MERGED_ADAPTERS]: [...parents, options.merged] } : {}),
    ...(options.quantization ? { quantization_config: options.quantization } : {}),
  };
  writeText(join(folder, "config.json"), JSON.stringify(value, null, 2) + "\n");
}

/** Whether head and embedding, tied in the base, have been trained apart. */
function unties(model: Model, adapter: Adapter | undefined): boolean {
  const names = ["lm_head.weight", `${model.config.family.names.embed}.weight`];
  return model.config.tie_word_embeddings && names.some((name) => adapter?.whole.has(name));
}

/** The parameters of the merged model: the base's, and a head of its own where training untied it. */
export function mergedParameters(model: Model, adapter: Adapter | undefined): ParameterSpec[] {
  return unties(model, adapter) ? allParameters(model) : parameterShapes(model.config);
}

/** A parameter of the merged model in the order of its file, in pieces of bounded size. */
export async function* mergedValues(
  model: Model,
  adapter: Adapter | undefined,
  spec: ParameterSpec,
): AsyncGenerator<Float32Array<ArrayBuffer>> {
  const [rows, columns] = spec.shape.length === 2 ? spec.shape as [number, number] : [1, spec.shape[0]!];
  const whole = spec.transposed ? new Float32Array(rows * columns) : undefined;
  const factors = layerFactors(adapter, spec.name);
  try {
    for (const [from, to] of rowPieces(rows, columns)) {
      const t = mergedRows(model, adapter, spec, factors, from, to);
      const piece = await t.data();
      t.dispose();
      if (whole) whole.set(piece, from * columns);
      else yield piece;
    }
  } finally {
    factors?.scale?.dispose();
  }
  if (whole) yield toStored(spec, whole);
}

/** A layer's adapter, and with DoRA `m / ‖W + s B A‖`, which its owner disposes. */
interface Factors {
  lora: LoraLayer;
  scale: Tensor | undefined;
}

function layerFactors(adapter: Adapter | undefined, name: string): Factors | undefined {
  const lora = name.endsWith(".weight") ? adapter?.layers.get(name.slice(0, -".weight".length)) : undefined;
  if (!lora) return undefined;
  const { dora } = lora;
  if (!dora) return { lora, scale: undefined };
  return { lora, scale: noGrad(() => keep(scope(() => over(dora.magnitude, rowNorms(lora, dora.squares))))) };
}

/** Rows `[from, to)` of a merged parameter in f32; the caller disposes the tensor. */
function mergedRows(
  model: Model,
  adapter: Adapter | undefined,
  spec: ParameterSpec,
  factors: Factors | undefined,
  from: number,
  to: number,
): Tensor {
  return noGrad(() =>
    keep(scope(() => {
      const name = spec.name === "lm_head.weight" && model.config.tie_word_embeddings
        ? `${model.config.family.names.embed}.weight`
        : spec.name;
      const base = model.linears.get(name.replace(/\.weight$/, ""))?.weight ?? model.parameters.get(name)!;
      const part = rowsOf(adapter?.whole.get(spec.name)?.trained ?? base, from, to);
      if (!factors) return copy(part);
      const { lora: { a, b, scaling }, scale } = factors;
      const w = copy(part);
      productInto("nn", b.slice(from, to), a, w, scaling);
      return scale ? mul(w, scale.view([scale.size, 1]).slice(from, to)) : w;
    }))
  );
}

/**
 * Merges the adapter into the layers' weights and quantizes every quantizable one, adapted or not, as `options` say;
 * the adapter is taken off. Each rounding moves the function: measure the loss before and after.
 */
export function mergeInto4bit(model: Model, adapter: Adapter | undefined, options: QuantizeOptions): void {
  for (const spec of parameterShapes(model.config)) {
    if (!spec.quantizable) continue;
    const layer = model.linears.get(spec.name.slice(0, -".weight".length))!;
    const q: QuantizedTensor = createQuantized(spec.shape, { ...options, name: spec.name });
    const factors = layerFactors(adapter, spec.name);
    for (const [from, to] of rowPieces(q.rows, q.columns)) {
      const t = mergedRows(model, adapter, spec, factors, from, to);
      quantizeRows(q, from, t);
      t.dispose();
    }
    factors?.scale?.dispose();
    finishQuantized(q);
    const old = layer.weight;
    layer.weight = q;
    old.dispose();
    layer.adapter = undefined;
  }
}
