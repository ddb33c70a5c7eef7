/**
 * Loading: tensors stream from the files to the device, quantized on the way.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { TensorSource } from "../formats/mod.ts";
import { gpu, mib } from "../gpu/mod.ts";
import {
  createQuantized,
  finishQuantized,
  fromQuantState,
  type QuantizedTensor,
  quantizeRows,
  type QuantType,
} from "../quant/mod.ts";
import { empty, keep, scope, type Tensor, tensor } from "../tensor/tensor.ts";
import { blockOf, normOf } from "./block.ts";
import { chunks, inF32, type Reading, reusable, written } from "./chunks.ts";
import { type ModelConfig, readConfig } from "./config.ts";
import type { LinearLayer } from "./linear.ts";
import type { LoadSummary, Model } from "./model.ts";
import { blockLinears, modelSource, parameterShapes, type ParameterSpec } from "./parameters.ts";
import { positionLimit, ropeTables } from "./rope_tables.ts";
import { encodeAs, frozenType, type TorchDtype } from "./storage.ts";

/** How the base's linear layers are quantized; names as in bitsandbytes. */
export interface QuantizationConfig {
  /** Code book: `nf4`, `fp4` or `int4`. */
  quantType: QuantType;
  /** Numbers that share a scale: a power of two from 32 to 4096. */
  blocksize: number;
  /** Whether the scales are kept in 8 bits. */
  doubleQuant: boolean;
  /** Modules left dense, by the end of their path. The output head and embeddings always are. */
  skipModules?: readonly string[];
}

/** Options of {@link buildModel}. */
export interface BuildOptions {
  /** Folder or file that the model is known by; default the weights' own path. */
  path?: string;
  /** Quantize the linear layers; absent: f32. A checkpoint that is in 4 bits already stays as it is. */
  quantization?: QuantizationConfig | undefined;
  /** Makes a parameter's tensor, for parameters that train; default: a buffer of its own, frozen. */
  allocate?: (name: string, shape: readonly number[]) => Tensor | undefined;
  /** How frozen matrices that are not quantized are held; default f32. */
  torch_dtype?: TorchDtype | undefined;
  /** Longest sequence that positions are tabled for; default the model's own maximum, at most 8,192. */
  maxPositions?: number;
  /** Allocate and launch as loading would, without reading any weight: for planning. */
  rehearsal?: boolean;
  onProgress?: (done: number, total: number) => void;
}

/**
 * Puts a model on the device from named tensors. Each tensor is read in chunks of 4 MiB, checked for NaN, and
 * quantized or written at once, so host memory does not grow with the model.
 *
 * @throws NibbleError `model/missing-tensor`, `model/shape`, `model/nan`, each naming the tensor; `model/unsupported`
 *   for a checkpoint that something else than bitsandbytes' 4 bits has quantized
 */
