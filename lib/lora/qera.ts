/**
 * A and B that undo what quantization does to the outputs, rather than to the weights.
 *
 * QERA (Zhang et al. 2024, arXiv 2410.06040, theorem 1): of all corrections of rank r, the one with the least mean
 * square of `x (W − Q(W) − s B A)ᵀ` over the inputs x that the layer sees. Inputs of a language model lie near few
 * directions, so that a small rank undoes most of the damage, where LoftQ, which minimises the error of the weights,
 * undoes little. The inputs are those of the model as its files have it: with inputs of the model in 4 bits, which are
 * wrong already, SmolLM2-135M keeps more than twice the loss.
 *
 * The mean square is `‖(W − Q(W) − s B A) L‖²` with `L Lᵀ = xᵀ x`. Any such L gives the same minimum; the paper takes
 * the symmetric root, nibble Cholesky's factor, which needs no eigenvalues.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { TensorSource } from "../formats/mod.ts";
import type { LinearLayer } from "../model/linear.ts";
import { modelSource, parameterShapes } from "../model/parameters.ts";
import { hashText } from "../model/random_source.ts";
import { dequantizeRows, QuantizedTensor } from "../quant/mod.ts";
import { empty } from "../tensor/tensor.ts";
import { addRows, type Matrix, topSingular } from "./decompose.ts";
import { balanced } from "./init.ts";
import { type Calibration, inputMoments } from "./input_moments.ts";
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

/** A square block of a lower triangular matrix. */
type Factor = Matrix & { data: Float64Array };

/** Added to the diagonal, relative to its mean: directions that few tokens showed count for a little. */
const DAMPING = 1e-4;
/** Power iterations of the decomposition; the singular values fall fast, since the inputs' do. */
const ITERATIONS = 2;
/** Rows of the factor taken together. */
const BAND = 64;

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
  if (layers.length === 0) throw new NibbleError("lora/nothing-to-correct", "No adapted layer is in 4 bits");
  if (batches.length === 0) throw new NibbleError("lora/no-tokens", "No tokens to look at");
  let done = 0, left = 0;
  for await (const [same, moments] of inputMoments(model, source, layers, batches)) {
    const factors = moments.map(cholesky);
    for (const lora of same) {
      if (options.signal?.aborted) throw new NibbleError("train/stopped", "Stopped before training began");
      const { layer, a, b, scaling } = lora;
      const [rows, columns] = layer.shape;
      const error = await lost(layer, source.readF32(`${layer.module}.weight`));
      const start = correction({ rows, columns, data: error }, factors, a.shape[0]!, scaling, layer.module);
      a.write(start.a);
      b.write(start.b);
      left += start.left;
      options.onProgress?.(++done, layers.length, layer.module);
      await new Promise((resume) => setTimeout(resume)); // Ctrl-C and Stop are heard here
    }
  }
  return { layers: layers.length, left: left / layers.length };
}

/** `W − Q(W)`, as the device decodes it. */
async function lost({ weight }: LinearLayer, w: Float32Array): Promise<Float32Array> {
  const [rows, columns] = weight.shape as [number, number];
  const held = empty([rows, columns], "f32", "scratch");
  dequantizeRows(weight as QuantizedTensor, 0, rows, held);
  const values = await held.data();
  held.dispose();
  return w.map((v, i) => v - values[i]!);
}

/**
 * A `[r, in]` and B `[out, r]` with the least `‖(E − s B A) L‖`, L of blocks on the diagonal.
 *
 * @param error E `[out, in]`
 * @returns A, B and `‖(E − s B A) L‖² / ‖E L‖²`
 * @param factors the blocks of L, lower triangular, in the order of the columns
 */
export function correction(
  error: Matrix,
  factors: readonly Factor[],
  r: number,
  scaling: number,
  module: string,
): { a: Float32Array<ArrayBuffer>; b: Float32Array<ArrayBuffer>; left: number } {
  const { rows, columns } = error;
  const weighed = { rows, columns, data: new Float64Array(rows * columns) };
  for (let row = 0; row < rows; row++) {
    eachBlock(factors, (l, n, first) => {
      const at = row * columns + first, out = weighed.data.subarray(at, at + n);
      for (let k = 0; k < n; k += BAND) { // L is zero to the right of its diagonal
        const to = Math.min(n, k + BAND), e = error.data.subarray(at + k, at + to);
        addRows(out.subarray(0, to), e, l.subarray(k * n, to * n), n);
      }
    });
  }
  const rank = Math.min(r, rows, columns);
  const found = topSingular(weighed, rank, { seed: hashText(module), niter: ITERATIONS });
  const { a, b } = balanced(found, rank, weighed, scaling);
  // A so far is of the weighed error: a row v is to become v L⁻¹
  for (let row = 0; row < rank; row++) {
    eachBlock(factors, (l, n, first) => {
      const v = Float64Array.from(a.subarray(row * columns + first, row * columns + first + n));
      for (let i = n - 1; i >= 0; i--) {
        const solved = v[i]! /= l[i * n + i]!;
        for (let j = 0; j < i; j++) v[j]! -= solved * l[i * n + j]!;
      }
      a.set(v, row * columns + first);
    });
  }
  const whole = weighed.data.reduce((sum, v) => sum + v * v, 0);
  return { a, b, left: whole > 0 ? 1 - found.s.reduce((sum, s) => sum + s * s, 0) / whole : 0 };
}

function eachBlock(
  factors: readonly Factor[],
  use: (l: Float64Array, n: number, first: number) => void,
): void {
  let first = 0;
  for (const { rows: n, data } of factors) {
    use(data, n, first);
    first += n;
  }
}

/**
 * Lower triangular L with `L Lᵀ = C + damping`, C divided by its mean diagonal: A and B do not depend on its scale.
 *
 * C is summed in f32, and where one direction outweighs all others its rounding can outweigh them too. Then a pivot
 * falls below the damping, which none can otherwise, and ten times as much is added.
 */
export function cholesky({ rows: n, data }: Matrix): Factor {
  let trace = 0;
  for (let i = 0; i < n; i++) trace += data[i * n + i]!;
  const scale = trace > 0 ? n / trace : 0;
  for (let damping = DAMPING;; damping *= 10) {
    const l = factor(n, data, scale, damping);
    if (l) return { rows: n, columns: n, data: l };
  }
}

function factor(
  n: number,
  data: Matrix["data"],
  scale: number,
  damping: number,
): Float64Array | undefined {
  const l = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const own = l.subarray(i * n, i * n + n);
    for (let j = 0; j <= i; j++) {
      const other = l.subarray(j * n, j * n + n);
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, k = 0; // four sums: one would wait for itself
      for (; k + 4 <= j; k += 4) {
        s0 += own[k]! * other[k]!;
        s1 += own[k + 1]! * other[k + 1]!;
        s2 += own[k + 2]! * other[k + 2]!;
        s3 += own[k + 3]! * other[k + 3]!;
      }
      for (; k < j; k++) s0 += own[k]! * other[k]!;
      const sum = data[i * n + j]! * scale + (i === j ? damping : 0) - (s0 + s1 + s2 + s3);
      if (i === j && !(sum > damping / 2)) return undefined;
      own[j] = i === j ? Math.sqrt(sum) : sum / other[j]!;
    }
  }
  return l;
}
