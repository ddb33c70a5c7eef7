/**
 * Code books: the values that 4-bit and 8-bit codes stand for, and where one code ends and the next begins.
 *
 * NF4 and FP4 are those of bitsandbytes, bit for bit (Dettmers et al. 2023, "QLoRA", section 3 and appendix E);
 * the dynamic 8-bit maps are those of Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning".
 * @module
 */
import { NibbleError } from "../errors.ts";

/** Names of the 4-bit types: `bnb_4bit_quant_type`, and `int4` for comparison. */
export type QuantType = "nf4" | "fp4" | "int4";

/** A 4-bit code book. */
export interface CodeBook {
  /** Its name. */
  readonly quantType: QuantType;
  /** The 16 values by code, exact in f32. */
  readonly values: Float32Array;
  /**
   * Ascending borders. Without `magnitude`: 15, and a number's rank is the count of borders strictly below it.
   * With it: 7, compared with the absolute value in the same way.
   */
  readonly thresholds: Float32Array;
  /** Ranks count upwards in absolute value, and bit 3 of the code is the sign. */
  readonly magnitude: boolean;
  /** The code of each rank. */
  readonly codeOfRank: readonly number[];
}

const ASCENDING = Array.from({ length: 16 }, (_, i) => i);

const NF4_VALUES = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
); // deno-fmt-ignore

// e2m1 magnitudes 0, 1/16, 8, 12, 4, 6, 2, 3 over 12
const FP4_MAGNITUDES = [0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 0.5, 2 / 12, 0.25];

/** Borders halfway between neighbours, rounded to f32. */
function midpoints(values: Float32Array): Float32Array {
  return Float32Array.from(
    { length: values.length - 1 },
    (_, i) => Math.fround(values[i]! + values[i + 1]!) / 2,
  );
}

/** The code books by name. `int4` is symmetric: value `(code - 8) / 7`, codes 1 to 15, code 8 is zero. */
export const CODE_BOOKS: Readonly<Record<QuantType, CodeBook>> = {
  nf4: {
    quantType: "nf4",
    values: NF4_VALUES,
    thresholds: midpoints(NF4_VALUES),
    magnitude: false,
    codeOfRank: ASCENDING,
  },
  fp4: {
    quantType: "fp4",
    values: Float32Array.from([...FP4_MAGNITUDES, ...FP4_MAGNITUDES.map((v) => 0 - v)]), // no -0, as in bitsandbytes
    thresholds: Float32Array.of(
      0.00260417,
      0.0859375,
      0.20833333,
      0.29166667,
      0.4166667,
      0.583333,
      0.8333333,
    ),
    magnitude: true,
    codeOfRank: [0, 1, 6, 7, 4, 5, 2, 3],
  },
  int4: ((values) => ({
    quantType: "int4" as const,
    values,
    thresholds: midpoints(values),
    magnitude: false,
    codeOfRank: ASCENDING,
  }))(Float32Array.from(ASCENDING, (i) => (i - 8) / 7)),
};

/**
 * The code book of that name, with the values of a file where they are given.
 *
 * @param values `quant_map` as stored beside the weight; decoding uses it as it is
 * @throws NibbleError `quant/type` for an unknown name
 */
export function codeBook(quantType: string, values?: Float32Array): CodeBook {
  const known = CODE_BOOKS[quantType as QuantType];
  if (!known) {
    throw new NibbleError("quant/type", `Unknown 4-bit type '${quantType}'`, {
      remedy: `Set bnb_4bit_quant_type to one of ${Object.keys(CODE_BOOKS).join(", ")}.`,
    });
  }
  if (!values || values.every((v, i) => v === known.values[i])) return known;
  if (values.length !== 16) {
    throw new NibbleError("quant/map", `A 4-bit quant_map has 16 values, this one ${values.length}`);
  }
  return { ...known, values: Float32Array.from(values) };
}

/**
 * The dynamic 8-bit map: 256 ascending values, dense near zero (`create_dynamic_map` of bitsandbytes, bit for
 * bit). For i = 0 to 6 the means of neighbours on an even grid over [0.1, 1], times 10^(i - 6).
 *
 * @param signed with negatives; then index 127 is 0, else index 0
 * @example
 * ```ts
 * import { dynamicMap } from "./code_books.ts";
 * const map = dynamicMap(true);
 * if (map.length !== 256 || map[127] !== 0 || map[255] !== 1) throw new Error("not the dynamic map");
 * ```
 */
export function dynamicMap(signed: boolean): Float32Array<ArrayBuffer> {
  const f = Math.fround;
  const tenth = f(0.1);
  const values = [0, 1];
  for (let i = 0; i < 7; i++) {
    const n = 2 ** (signed ? i : i + 1) + 1;
    const step = f(f(1 - tenth) / (n - 1));
    // torch.linspace counts from both ends
    const border = (k: number) => k < Math.floor(n / 2) ? f(tenth + step * k) : f(1 - step * (n - 1 - k));
    for (let k = 0; k + 1 < n; k++) {
      const value = f(f(10 ** (i - 6)) * f(f(border(k) + border(k + 1)) / 2));
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

/**
 * The 255 borders as a search tree for `quantize_8bit_texture.wgsl`: 85 nodes of three borders and a filler, by depth and
 * from the left. Two digits of the code fall to each depth.
 */
export function thresholdTree(thresholds: Float32Array): Float32Array<ArrayBuffer> {
  const nodes: number[] = [];
  for (let span = 64; span >= 1; span /= 4) {
    for (let from = 0; from < 256; from += 4 * span) {
      nodes.push(...[1, 2, 3].map((k) => thresholds[from + k * span - 1]!), 0);
    }
  }
  return Float32Array.from(nodes);
}

/** The 255 borders of an 8-bit map: a number's code is the count of borders strictly below it. */
export function mapThresholds(map: Float32Array): Float32Array<ArrayBuffer> {
  return Float32Array.from(midpoints(map));
}