export function buildModel(
  raw: Record<string, unknown>,
  files: TensorSource,
  options: BuildOptions = {},
): Model {
  const started = performance.now();
  const config = readConfig(raw, files.path);
  const shapes = parameterShapes(config);
  const source = modelSource(files, shapes);
  checkTensors(config, source, shapes);
  const stored = checkQuantized(raw, source);
  const total = shapes.reduce((a, s) => a + count(s.shape), 0);
  let done = 0;
  const dense = new Map<string, Tensor>();
  const linears = new Map<string, LinearLayer>();
  const summary: LoadSummary = {
    parameters: total,
    quantizedLayers: 0,
    asStored: stored,
    quantizedParameters: 0,
    denseLayers: 0,
    quantizedBytes: 0,
    bitsPerParameter: 0,
    bytes: 0,
    seconds: 0,
  };
  const reading: Reading = {
    source,
    rehearsal: options.rehearsal ?? false,
    ...{ chunk: reusable(), decoded: reusable(), inFlight: 0 },
    advance: (n) => options.onProgress?.(done += n, total),
  };
  const dispose = () => {
    for (const t of dense.values()) t.dispose();
    for (const l of linears.values()) l.weight.dispose();
  };
  const loadOne = ({ name, shape, linear, quantizable, transposed }: ParameterSpec) => {
    const module = name.replace(/\.weight$/, "");
    const skipped = options.quantization?.skipModules?.some((s) => module === s || module.endsWith(`.${s}`));
    const inFour = stored
      ? source.tensors.get(name)!.quantized !== undefined
      : options.quantization !== undefined && !skipped;
    if (quantizable && inFour) {
      const weight = stored
        ? loadStored(name, source, options)
        : loadQuantized(name, shape as [number, number], reading, options.quantization!);
      if (stored) {
        reading.advance(count(shape));
        written(reading, weight.bytes);
      }
      linears.set(module, {
        module,
        shape: shape as [number, number],
        weight,
        transposed,
        adapter: undefined,
      });
      summary.quantizedLayers++;
      summary.quantizedParameters += count(shape);
      summary.quantizedBytes += weight.bytes;
      summary.bytes += weight.bytes;
    } else {
      const t = loadDense(name, shape, reading, options);
      summary.bytes += t.bytes;
      if (linear) {
        summary.denseLayers++;
        linears.set(module, {
          module,
          shape: shape as [number, number],
          weight: t,
          transposed,
          adapter: undefined,
        });
      } else {
        dense.set(name, t);
      }
    }
    // what is written is held on the host until it is submitted
    if (!options.rehearsal) gpu().stream.flush();
  };
  try {
    shapes.forEach(loadOne);
  } catch (error) {
    dispose(); // a half-loaded model gives its buffers back
    throw error;
  }
  if (options.quantization && !stored && summary.quantizedLayers === 0) {
    dispose();
    throw new NibbleError("model/nothing-quantized", "load_in_4bit is set but no layer was quantized", {
      where: source.path,
      remedy: "Check the list of skipped modules.",
    });
  }
  summary.bitsPerParameter = summary.quantizedParameters
    ? 8 * summary.quantizedBytes / summary.quantizedParameters
    : 0;
  for (const layer of linears.values()) layer.bias = dense.get(`${layer.module}.bias`);
  const positions = Math.min(options.maxPositions ?? 8192, positionLimit(config));
  const rope = ropeTables(config, positions);
  summary.bytes += rope?.bytes ?? 0;
  summary.seconds = (performance.now() - started) / 1000;
  const { names } = config.family;
  const embed = dense.get(`${names.embed}.weight`)!;
  return {
    config,
    rawConfig: raw,
    path: options.path ?? source.path,
    embed,
    positionEmbed: names.positions ? dense.get(`${names.positions}.weight`) : undefined,
    norm: normOf(names.norm, dense),
    head: dense.get("lm_head.weight") ?? embed,
    positions,
    rope,
    linears,
    parameters: dense,
    blocks: config.layers.map((_, i) => blockOf(config, i, dense, linears)),
    summary,
    dispose() {
      dispose();
      rope?.dispose();
    },
  };
}

/**
 * Whether the checkpoint is in bitsandbytes' 4 bits.
 *
 * @throws NibbleError `model/unsupported` for another kind of quantization, whose numbers would be read as weights
 */
function checkQuantized(raw: Record<string, unknown>, source: TensorSource): boolean {
  const stored = [...source.tensors.values()].some((t) => t.quantized);
  const given = raw["quantization_config"] as Record<string, unknown> | null | undefined;
  if (!given || stored) return stored;
  const { quant_method: method = "bitsandbytes", load_in_8bit: eight } = given;
  const what = method === "bitsandbytes" ? `bitsandbytes' ${eight ? 8 : 4} bits` : `'${method}'`;
  throw new NibbleError("model/unsupported", `config.json says that the weights are quantized by ${what}`, {
    where: `${source.path}, quantization_config`,
    remedy: method === "bitsandbytes" && !eight
      ? "No weight has a quant_state: if the weights are whole, remove quantization_config."
      : "Use the checkpoint in 16 bits; nibble reads bitsandbytes' 4 bits of the quantized kinds.",
  });
}

