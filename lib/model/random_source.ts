/**
 * Fresh weights for a model that has none: a tensor source drawn from a seed.
 * @module
 */
import type { TensorInfo, TensorSource } from "../formats/mod.ts";
import type { ModelConfig } from "./config.ts";
import { parameterShapes, type ParameterSpec, storedShape } from "./parameters.ts";

/** Numbers of one period: a prime, so that rows of a matrix begin at different places. */
const PERIOD = 1_048_573;

/**
 * {@link randomSource} at the speed of copying, for models of billions of weights that are only played with: one row
 * of normal numbers, repeated from another place for every tensor.
 */
export function repeatedSource(config: ModelConfig, seed: number): TensorSource {
  const fresh = randomSource(config, seed);
  const specs = new Map(parameterShapes(config).map((spec) => [spec.name, spec]));
  const table = Float32Array.from({ length: PERIOD }, (_, i) => normal(seed, i));
  return {
    ...fresh,
    path: `(generated weights, seed ${seed})`,
    readF32(name, start = 0, end) {
      const { mean, deviation } = specs.get(name)!.init;
      if (deviation === 0) return fresh.readF32(name, start, end);
      const out = new Float32Array((end ?? fresh.tensors.get(name)!.bytes / 4) - start);
      let from = (hashText(name) + start) % PERIOD;
      for (let at = 0; at < out.length; from = 0) {
        const n = Math.min(out.length - at, PERIOD - from);
        for (let i = 0; i < n; i++) out[at + i] = mean + deviation * table[from + i]!;
        at += n;
      }
      return out;
    },
  };
}

/**
 * Normal numbers with deviation `initializer_range` for matrices, neutral ones for norms and zeros for biases, as
 * Transformers initialises each family. The numbers depend on the seed and the tensor's name only, not on how it is
 * read.
 */
export function randomSource(config: ModelConfig, seed: number): TensorSource {
  const tensors = new Map<string, TensorInfo>();
  const specs = new Map<string, ParameterSpec>();
  for (const spec of parameterShapes(config)) {
    const { name } = spec, shape = storedShape(spec);
    specs.set(name, spec);
    tensors.set(name, { name, dtype: "F32", shape, bytes: 4 * shape.reduce((a, b) => a * b, 1) });
  }
  return {
    path: `(fresh weights, seed ${seed})`,
    tensors,
    readF32(name, start = 0, end) {
      const to = end ?? tensors.get(name)!.bytes / 4;
      const { mean, deviation } = specs.get(name)!.init;
      const out = new Float32Array(to - start);
      if (deviation === 0) return out.fill(mean);
      const key = hashText(name) ^ Math.imul(seed + 1, 0x9e3779b1);
      for (let i = 0; i < out.length; i++) out[i] = mean + deviation * normal(key, start + i);
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
