/**
 * Times pieces of work against each other: in turns, so that what else the machine does falls on all of them alike.
 * @module
 */
import { gpu } from "../lib/gpu/mod.ts";

/** Milliseconds that a round of one work should take at least. */
const ROUND = 60;
/** Milliseconds of one call from which its first, compiling included, says enough about how long it takes. */
const LONG = 1000;
/** Milliseconds that all rounds together should not exceed, as long as there are two. */
const PATIENCE = 10_000;

/** What came of one work. */
export interface Timed {
  /** Median milliseconds of one call. */
  ms: number;
  /** Median of a round's time over that of the first work in the same round; 1 for the first itself. */
  ratio: number;
}

/** Milliseconds that `repeats` calls took, waited for. */
export type Timer = (repeats: number) => Promise<number>;

/**
 * Times works that launch kernels on nibble's own device; what waiting itself costs (10 ms in Deno) is taken off.
 *
 * @param works the first is what the others are compared with
 */
export async function interleave(works: readonly (() => void)[], rounds = 5): Promise<Timed[]> {
  const idle = await emptyFence();
  return await inTurns(works.map((work) => fenced(work, idle)), rounds);
}

/** A timer of launches on nibble's own device. */
export function fenced(work: () => void, idle: number): Timer {
  return async (repeats) => {
    const started = performance.now();
    for (let i = 0; i < repeats; i++) work();
    await gpu().stream.fence();
    return performance.now() - started - idle;
  };
}

/**
 * Runs every work once to compile it, then in `rounds` rounds one after the other, each often enough for the clock, and
 * returns medians. Where a round takes seconds there are fewer.
 */
export async function inTurns(timers: readonly Timer[], rounds = 5): Promise<Timed[]> {
  const once = async (timer: Timer, repeats: number) => Math.max(1e-3, await timer(repeats)) / repeats;
  const repeats: number[] = [];
  let whole = 0;
  for (const timer of timers) {
    const first = await once(timer, 1), ms = first > LONG ? first : await once(timer, 2);
    const often = Math.max(1, Math.min(500, Math.ceil(ROUND / ms)));
    repeats.push(often);
    whole += often * ms;
  }
  const times: number[][] = timers.map(() => []);
  for (let round = 0; round < Math.min(rounds, Math.max(2, PATIENCE / whole)); round++) {
    for (const [i, timer] of timers.entries()) times[i]!.push(await once(timer, repeats[i]!));
  }
  return times.map((own) => ({ ms: median(own), ratio: median(own.map((t, i) => t / times[0]![i]!)) }));
}

/** Milliseconds that waiting takes when there is nothing to wait for. */
export async function emptyFence(): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < 5; i++) {
    const started = performance.now();
    await gpu().stream.fence();
    least = Math.min(least, performance.now() - started);
  }
  return least;
}

/** The middle of some numbers. */
export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