/** Every tensor present with the shape that the config implies, before anything is loaded. */
function checkTensors(
  config: ModelConfig,
  source: TensorSource,
  shapes: readonly { name: string; shape: number[] }[],
): void {
  for (const { name, shape } of shapes) {
    const info = source.tensors.get(name);
    if (!info) {
      throw new NibbleError("model/missing-tensor", `The tensor '${name}' is missing`, {
        where: source.path,
        remedy: name === "lm_head.weight"
          ? "The config says tie_word_embeddings: false; set it to true if the model ties them."
          : `Check that the files are complete: ${config.num_hidden_layers} layers are expected.`,
      });
    }
    if (`${info.shape}` !== `${shape}`) {
      const { names } = config.family;
      const vocabulary = name === `${names.embed}.weight` && info.shape[1] === shape[1];
      const heads = [...names.qkv, names.o].some((module) => name.includes(`.${module}.`));
      throw new NibbleError("model/shape", `'${name}' is [${info.shape}], the config implies [${shape}]`, {
        where: source.path,
        remedy: vocabulary
          ? `vocab_size in config.json is ${shape[0]}, the embedding has ${
            info.shape[0]
          } rows; they must agree.`
          : heads
          ? `In config.json head_dim is ${config.head_dim}, with ${config.num_attention_heads} heads of queries and ` +
            `${config.num_key_value_heads} of keys and values: one of them is another in the weights.`
          : `config.json and the weights do not belong together (linear layers of a block: ${
            blockLinears(config).map((l) => l.module).join(", ")
          }).`,
      });
    }
  }
}

function count(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

function loadDense(name: string, shape: readonly number[], reading: Reading, options: BuildOptions): Tensor {
  const { source, rehearsal } = reading;
  const dtype = frozenType(shape, source.tensors.get(name)!.dtype, options.torch_dtype);
  const t = options.allocate?.(name, shape) ?? keep(empty(shape, dtype, "base"));
  t.name = name;
  try {
    for (const chunk of chunks(name, shape, reading)) {
      if (rehearsal) continue;
      const values = chunk.dtype === t.dtype
        ? chunk.values
        : encodeAs(t.dtype, inF32(chunk, reading), name, source.path);
      t.write(values, chunk.row * t.columns);
    }
  } catch (error) {
    t.dispose();
    throw error;
  }
  return t;
}

function loadQuantized(
  name: string,
  shape: [number, number],
  reading: Reading,
  config: QuantizationConfig,
): QuantizedTensor {
  const q = createQuantized(shape, config);
  try {
    for (const { row, rows, dtype, values } of chunks(name, shape, reading)) {
      scope(() => quantizeRows(q, row, tensor(values, [rows, shape[1]], dtype, "scratch")));
    }
    finishQuantized(q);
  } catch (error) {
    q.dispose();
    throw error;
  }
  return q;
}

/** A weight that is in 4 bits already: its codes go to the device as they are. */
function loadStored(
  name: string,
  source: TensorSource,
  { allocate, rehearsal }: BuildOptions,
): QuantizedTensor {
  const { shape, quantType, blocksize, nested } = source.tensors.get(name)!.quantized!;
  if (allocate?.(name, shape)) {
    throw new NibbleError("model/frozen", `'${name}' is stored in 4 bits, which cannot be trained`, {
      where: source.path,
      remedy: "Set use_peft: true (QLoRA), or train the checkpoint in 16 bits.",
    });
  }
  if (rehearsal) {
    const q = createQuantized(shape, { quantType, blocksize, doubleQuant: nested !== undefined, name });
    finishQuantized(q);
    return q;
  }
  const state = source.readQuantState!(name);
  const scales = state.nested ? [state.nested.offset, ...state.nested.absmax] : state.absmax;
  if (!scales.every(Number.isFinite)) {
    throw new NibbleError("model/nan", `'${name}' has a scale that is not a number`, {
      where: source.path,
      remedy: "The file is damaged or was saved from a diverged run; fetch it again.",
    });
  }
  return fromQuantState(state, name);
}

/** The report that follows loading: what was quantized and what it costs. */
export function describeLoad(model: Model): string {
  const s = model.summary;
  const millions = (n: number) => `${(n / 1e6).toFixed(1)} M`;
  const quantized = s.quantizedLayers > 0
    ? `${s.quantizedLayers} linear layers ${s.asStored ? "in 4 bits as stored" : "quantized"} (${
      millions(s.quantizedParameters)
    } parameters, ` +
      `${(100 * s.quantizedParameters / s.parameters).toFixed(1)} %, ${
        s.bitsPerParameter.toFixed(3)
      } bits each), ` +
      `${s.denseLayers} left dense`
    : `${s.denseLayers} linear layers, none quantized`;
  return `${millions(s.parameters)} parameters in ${mib(s.bytes)}: ${quantized}; loaded in ${
    s.seconds.toFixed(1)
  } s`;
}
