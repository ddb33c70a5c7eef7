/**
 * A and B that undo what quantization does to the outputs, rather than to the weights.
 *
 * QERA (Zhang et al. 2024, arXiv 2410.06040, theorem 1): of all corrections of rank r, the one with the least mean
 * square of `x (W − Q(W) − s B A)ᵀ` over the inputs x that the layer sees. Inputs of a language model lie near few
 * directions, so that a small rank undoes most of the damage, where LoftQ, which minimises the error of the weights,
 * undoes little. The inputs are those of the model as its files have it: with inputs of the model in 4 bits, which are
 * wrong already, SmolLM2-135M keeps more than twice the loss.
 *
 * With E = W − Q(W) and C = xᵀ x the mean square is `tr (E − s B A) C (E − s B A)ᵀ`, and the best s B A is `U Uᵀ E`, U
 * the r largest eigenvectors of `E C Eᵀ`: as the paper's `(E C^½)_r C^-½` with neither root nor inverse of C, which are
 * what its time would go into. The correction takes half of the ranks, unless told otherwise, and stays as it is; the others
 * begin and train as LoRA's always do (fixed_ranks.ts).
 * All products are on the device; the processor keeps U orthonormal.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { TensorSource } from "../formats/mod.ts";
import type { LinearLayer } from "../model/linear.ts";
import { modelSource, parameterShapes } from "../model/parameters.ts";
import { hashText } from "../model/random_source.ts";
import { dequantize, QuantizedTensor } from "../quant/mod.ts";
import { takeColumns } from "../tensor/ops/columns.ts";
import { matmulInto } from "../tensor/ops/matmul_kernel.ts";
import { product, productInto } from "../tensor/ops/linear.ts";
import { mul, sub } from "../tensor/ops/pointwise.ts";
import { sum } from "../tensor/ops/reduce.ts";
import { noGrad } from "../tensor/tape.ts";
import { keep, scope, type Tensor, tensor, zeros } from "../tensor/tensor.ts";
import { topEigen } from "./decompose.ts";
import { type Calibration, inputMoments, type Moments } from "./input_moments.ts";
import { initOf } from "./config.ts";
import { startMagnitude } from "./dora.ts";
import { fixedRanks } from "./fixed_ranks.ts";
import type { Adapter } from "./lora.ts";

/** Options of {@link correctQuantization}. */
export interface CorrectOptions {
  onProgress?: (done: number, total: number, module: string) => void;
  /** Ends it between two layers. */
  signal?: AbortSignal | undefined;
}

/** What {@link correctQuantization} did. */
export interface Corrected {
  /** Layers in 4 bits. */
  layers: number;
  /** Mean over them of the mean square error of the outputs, relative to what it was without a correction. */
  left: number;
}

/** Products with `E C Eᵀ`, whose eigenvalues fall fast, since the inputs' do. */
const PRODUCTS = 3;
/** Eigenvalues, relative to the largest, that are too small to be told from rounding. */
const LEAST = 1e-6;
/** Vectors iterated beside the r that are wanted. */
const MORE = 8;

/**
 * Overwrites A and B of every layer in 4 bits. The base stays. Deterministic: same tokens, same bits on one driver.
 *
 * @param weights the base's files, under the family's names
 * @param batches what to run through the model; a few thousand tokens of the training data
 * @returns how many layers, and the mean of what is left of their outputs' error
 * @throws NibbleError `lora/nothing-to-correct` without a layer in 4 bits, `lora/no-tokens` without a token,
 *   `train/stopped`
 */
