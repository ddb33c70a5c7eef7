/**
 * Choosing the next token from logits, on the host.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** Settings of sampling, under Transformers' names (generation_config.json). */
export interface SamplingOptions {
  /** 0 or absent: greedy. */
  temperature?: number;
  /** Only the k likeliest tokens; absent or 0: all. */
  top_k?: number;
  /** Only the likeliest tokens that together have this probability, 0 to 1; absent: all. */
  top_p?: number;
  /** Only tokens at least this share as likely as the likeliest, 0 to 1; absent: all. */
  min_p?: number;
  /** Divides positive and multiplies negative logits of tokens already present (Keskar et al. 2019, 1909.05858). */
  repetition_penalty?: number;
  /** Of the draws; default 0. The same seed gives the same text. */
  seed?: number;
}

/** What a number may be, as a message says it, and whether one is that. */
export type Limit = readonly [expected: string, fits: (n: number) => boolean];
const SHARE: Limit = ["a number from 0 to 1", (n) => n >= 0 && n <= 1];
export const WHOLE: Limit = ["a whole number of 0 or more", (n) => Number.isInteger(n) && n >= 0];
/** The limits of what generation is told in numbers. */
export const LIMITS = {
  max_new_tokens: WHOLE,
  temperature: ["a number of 0 or more", (n) => Number.isFinite(n) && n >= 0],
  top_k: WHOLE,
  top_p: SHARE,
  min_p: SHARE,
  repetition_penalty: ["a number above 0", (n) => Number.isFinite(n) && n > 0],
  seed: ["a whole number", Number.isInteger],
} as const satisfies Record<keyof SamplingOptions | "max_new_tokens", Limit>;

/**
 * Checks settings before a token is spent on them.
 *
 * @throws NibbleError `model/sampling`, naming the setting
 */
export function checkLimits(options: Partial<Record<keyof typeof LIMITS, number>>): void {
  for (const [name, [expected, fits]] of Object.entries(LIMITS)) {
    const value = options[name as keyof typeof LIMITS];
    if (value === undefined || fits(value)) continue;
    throw new NibbleError("model/sampling", `${name} is ${value}`, {
      where: name,
      remedy: `It must be ${expected}.`,
    });
  }
}

/** A small generator of uniform numbers in [0, 1) with a 32-bit state (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * The next token: penalty, then temperature, top-k, top-p, min-p in Transformers' order, then one draw.
 *
 * @param logits one row, changed in place
 * @param seen tokens of prompt and text so far
 * @example
 * ```ts
 * import { sampleToken } from "./sample.ts";
 * if (sampleToken(new Float32Array([1, 3, 2]), [], {}, Math.random) !== 1) throw new Error("greedy");
 * if (sampleToken(new Float32Array([1, 3, 2]), [1], { repetition_penalty: 2 }, Math.random) !== 2) throw new Error("penalty");
 * ```
 */
export function sampleToken(
  logits: Float32Array,
  seen: Iterable<number>,
  options: SamplingOptions,
  random: () => number,
): number {
  const { temperature = 0, top_k = 0, top_p = 1, min_p = 0, repetition_penalty = 1 } = options;
  if (repetition_penalty !== 1) {
    for (const id of new Set(seen)) {
      logits[id] = logits[id]! > 0 ? logits[id]! / repetition_penalty : logits[id]! * repetition_penalty;
    }
  }
  if (temperature <= 0) return argmax(logits);
  let order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!);
  if (top_k > 0) order = order.slice(0, top_k);
  const top = logits[order[0]!]!;
  let weights = order.map((id) => Math.exp((logits[id]! - top) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  let kept = 0, mass = 0;
  // the token that crosses top_p is kept, so at least one is
  while (
    kept < order.length && (kept === 0 || mass < top_p * total) && weights[kept]! >= min_p * weights[0]!
  ) {
    mass += weights[kept++]!;
  }
  weights = weights.slice(0, kept);
  let at = random() * mass;
  for (let i = 0; i < kept; i++) {
    at -= weights[i]!;
    if (at < 0) return order[i]!;
  }
  return order[kept - 1]!;
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
