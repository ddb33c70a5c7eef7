/**
 * Fresh weights for a model that has none: a tensor source drawn from a seed.
 * @module
 */
import type { TensorInfo, TensorSource } from "../formats/mod.ts";
import type { ModelConfig } from "./config.ts";
import { parameterShapes } from "./config.ts";

/**
 * Normal numbers with deviation `initializer_range` for matrices and ones for norms, as Transformers initialises
 * Llama. The numbers depend on the seed and the tensor's name only, not on how it is read.
 */
export function randomSource(config: ModelConfig, seed: number): TensorSource {
  const tensors = new Map<string, TensorInfo>();
  for (const { name, shape } of parameterShapes(config)) {
    tensors.set(name, { name, dtype: "F32", shape, bytes: 4 * shape.reduce((a, b) => a * b, 1) });
  }
  return {
    path: `(fresh weights, seed ${seed})`,
    tensors,
    readF32(name, start = 0, end) {
      const info = tensors.get(name)!;
      const to = end ?? info.bytes / 4;
      const out = new Float32Array(to - start);
      if (info.shape.length === 1) return out.fill(1);
      const key = hashText(name) ^ Math.imul(seed + 1, 0x9e3779b1);
      for (let i = 0; i < out.length; i++) out[i] = config.initializer_range * normal(key, start + i);
      return out;
    },
    readBytes() {
      throw new Error("fresh weights have no stored bytes");
    },
    close() {},
  };
}

/** A uniform number in [0, 1) from a key and a counter. */
export function uniform(key: number, counter: number): number {
  let h = Math.imul(key ^ (counter + 0x7f4a7c15), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13) ^ Math.imul(counter, 0x27d4eb2f), 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32;
}

/** A standard normal number from a key and a counter (Box and Muller 1958). */
export function normal(key: number, counter: number): number {
  const radius = Math.sqrt(-2 * Math.log(1 - uniform(key, 2 * counter)));
  return radius * Math.cos(2 * Math.PI * uniform(key ^ 0x5bd1e995, 2 * counter + 1));
}

/** FNV-1a of a text. */
export function hashText(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}
