/**
 * A quantized base whose codes are chosen by what the layers read, rather than each by its own weight.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { TensorSource } from "../formats/mod.ts";
import type { Model } from "../model/model.ts";
import { modelSource, parameterShapes } from "../model/parameters.ts";
import { dequantize, QuantizedTensor, refinable, refine, roundAhead } from "../quant/mod.ts";
import { takeColumns } from "../tensor/ops/columns.ts";
import { product } from "../tensor/ops/linear.ts";
import { mul, sub } from "../tensor/ops/pointwise.ts";
import { sum } from "../tensor/ops/reduce.ts";
import { noGrad } from "../tensor/tape.ts";
import { scope, type Tensor, tensor } from "../tensor/tensor.ts";
import { unitUpper } from "./cholesky.ts";
import { type Calibration, inputMoments, type Moments } from "./input_moments.ts";

/** Added to the diagonal of C before it is factored, relative to its mean, as GPTQ does. */
const DAMPING = 0.01;

/** Options of {@link calibrate}. */
export interface CalibrateOptions {
  /** Times that every code is chosen again after the first; default 2. */
  sweeps?: number;
  onProgress?: (done: number, total: number, module: string) => void;
}

/** What {@link calibrate} did. */
export interface Calibrated {
  /** Layers in 4 bits whose codes were chosen. */
  layers: number;
  /** Mean over them of the mean square error of the outputs, relative to that of the nearest codes. */
  left: number;
}

/**
 * Chooses the codes of every quantized layer for the inputs that these tokens give it in the model as its files have
 * it. Scales stay what bitsandbytes gives them, and so does the form: only the codes are others than the nearest.
 * Deterministic.
 *
 * @param weights the model's files, under the family's names
 * @param batches what to run through the model: a few thousand tokens of what it will be used for
 * @throws NibbleError `lora/nothing-to-correct` without a layer in 4 bits, `lora/no-tokens` without a token
 */
export async function calibrate(
  model: Model,
  weights: TensorSource,
  batches: readonly Calibration[],
  { sweeps = 2, onProgress }: CalibrateOptions = {},
): Promise<Calibrated> {
  const source = modelSource(weights, parameterShapes(model.config));
  const layers = [...model.linears.values()].flatMap((layer) =>
    layer.weight instanceof QuantizedTensor && refinable(layer.weight) ? [{ layer, q: layer.weight }] : []
  );
  if (layers.length === 0) throw new NibbleError("lora/nothing-to-correct", "No layer is in 4 bits");
  if (batches.length === 0) throw new NibbleError("lora/no-tokens", "No tokens to look at");
  let done = 0, left = 0;
  for await (const [same, moments] of inputMoments(model, source, layers, batches)) {
    const factors: Float32Array<ArrayBuffer>[] = [];
    for (const c of moments) {
      const data = await c.data();
      factors.push(Float32Array.from(unitUpper({ rows: c.rows, columns: c.columns, data }, DAMPING)));
    }
    for (const { layer, q } of same) {
      const w = source.readF32(`${layer.module}.weight`) as Float32Array<ArrayBuffer>;
      const [before, after] = await refineLayer(q, w, moments, factors, sweeps);
      left += before > 0 ? after / before : 1;
      onProgress?.(++done, layers.length, layer.module);
    }
  }
  return { layers: layers.length, left: left / layers.length };
}

/** @returns `tr (W − Q) C (W − Q)ᵀ` before and after */
async function refineLayer(
  q: QuantizedTensor,
  w: Float32Array<ArrayBuffer>,
  moments: Moments,
  factors: readonly Float32Array<ArrayBuffer>[],
  sweeps: number,
): Promise<[before: number, after: number]> {
  const parts: Tensor[][] = noGrad(() =>
    scope(() => {
      const exact = tensor(w, q.shape, "f32", "scratch");
      /** Calls `use` with the error of the codes as they are, by the groups of columns. */
      const each = <T>(use: (error: Tensor, c: Tensor, first: number, group: number) => T): T[] => {
        const error = sub(exact, dequantize(q));
        let first = 0;
        return moments.map((c, group) => {
          const own = moments.length === 1 ? error : takeColumns(error, first, c.columns);
          const result = use(own, c, first, group);
          first += c.columns;
          return result;
        });
      };
      const weighed = (error: Tensor, c: Tensor) => sum(mul(error, product("nn", error, c)));
      const before = each(weighed);
      each((error, c, first, group) => roundAhead(q, first, error, tensor(factors[group]!, c.shape)));
      each((error, c, first) => refine(q, first, error, c, sweeps));
      return [before, each(weighed)];
    })
  );
  const totals = [];
  for (const side of parts) {
    let whole = 0;
    for (const t of side) whole += (await t.data())[0]!, t.dispose();
    totals.push(whole);
  }
  return totals as [number, number];
}
