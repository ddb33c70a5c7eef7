/**
 * Times kernels with timestamp queries: every launch in a pass of its own, summed by kernel.
 * @module
 */
import type { Gpu } from "./device.ts";
import { NibbleError } from "../errors.ts";

/** Time of one kernel over a profiled stretch. */
export interface KernelTime {
  /** Name of the kernel. */
  label: string;
  /** How often it was launched. */
  launches: number;
  /** Time of all its launches together. */
  milliseconds: number;
}

/** Launches of one query set: the most that WebGPU allows it. */
const CAPACITY = 2048;

interface Timed {
  querySet: GPUQuerySet;
  labels: string[];
}

/** One launch, timed. */
interface TimedLaunch {
  label: string;
  milliseconds: number;
}

/**
 * Runs `work` with every launch timed and returns the time by kernel, the slowest first. Each launch runs in a pass of
 * its own, so the whole takes longer than without; copies are not timed.
 *
 * @throws NibbleError `gpu/no-timestamps` where the adapter has no timestamp queries
 */
export async function profile(gpu: Gpu, work: () => Promise<void> | void): Promise<KernelTime[]> {
  const sums = new Map<string, KernelTime>();
  for (const { label, milliseconds } of await timedLaunches(gpu, work)) {
    const row = sums.get(label) ?? { label, launches: 0, milliseconds: 0 };
    row.launches++;
    row.milliseconds += milliseconds;
    sums.set(label, row);
  }
  return [...sums.values()].sort((a, b) => b.milliseconds - a.milliseconds);
}

/**
 * Milliseconds of several works by the device's own clock, one after the other, each submitted by itself; copies are
 * not timed.
 *
 * @throws NibbleError `gpu/no-timestamps`
 */
export async function timeEach(gpu: Gpu, works: readonly (() => void)[]): Promise<number[]> {
  const ends: number[] = [];
  const launches = await timedLaunches(gpu, (count) => {
    for (const work of works) {
      work();
      gpu.stream.flush();
      ends.push(count());
    }
  });
  const of = (from: number, to: number) => launches.slice(from, to).reduce((n, l) => n + l.milliseconds, 0);
  return ends.map((end, i) => of(i > 0 ? ends[i - 1]! : 0, end));
}

/** Every launch of `work`, in order; `count` tells how many there were so far. */
async function timedLaunches(
  gpu: Gpu,
  work: (count: () => number) => Promise<void> | void,
): Promise<TimedLaunch[]> {
  if (!gpu.features.timestamps) {
    throw new NibbleError("gpu/no-timestamps", "This adapter has no timestamp queries", {
      remedy: "Time whole steps with `deno task bench step` instead.",
    });
  }
  const { device, stream } = gpu;
  const timed: Timed[] = [];
  stream.flush();
  stream.timing = {
    slot(label) {
      if ((timed.at(-1)?.labels.length ?? CAPACITY) === CAPACITY) {
        timed.push({
          querySet: device.createQuerySet({ type: "timestamp", count: 2 * CAPACITY }),
          labels: [],
        });
      }
      const { querySet, labels } = timed.at(-1)!;
      const i = labels.push(label) - 1;
      return { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
    },
  };
  try {
    await work(() => timed.reduce((n, { labels }) => n + labels.length, 0));
  } finally {
    stream.timing = undefined;
    stream.flush();
  }
  const launches: TimedLaunch[] = [];
  for (const { querySet, labels } of timed) {
    const times = await resolveTimes(gpu, querySet, labels.length);
    labels.forEach((label, i) => {
      launches.push({ label, milliseconds: Number(times[2 * i + 1]! - times[2 * i]!) / 1e6 });
    });
    querySet.destroy();
  }
  return launches;
}

/** Nanoseconds of the first `launches` pairs of a query set. */
async function resolveTimes(gpu: Gpu, querySet: GPUQuerySet, launches: number): Promise<BigUint64Array> {
  const bytes = 16 * launches;
  const result = gpu.pool.acquire(bytes, "scratch");
  // queries resolve only into a buffer made for it
  const target = gpu.device.createBuffer({
    size: bytes,
    usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
  });
  const encoder = gpu.device.createCommandEncoder();
  encoder.resolveQuerySet(querySet, 0, 2 * launches, target, 0);
  encoder.copyBufferToBuffer(target, 0, result.raw, 0, bytes);
  gpu.device.queue.submit([encoder.finish()]);
  const [read] = await gpu.stream.read([{ buffer: result, offset: 0, bytes }]);
  gpu.pool.release(result);
  target.destroy();
  return new BigUint64Array(read!);
}
