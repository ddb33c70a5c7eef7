/**
 * Loading: tensors stream from the files to the device, quantized on the way.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { elementCount, type TensorSource } from "../formats/mod.ts";
import { gpu, mib } from "../gpu/mod.ts";
import type { QuantType } from "../quant/mod.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { nextTurn } from "../turn.ts";
import { blockOf, normOf } from "./block.ts";
import { checkQuantized, checkTensors } from "./check_tensors.ts";
import { readConfig } from "./config.ts";
import type { LinearLayer } from "./linear.ts";
import type { LoadSummary, Model } from "./model.ts";
import { modelSource, parameterShapes, type ParameterSpec } from "./parameters.ts";
import { positionLimit, ropeTables } from "./rope_tables.ts";
import type { TorchDtype } from "./storage.ts";
import { openWeights } from "./weights.ts";

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
  /** Ends the loading, with `model/stopped`. */
  signal?: AbortSignal | undefined;
}

/**
 * Puts a model on the device from named tensors. Each tensor is read in chunks of 4 MiB, checked for NaN, and
 * quantized or written at once, so host memory does not grow with the model; the next chunk is read meanwhile.
 *
 * @throws NibbleError `model/missing-tensor`, `model/shape`, `model/nan`, each naming the tensor; `model/unsupported`
 *   for a checkpoint that something else than bitsandbytes' 4 bits has quantized; `model/stopped`
 */
export async function buildModel(
  raw: Record<string, unknown>,
  files: TensorSource,
  options: BuildOptions = {},
): Promise<Model> {
  const started = performance.now();
  const config = readConfig(raw, files.path);
  const shapes = parameterShapes(config);
  const source = modelSource(files, shapes);
  checkTensors(config, source, shapes);
  const stored = checkQuantized(raw, source);
  const total = shapes.reduce((a, s) => a + elementCount(s.shape), 0);
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
  const inFour = ({ name, quantizable }: ParameterSpec): boolean => {
    if (!quantizable) return false;
    if (stored) return source.tensors.get(name)!.quantized !== undefined;
    const module = moduleOf(name), { quantization } = options;
    return !!quantization && !quantization.skipModules?.some((s) => module === s || module.endsWith(`.${s}`));
  };
  const read = shapes.filter((spec) => !(stored && inFour(spec)));
  const weights = openWeights(source, read, options, (n) => options.onProgress?.(done += n, total));
  const dispose = () => {
    for (const t of dense.values()) t.dispose();
    for (const l of linears.values()) l.weight.dispose();
  };
  const addLinear = ({ name, shape, transposed }: ParameterSpec, weight: LinearLayer["weight"]) => {
    const module = moduleOf(name);
    linears.set(module, { module, shape: shape as [number, number], weight, transposed, adapter: undefined });
  };
  const loadOne = async (spec: ParameterSpec) => {
    if (inFour(spec)) {
      const weight = stored ? weights.stored(spec) : await weights.quantized(spec, options.quantization!);
      addLinear(spec, weight);
      summary.quantizedLayers++;
      summary.quantizedParameters += elementCount(spec.shape);
      summary.quantizedBytes += weight.bytes;
      summary.bytes += weight.bytes;
    } else {
      const t = await weights.dense(spec);
      summary.bytes += t.bytes;
      if (spec.linear) {
        summary.denseLayers++;
        addLinear(spec, t);
      } else {
        dense.set(spec.name, t);
      }
    }
    // what is written is held on the host until it is submitted
    if (!options.rehearsal) gpu().stream.flush();
  };
  try {
    let turned = started;
    for (const spec of shapes) {
      // reading may give the thread away, decoding does not
      if (!options.rehearsal && performance.now() - turned > 50) {
        await nextTurn();
        turned = performance.now();
      }
      if (options.signal?.aborted) {
        throw new NibbleError("model/stopped", "Stopped while the model was loaded");
      }
      await loadOne(spec);
    }
    if (options.quantization && !stored) await weights.checkQuantized();
  } catch (error) {
    dispose(); // a half-loaded model gives its buffers back
    throw error;
  } finally {
    await weights.close();
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

const moduleOf = (parameter: string) => parameter.replace(/\.weight$/, "");

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
