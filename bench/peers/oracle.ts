/**
 * What a product's elements have to be: sums in 64 bits over a few elements of y, and how far 32 bits may be off.
 * @module
 */
import { numbers, operands, type Product } from "../shapes.ts";
import { BLOCK, codes4 } from "./task.ts";

/** Elements that are looked at, by their index in y, with their values and the error that f32 sums may have. */
export interface Expected {
  at: number[];
  values: number[];
  bounds: number[];
}

/** Elements spread over y, the first and the last among them. */
const PROBES = 33;

/** The dense product of `numbers(., 1)` and `numbers(., 2)`. */
export function expectedProduct(product: Product): Expected {
  const { layout, M, N, K } = product, shapes = operands(product);
  const x = numbers(M * K, 1), w = numbers(N * K, 2);
  return expected(
    product,
    (m, k) => x[layout === "tn" ? k * shapes.x[1] + m : m * shapes.x[1] + k]!,
    (n, k) => w[layout === "nt" ? n * shapes.w[1] + k : k * shapes.w[1] + n]!,
  );
}

/** x Wᵀ with W from `codes4`. */
export function expectedProduct4(product: Product): Expected {
  const { M, K } = product, x = numbers(M * K, 1), { codes, scales } = codes4(product);
  return expected(product, (m, k) => x[m * K + k]!, (n, k) => {
    const i = n * K + k, code = codes[i >> 1]! >> (i % 2 * 4) & 15;
    return (code - 8) * scales[Math.floor(i / BLOCK.onnxruntime)]!;
  });
}

/** The product of `numbers(., 1)` and any dense weight `[N, K]`. */
export function expectedOf(product: Product, w: Float32Array): Expected {
  const { M, K } = product, x = numbers(M * K, 1);
  return expected(product, (m, k) => x[m * K + k]!, (n, k) => w[n * K + k]!);
}

function expected(
  { M, N, K }: Product,
  x: (m: number, k: number) => number,
  w: (n: number, k: number) => number,
): Expected {
  const at = Array.from({ length: PROBES }, (_, i) => Math.round(i * (M * N - 1) / (PROBES - 1)));
  const values: number[] = [], bounds: number[] = [];
  for (const i of at) {
    const m = Math.floor(i / N), n = i % N;
    let sum = 0, size = 0;
    for (let k = 0; k < K; k++) {
      const term = x(m, k) * w(n, k);
      sum += term;
      size += Math.abs(term);
    }
    values.push(sum);
    // any order of a sum of K rounded products, two roundings more for a weight that is scaled first: Higham 2002, 3.1
    bounds.push((K + 2) * 2 ** -24 * size);
  }
  return { at, values, bounds };
}

/** The largest error in units of its bound: above 1, it is not this product in f32. */
export function worst({ values, bounds }: Expected, found: readonly number[]): number {
  return values.reduce((most, value, i) => {
    const error = Math.abs(found[i]! - value) / bounds[i]!;
    return error <= most ? most : error; // NaN stays
  }, 0);
}
