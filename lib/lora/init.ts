/**
 * How A and B begin, and what that does to the base.
 *
 * PiSSA (Meng et al. 2024, arXiv 2404.02948) and OLoRA (Büyükakyüz 2024, arXiv 2406.01775) take the largest part of W
 * out of the base and train it: the base keeps `W − s B A`, as in PEFT. In 4 bits PiSSA decomposes the file's numbers
 * and quantizes the rest (PEFT refuses), OLoRA decomposes the quantized ones and quantizes the rest again (as PEFT).
 * LoftQ (Li et al. 2023, arXiv 2310.08659) makes A and B the best correction of the base's own quantization error, as
 * PEFT's `replace_lora_weights_loftq` does, and leaves the base; here they are divided by the scaling, so that they
 * correct whatever alpha is, where PEFT leaves that to the user. QERA corrects it as the layer's inputs see it, in
 * qera.ts.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, type TensorSource } from "../formats/mod.ts";
import type { LinearLayer } from "../model/linear.ts";
import { hashText, normal, uniform } from "../model/random_source.ts";
import { encodeAs } from "../model/storage.ts";
import {
  createQuantized,
  dequantizeOracle,
  finishQuantized,
  QuantizedTensor,
  quantizeOracle,
  quantizeRows,
} from "../quant/mod.ts";
import type { Init } from "./config.ts";
import { leadingBasis, type Matrix, topSingular, transposedTimes } from "./decompose.ts";

/** How one layer's adapter begins. */
export interface Start {
  /** `[r, in]`. */
  a: Float32Array<ArrayBuffer>;
  /** `[out, r]`. */
  b: Float32Array<ArrayBuffer>;
  /** Whether the base is no longer what the files say. */
  changedBase: boolean;
}

/** Options of {@link startLayer}. */
export interface StartOptions {
  /** The base under the names of `modelSource`. */
  weights?: TensorSource | undefined;
  /** A and B will be overwritten: only the base has to be right. */
  unstarted?: boolean | undefined;
  rehearsal?: boolean | undefined;
}

type Values = Float32Array<ArrayBuffer>;

/**
 * A's and B's first values; changes the layer's weight where the method does.
 *
 * @throws NibbleError `lora/needs-weights` when a method that decomposes is not given the files, `lora/rank`
 */
export function startLayer(
  layer: LinearLayer,
  r: number,
  scaling: number,
  init: Init,
  seed: number,
  options: StartOptions,
): Start {
  const [out, into] = layer.shape;
  const key = hashText(layer.module) ^ Math.imul(seed + 1, 0x9e3779b1);
  const draw = (n: number, value: (i: number) => number): Values =>
    Float32Array.from({ length: n }, (_, i) => value(i));
  const changedBase = changesBase(init);
  const empty = { a: new Float32Array(r * into), b: new Float32Array(out * r), changedBase };
  if (options.rehearsal || (options.unstarted && !changedBase)) return empty;
  const even = (bound: number) => (i: number) => (2 * uniform(key, i) - 1) * bound;
  switch (init.kind) {
    case "qera": // a plain start, until correctQuantization has seen what the layers read
      needs4Bit(layer, "QERA");
      checkRank(layer, r);
      return { ...empty, a: draw(r * into, even(1 / Math.sqrt(into))) };
    case "default":
      return { ...empty, a: draw(r * into, even(1 / Math.sqrt(into))) };
    case "gaussian":
      return { ...empty, a: draw(r * into, (i) => normal(key, i) / r) };
    case "random": {
      const later = even(1 / Math.sqrt(r));
      return {
        ...empty,
        a: draw(r * into, even(1 / Math.sqrt(into))),
        b: draw(out * r, (i) => later(i + r * into)),
      };
    }
  }
  checkRank(layer, r);
  const w = fileValues(layer, options.weights);
  if (init.kind === "loftq") return { ...empty, ...loftq(layer, w, r, scaling, key) };
  const from = init.kind === "olora" && layer.weight instanceof QuantizedTensor
    ? asQuantized(layer.weight, w)
    : w;
  const matrix = { rows: out, columns: into, data: from };
  const factors = init.kind === "pissa"
    ? balanced(topSingular(matrix, r, { seed: key, niter: init.niter }), r, matrix, scaling)
    : firstColumns(matrix, r);
  const stored = options.weights!.tensors.get(`${layer.module}.weight`)!.dtype;
  setWeight(layer, rounded(minus(from, factors, scaling, matrix, r), restType(init, layer.weight, stored)));
  return { ...factors, changedBase };
}

/** Whether an initialisation leaves another base behind than the files hold. */
export function changesBase(init: Init): boolean {
  return init.kind === "pissa" || init.kind === "olora";
}

function checkRank({ module, shape }: LinearLayer, r: number): void {
  if (r <= Math.min(...shape)) return;
  throw new NibbleError("lora/rank", `Rank ${r} is more than '${module}' [${shape}] has`, {
    where: "init_lora_weights",
    remedy: "Lower lora_r, or give this module less by rank_pattern.",
  });
}

