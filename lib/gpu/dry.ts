/**
 * A device that counts and does nothing: the same code runs on it, buffer for buffer, to learn what it would take.
 * @module
 */
import { type Gpu, withGpu } from "./device.ts";
import type { LaunchOptions } from "./kernel.ts";
import { createPool, type MemoryReport } from "./pool.ts";
import type { CommandStream } from "./stream.ts";

/** What a rehearsal would take. */
export interface Rehearsal {
  memory: MemoryReport;
  /** Largest byte range that one kernel binds. */
  largestBinding: number;
  /** Launches of all kernels. */
  dispatches: number;
}

/** The limits that decide what code does: everything else of the device is unused in a rehearsal. */
export type RehearsalLimits = Pick<Gpu, "limits" | "maxBinding" | "name" | "vendor" | "features" | "choices">;

/**
 * Runs `work` on a device that allocates nothing and computes nothing, and reports the memory that it would take.
 * Readbacks return zeros.
 *
 * @param budget bytes beyond which allocation fails with the same error as on the device
 */
export async function rehearse(
  like: RehearsalLimits,
  budget: number,
  work: () => Promise<void> | void,
): Promise<Rehearsal> {
  const buffer = { destroy() {} } as unknown as GPUBuffer;
  const texture = { destroy() {}, createView: () => ({}) };
  const device = { limits: like.limits, createBuffer: () => buffer, createTexture: () => texture };
  const pool = createPool(device as unknown as GPUDevice, budget, () => {}, () => {});
  let largestBinding = 0, dispatches = 0;
  const none = () => {};
  const stream: CommandStream = {
    uniforms: buffer,
    uniformSlot: () => 0,
    ...{
      launch: none,
      copy: none,
      copyToTexture: none,
      clear: none,
      write: none,
      writeTexture: none,
      flush: none,
    },
    wait: none,
    fence: () => Promise.resolve(),
    read: (ranges) => Promise.resolve(ranges.map((r) => new ArrayBuffer(r.bytes))),
    reader: () => ({ read: () => Promise.resolve(new Uint8Array()), dispose: none }),
    counters: () => ({ dispatches, submits: 0, readbacks: 0, fences: 0 }),
    timing: undefined,
  };
  const gpu: Gpu = {
    ...{ name: like.name, vendor: like.vendor, limits: like.limits, features: like.features },
    ...{
      maxBinding: like.maxBinding,
      choices: like.choices,
      device: device as unknown as GPUDevice,
      pool,
      stream,
    },
    kernels: {
      launch(_kernel, { bind }: LaunchOptions) {
        dispatches++;
        for (const range of Object.values(bind)) {
          if ("view" in range) continue;
          const { buffer, offset = 0, bytes } = range;
          largestBinding = Math.max(largestBinding, bytes ?? buffer.size - offset);
        }
      },
      forget: none,
      compiled: () => 0,
      bindGroups: () => 0,
    },
    check: none,
    close: none,
  };
  await withGpu(gpu, work);
  return { memory: pool.report(), largestBinding, dispatches };
}