export async function correctQuantization(
  adapter: Adapter,
  weights: TensorSource,
  batches: readonly Calibration[],
  options: CorrectOptions = {},
): Promise<Corrected> {
  const { model } = adapter;
  const source = modelSource(weights, parameterShapes(model.config));
  const layers = [...adapter.layers.values()].filter(({ layer }) => layer.weight instanceof QuantizedTensor);
  if (layers.length === 0) {
    throw new NibbleError("lora/nothing-to-correct", "No adapted layer is in 4 bits", {
      where: "init_lora_weights",
      remedy: "QERA makes up for what quantization loses: set load_in_4bit: true, or another start.",
    });
  }
  if (layers.some(({ layer }) => source.tensors.get(`${layer.module}.weight`)?.quantized)) {
    throw new NibbleError("lora/needs-weights", "The files hold 4 bits, not what was quantized", {
      where: "init_lora_weights",
      remedy: "Begin from the model in 16 bits; QERA quantizes it and sees what was lost.",
    });
  }
  if (batches.length === 0) {
    throw new NibbleError("lora/no-tokens", "No tokens to look at", {
      remedy: "Give at least one batch of the data that the adapter will be trained on.",
    });
  }
  const init = initOf(adapter.config);
  let done = 0, left = 0;
  for await (const [same, moments] of inputMoments(model, source, layers, batches)) {
    for (const { layer, a, b, scaling, dora } of same) {
      if (options.signal?.aborted) throw new NibbleError("train/stopped", "Stopped before training began");
      const rank = Math.min(layer.shape[0], fixedRanks(init, a.rows));
      const error = lost(layer, source.readF32(`${layer.module}.weight`) as Float32Array<ArrayBuffer>);
      try {
        left += await correct({ a, b, scaling }, rank, error, moments, hashText(layer.module));
      } finally {
        error.dispose();
      }
      if (dora) startMagnitude({ layer, a, b, scaling }, dora);
      options.onProgress?.(++done, layers.length, layer.module);
      await new Promise((resume) => setTimeout(resume)); // Ctrl-C and Stop are heard here
    }
  }
  return { layers: layers.length, left: left / layers.length };
}

/** `W − Q(W)`, as the device decodes it. */
function lost({ weight, shape }: LinearLayer, w: Float32Array<ArrayBuffer>): Tensor {
  return noGrad(() =>
    keep(scope(() => sub(tensor(w, shape, "f32", "scratch"), dequantize(weight as QuantizedTensor))))
  );
}

/**
 * Writes the first ranks of A `[r, in]` and B `[out, r]`: those with the least `tr (E − s B A) C (E − s B A)ᵀ`. The
 * others stay LoRA's own, A as it is and B zero.
 *
 * @param ranks how many, 1 to r
 * @param error E `[out, in]`
 * @param moments C, the blocks on its diagonal
 * @returns that least value, relative to the one without A and B
 */
export async function correct(
  { a, b, scaling }: { a: Tensor; b: Tensor; scaling: number },
  ranks: number,
  error: Tensor,
  moments: Moments,
  seed: number,
): Promise<number> {
  const { rows: out } = error, r = ranks;
  const groups = noGrad(() => weigh(error, moments));
  try {
    const traces = scope(() => groups.map(({ e, ec }) => keep(noGrad(() => sum(mul(e, ec))))));
    let whole = 0;
    for (const t of traces) whole += (await t.data())[0]!, t.dispose();
    const times = async (q: Float64Array, width: number) => {
      using y = zeros([out, width], "f32", "scratch");
      scope(() => {
        const held = tensor(Float32Array.from(q), [out, width]);
        for (const { e, ec } of groups) productInto("nn", ec, product("tn", e, held), y);
      });
      return await y.data();
    };
    const width = Math.min(out, r + MORE);
    const { u, values } = await topEigen(out, r, times, { seed, width, products: PRODUCTS });
    // s B A = U Uᵀ E, A and B weighing alike in the outputs; where there is next to no error a rank stays as it began
    const used = values.filter((v) => v > LEAST * values[0]!).length;
    const root = Array.from(values, (v) => Math.sqrt(Math.sqrt(Math.max(0, v)) / scaling));
    const columns = (count: number, f: (row: number, k: number) => number) =>
      Float32Array.from({ length: out * count }, (_, i) => f(Math.floor(i / count), i % count));
    if (used === 0) return 0;
    b.write(columns(b.columns, (row, k) => k < used ? u[row * r + k]! * root[k]! : 0));
    scope(() => {
      const over = columns(used, (row, k) => u[row * r + k]! / (scaling * root[k]!));
      matmulInto({ layout: "tn", x: tensor(over, [out, used]), w: error, y: a.slice(0, used) });
    });
    return whole > 0 ? Math.max(0, 1 - values.reduce((sum, v) => sum + v, 0) / whole) : 0;
  } finally {
    for (const t of groups.flatMap(({ e, ec }) => [e, ec])) t.dispose();
  }
}

/** E and E C by the blocks of C. */
function weigh(error: Tensor, moments: Moments): { e: Tensor; ec: Tensor }[] {
  let first = 0;
  return scope(() =>
    moments.map((c) => {
      const e = moments.length === 1 ? error.view(error.shape) : takeColumns(error, first, c.columns);
      first += c.columns;
      return { e: keep(e), ec: keep(product("nn", e, c)) };
    })
  );
}