/** W as the base holds it: the file's values, rounded to the 16 bits of a dense layer that is kept so. */
function fileValues(layer: LinearLayer, weights: TensorSource | undefined): Values {
  if (!weights) {
    throw new NibbleError("lora/needs-weights", "This init_lora_weights decomposes the base's weights", {
      where: layer.module,
      remedy: "Give the model's files, or choose true or gaussian.",
    });
  }
  const values = weights.readF32(`${layer.module}.weight`) as Values;
  return layer.weight instanceof QuantizedTensor ? values : rounded(values, layer.weight.dtype);
}

/**
 * The type that the rest is rounded to: a dense base's own; before it is quantized the file's for PiSSA, as PEFT's
 * users do it by hand, and none for OLoRA, as PEFT does it.
 */
export function restType(init: Init, weight: LinearLayer["weight"], stored: string): string {
  if (!(weight instanceof QuantizedTensor)) return weight.dtype;
  return init.kind === "olora" ? "F32" : stored;
}

/** To 16 bits and back, where `type` has 16. */
export function rounded(values: Values, type: string): Values {
  if (/^bf16$/i.test(type)) return bf16ToF32(f32ToBf16(values));
  if (/^f16$/i.test(type)) return f16ToF32(f32ToF16(values));
  return values;
}

/** `√(S/s) Vᵀ` and `U √(S/s)`, so that s B A is the matrix of the triplets. */
function balanced(
  { u, s, v }: { u: Float64Array; s: Float64Array; v: Float64Array },
  r: number,
  { rows, columns }: Matrix,
  scaling: number,
): Pick<Start, "a" | "b"> {
  const root = (k: number) => Math.sqrt(s[k]! / scaling);
  return {
    a: Float32Array.from({ length: r * columns }, (_, i) => {
      const k = Math.floor(i / columns);
      return root(k) * v[i % columns * r + k]!;
    }),
    b: Float32Array.from({ length: rows * r }, (_, i) => root(i % r) * u[i]!),
  };
}

/** OLoRA: `W = Q R`; B is Q's first columns and A is R's first rows. */
function firstColumns(w: Matrix, r: number): Pick<Start, "a" | "b"> {
  const q = leadingBasis(w, r); // (out, r)
  const rt = transposedTimes(w, q, r); // (in, r) = Rᵀ
  return {
    a: Float32Array.from(
      { length: r * w.columns },
      (_, i) => rt[i % w.columns * r + Math.floor(i / w.columns)]!,
    ),
    b: Float32Array.from(q),
  };
}

/** `W − s B A`. */
export function minus(
  w: Float32Array,
  { a, b }: Pick<Start, "a" | "b">,
  scaling: number,
  { rows, columns }: Pick<Matrix, "rows" | "columns">,
  r: number,
): Values {
  const out = new Float32Array(w.length);
  const row = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) row[j] = w[i * columns + j]!;
    for (let k = 0; k < r; k++) {
      const f = scaling * b[i * r + k]!;
      for (let j = 0; j < columns; j++) row[j]! -= f * a[k * columns + j]!;
    }
    out.set(row, i * columns);
  }
  return out;
}

/** LoftQ, algorithm 1 with one round: A and B are the best correction of rank r to `Q(W)`, which stays the base. */
function loftq(
  layer: LinearLayer,
  w: Values,
  r: number,
  scaling: number,
  seed: number,
): Pick<Start, "a" | "b"> {
  const [rows, columns] = layer.shape;
  const weight = needs4Bit(layer, "LoftQ");
  const held = asQuantized(weight, w);
  const error = { rows, columns, data: w.map((v, i) => v - held[i]!) };
  return balanced(topSingular(error, r, { seed }), r, error, scaling);
}

/** The layer's weight in 4 bits, for a method that corrects its error. */
function needs4Bit({ module, weight }: LinearLayer, method: string): QuantizedTensor {
  if (weight instanceof QuantizedTensor) return weight;
  throw new NibbleError(
    "lora/init",
    `${method} corrects the error of a base in 4 bits, and this one is not`,
    {
      where: module,
      remedy: "Set load_in_4bit: true, or another init_lora_weights.",
    },
  );
}

/** Values as this 4-bit weight would hold them. */
export function asQuantized(q: QuantizedTensor, values: Values): Values {
  const { quantType, blocksize, nested } = q;
  return dequantizeOracle(
    quantizeOracle(values, q.shape, { quantType, blocksize, doubleQuant: nested !== undefined }),
  );
}

/** Puts other values into a layer's weight, quantized as the old ones were. */
function setWeight(layer: LinearLayer, values: Values): void {
  const { module, weight } = layer;
  if (!(weight instanceof QuantizedTensor)) {
    weight.write(encodeAs(weight.dtype, values, `${module}.weight`, "init_lora_weights"));
    return;
  }
  const { quantType, blocksize, nested, dtype, name } = weight;
  const q = createQuantized(weight.shape, {
    ...{ quantType, blocksize, dtype },
    doubleQuant: nested !== undefined,
    ...(name === undefined ? {} : { name }),
  });
  const step = Math.max(64, Math.floor(PIECE / q.columns / 64) * 64);
  for (let row = 0; row < q.rows; row += step) {
    const part = values.slice(row * q.columns, Math.min(q.rows, row + step) * q.columns);
    quantizeRows(q, row, { dtype: "f32", values: part });
  }
  finishQuantized(q);
  layer.weight = q;
  weight.dispose();
}

/** Elements uploaded at a time. */
const PIECE = 4 * 2 ** 20;
