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

/**
 * Runs every work once to compile it, then in `rounds` rounds one after the other, each often enough for the clock, and
 * returns medians. What waiting itself costs (10 ms in Deno) is taken off. Where a round takes seconds there are fewer.
 *
 * @param works launch kernels; the first is what the others are compared with
 */
export async function interleave(works: readonly (() => void)[], rounds = 5): Promise<Timed[]> {
  const idle = await emptyFence();
  const once = async (work: () => void, repeats: number) => {
    const started = performance.now();
    for (let i = 0; i < repeats; i++) work();
    await gpu().stream.fence();
    return Math.max(1e-3, performance.now() - started - idle) / repeats;
  };
  const repeats: number[] = [];
  let whole = 0;
  for (const work of works) {
    const first = await once(work, 1), ms = first > LONG ? first : await once(work, 2);
    const often = Math.max(1, Math.min(500, Math.ceil(ROUND / ms)));
    repeats.push(often);
    whole += often * ms;
  }
  const times: number[][] = works.map(() => []);
  for (let round = 0; round < Math.min(rounds, Math.max(2, PATIENCE / whole)); round++) {
    for (const [i, work] of works.entries()) times[i]!.push(await once(work, repeats[i]!));
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
