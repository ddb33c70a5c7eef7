/**
 * Linear layers of the models that the benchmarks of products go by.
 * @module
 */
import type { MatmulLayout } from "../lib/tensor/ops/matmul_kernel.ts";

/** A weight, `[out, in]`. */
export type LayerShape = readonly [name: string, out: number, in_: number];

/** Weights by model; `mistral-7b` are also those of most 7B models. */
export const LAYERS: Readonly<Record<string, readonly LayerShape[]>> = {
  "SmolLM2-135M": [["q, o", 576, 576], ["k, v", 192, 576], ["gate, up", 1536, 576], ["down", 576, 1536]],
  "Llama-3.2-1B": [["q, o", 2048, 2048], ["k, v", 512, 2048], ["gate, up", 8192, 2048], ["down", 2048, 8192]],
  "Mistral-7B": [["q, o", 4096, 4096], ["k, v", 1024, 4096], ["gate, up", 14336, 4096], [
    "down",
    4096,
    14336,
  ]],
};

/** Rank of the adapters. */
export const RANK = 16;

/** A product `y[M, N]`, operands as `matmulInto` takes them. */
export interface Product {
  name: string;
  layout: MatmulLayout;
  M: number;
  N: number;
  K: number;
}

/** What training a frozen weight multiplies: forward, and the gradient by its input. */
function baseProducts([name, out, in_]: LayerShape, rows: number): Product[] {
  return [
    { name: `${name}: x Wᵀ`, layout: "nt", M: rows, N: out, K: in_ },
    { name: `${name}: dy W`, layout: "nn", M: rows, N: in_, K: out },
  ];
}

/** What an adapter of a layer multiplies, `h = x Aᵀ`, `y = h Bᵀ`: forward and backward. */
function adapterProducts([name, out, in_]: LayerShape, rows: number): Product[] {
  return [
    { name: `${name}: x Aᵀ`, layout: "nt", M: rows, N: RANK, K: in_ },
    { name: `${name}: h Bᵀ`, layout: "nt", M: rows, N: out, K: RANK },
    { name: `${name}: dy B`, layout: "nn", M: rows, N: RANK, K: out },
    { name: `${name}: dh A`, layout: "nn", M: rows, N: in_, K: RANK },
    { name: `${name}: dhᵀ x`, layout: "tn", M: RANK, N: in_, K: rows },
    { name: `${name}: dyᵀ h`, layout: "tn", M: out, N: RANK, K: rows },
  ];
}

/** Products of a model by kind: `base` of every layer, `adapter` of the one with the most weights. */
export function modelProducts(model: string, rows: number, kinds: readonly string[]): Product[] {
  const layers = LAYERS[model]!;
  const widest = layers.reduce((most, layer) => layer[1] * layer[2] > most[1] * most[2] ? layer : most);
  return [
    ...(kinds.includes("base") ? layers.flatMap((layer) => baseProducts(layer, rows)) : []),
    ...(kinds.includes("adapter") ? adapterProducts(widest, rows) : []),
  ];
}

/** Operands of a product as `matmulInto` wants them: shapes of x and of w. */
export function operands({ layout, M, N, K }: Product): { x: [number, number]; w: [number, number] } {
  return { x: layout === "tn" ? [K, M] : [M, K], w: layout === "nt" ? [N, K] : [K, N] };
}

/** Models whose names begin with one of these. */
export function modelsNamed(beginnings: readonly string[]): string[] {
  return Object.keys(LAYERS).filter((model) => beginnings.some((name) => model.startsWith(name)));
}

/** Floating-point operations of a product, in units of 10^9. */
export function gflop({ M, N, K }: Product): number {
  return 2e-9 * M * N * K;
}

/** The same `n` numbers in [-1, 1) for a seed, everywhere. */
export function numbers(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = seed;
  return Float32Array.from({ length: n }, () => (s = (Math.imul(s, 1664525) + 1013904223) | 0) / 2 ** 31);
}
