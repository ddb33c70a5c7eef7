/**
 * The two random orders that recipes depend on: NumPy's `default_rng(seed).permutation(n)` (datasets' shuffle and
 * train_test_split) and PyTorch's `randperm(n)` (the Trainer's epochs). Same seed, same order as in Python.
 * @module
 */
import { NibbleError } from "../errors.ts";

const MASK64 = (1n << 64n) - 1n;
const MASK128 = (1n << 128n) - 1n;
/** The multiplier of PCG's 128-bit step (O'Neill, PCG: A Family of Better Random Number Generators, 2014). */
const PCG_MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/**
 * NumPy's SeedSequence for one non-negative integer seed: `words` 32-bit words of state.
 * After M. E. O'Neill's randutils seed_seq, with a pool of four words.
 */
export function seedSequence(seed: number, words: number): Uint32Array {
  const entropy: number[] = [];
  for (let rest = BigInt(seed); rest > 0n || entropy.length === 0; rest >>= 32n) {
    entropy.push(Number(rest & 0xffffffffn));
  }
  const pool = new Uint32Array(4);
  let hash = 0x43b0d7e5;
  const hashmix = (value: number): number => {
    value ^= hash;
    hash = Math.imul(hash, 0x931e8875);
    value = Math.imul(value, hash);
    return value ^ (value >>> 16);
  };
  const mix = (x: number, y: number): number => {
    const value = Math.imul(x, 0xca01f9dd) - Math.imul(y, 0x4973f715);
    return value ^ (value >>> 16);
  };
  for (let i = 0; i < 4; i++) pool[i] = hashmix(entropy[i] ?? 0);
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hashmix(pool[from]));
  }
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hashmix(word));

  let outHash = 0x8b51f9dd;
  return Uint32Array.from({ length: words }, (_, i) => {
    let value = pool[i % 4] ^ outHash;
    outHash = Math.imul(outHash, 0x58f38ded);
    value = Math.imul(value, outHash);
    return value ^ (value >>> 16);
  });
}

/** NumPy's PCG64 (PCG XSL-RR 128/64) as a source of 32-bit numbers: each 64-bit output gives its low half first. */
export function pcg64(seed: number): () => number {
  const w = seedSequence(seed, 8);
  const u64 = (i: number) => (BigInt(w[2 * i + 1]) << 32n) | BigInt(w[2 * i]);
  const increment = ((((u64(2) << 64n) | u64(3)) << 1n) | 1n) & MASK128;
  let state = (increment + ((u64(0) << 64n) | u64(1))) & MASK128;
  const step = () => {
    state = (state * PCG_MULTIPLIER + increment) & MASK128;
  };
  step();
  let high: number | undefined;
  return () => {
    if (high !== undefined) {
      const value = high;
      high = undefined;
      return value;
    }
    step();
    const folded = (state >> 64n) ^ (state & MASK64);
    const turn = state >> 122n;
    const out = ((folded >> turn) | (folded << (64n - turn))) & MASK64;
    high = Number(out >> 32n);
    return Number(out & 0xffffffffn);
  };
}

/**
 * `numpy.random.default_rng(seed).permutation(n)`: Fisher-Yates from the end; numbers above the bound are
 * drawn again after masking to the bound's bits. n up to 2^32.
 *
 * @example
 * ```ts
 * import { permutation } from "./mod.ts";
 * const order = permutation(10, 42);
 * if (order.join() !== "5,6,0,7,3,2,4,9,1,8") throw new Error(order.join());
 * ```
 */
export function permutation(n: number, seed: number): Uint32Array {
  checkSeed(seed);
  const next = pcg64(seed);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const mask = 0xffffffff >>> Math.clz32(i);
    let j = (next() & mask) >>> 0;
    while (j > i) j = (next() & mask) >>> 0;
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** MT19937 as `torch.manual_seed` seeds it (Matsumoto and Nishimura, 1998): a source of 32-bit numbers. */
function mersenneTwister(seed: number): () => number {
  const N = 624, M = 397;
  const state = new Uint32Array(N);
  state[0] = Number(BigInt(seed) & 0xffffffffn);
  for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = N;
  return () => {
    if (at === N) {
      for (let i = 0; i < N; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % N] & 0x7fffffff);
        state[i] = state[(i + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/**
 * `torch.randperm(n, generator=torch.Generator().manual_seed(seed))` for n below 2^32 / 20, where PyTorch swaps
 * forward with a plain remainder.
 *
 * @example
 * ```ts
 * import { randperm } from "./mod.ts";
 * if (randperm(10, 42).join() !== "2,6,1,8,4,5,0,9,3,7") throw new Error("PyTorch's order");
 * ```
 */
export function randperm(n: number, seed: number): Uint32Array {
  checkSeed(seed);
  if (n >= 2 ** 32 / 20) throw new RangeError(`randperm needs n < 2^32/20, got ${n}`);
  const next = mersenneTwister(seed);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = 0; i < n - 1; i++) {
    const j = i + next() % (n - i);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/**
 * The batches of one epoch in the Trainer's order: `randperm` seeded with seed + epoch, cut into batches of row
 * indices. `seed` is `data_seed`, else `seed`; `epoch` counts from 0. The order depends on nothing else, so a resumed
 * run that skips the batches it has seen goes on exactly. `dropLast` leaves out a last batch that is not full
 * (`dataloader_drop_last`).
 */
export function epochBatches(
  n: number,
  batchSize: number,
  seed: number,
  epoch: number,
  skip = 0,
  dropLast = false,
): number[][] {
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    throw new RangeError(`batchSize must be at least 1, got ${batchSize}`);
  }
  const order = randperm(n, seed + epoch);
  const batches: number[][] = [];
  const end = dropLast ? n - n % batchSize : n;
  for (let at = skip * batchSize; at < end; at += batchSize) {
    batches.push([...order.subarray(at, Math.min(at + batchSize, end))]);
  }
  return batches;
}

function checkSeed(seed: number): void {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new NibbleError("data/bad-seed", `A seed must be a whole number from 0 on, not ${seed}`, {
      where: "seed",
      remedy: "Set seed (or data_seed, dataset_mixture.seed) to a number such as 42.",
    });
  }
}
