/**
 * Times kernels with timestamp queries: every launch in a pass of its own, summed by kernel.
 * @module
 */
import type { Gpu } from "./device.ts";
import { NibbleError } from "../errors.ts";

/** Time of one kernel over a profiled stretch. */
export interface KernelTime {
  label: string;
  launches: number;
  milliseconds: number;
}

const CAPACITY = 2048;

/**
 * Runs `work` with every launch timed and returns the time by kernel, the slowest first. Launches beyond
 * 2,048 a call are not timed; the last row says how many.
 */
export async function profile(gpu: Gpu, work: () => Promise<void> | void): Promise<KernelTime[]> {
  if (!gpu.features.timestamps) {
    throw new NibbleError("gpu/no-timestamps", "This adapter has no timestamp queries", {
      remedy: "Time whole steps with `deno task bench step` instead.",
    });
  }
  const { device, stream } = gpu;
  const querySet = device.createQuerySet({ type: "timestamp", count: 2 * CAPACITY });
  const resolved = gpu.pool.acquire(16 * CAPACITY, "scratch");
  // queries resolve only into a buffer made for it
  const target = device.createBuffer({
    size: 16 * CAPACITY,
    usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
  });
  const labels: string[] = [];
  let missed = 0;
  stream.flush();
  stream.timing = {
    slot(label) {
      if (labels.length === CAPACITY) {
        missed++;
        return undefined;
      }
      const i = labels.push(label) - 1;
      return { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
    },
  };
  try {
    await work();
  } finally {
    stream.timing = undefined;
  }
  stream.flush();
  const sums = new Map<string, KernelTime>();
  if (labels.length > 0) {
    const encoder = device.createCommandEncoder();
    encoder.resolveQuerySet(querySet, 0, 2 * labels.length, target, 0);
    encoder.copyBufferToBuffer(target, 0, resolved.raw, 0, 16 * labels.length);
    device.queue.submit([encoder.finish()]);
    const [bytes] = await stream.read([{ buffer: resolved, offset: 0, bytes: 16 * labels.length }]);
    const times = new BigUint64Array(bytes!);
    labels.forEach((label, i) => {
      const row = sums.get(label) ?? { label, launches: 0, milliseconds: 0 };
      row.launches++;
      row.milliseconds += Number(times[2 * i + 1]! - times[2 * i]!) / 1e6;
      sums.set(label, row);
    });
  }
  gpu.pool.release(resolved);
  target.destroy();
  querySet.destroy();
  const rows = [...sums.values()].sort((a, b) => b.milliseconds - a.milliseconds);
  if (missed > 0) rows.push({ label: "(not timed)", launches: missed, milliseconds: 0 });
  return rows;
}
