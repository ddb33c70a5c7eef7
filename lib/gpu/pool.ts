/**
 * Buffers with exact accounting by kind, reuse, and a budget.
 *
 * WebGPU buffers are invisible to V8's collector, so every one is owned: by a tensor, which returns it here.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** What a buffer holds; the memory plan and the run's report use the same words. */
export type BufferKind = "base" | "adapter" | "gradient" | "optimizer" | "activation" | "scratch";

/** All kinds in report order. */
export const BUFFER_KINDS: readonly BufferKind[] = [
  "base",
  "adapter",
  "gradient",
  "optimizer",
  "activation",
  "scratch",
];

/** A device buffer lent by the pool. `size` is what was asked for, rounded up to 256 bytes. */
export interface GpuBuffer {
  readonly id: number;
  readonly raw: GPUBuffer;
  readonly size: number;
  readonly kind: BufferKind;
  /** Owners (tensors and views). The buffer returns to the pool when it reaches 0. */
  references: number;
}

/** Bytes now and at the peak. */
export interface MemoryReport {
  /** Live bytes by kind. */
  live: Record<BufferKind, number>;
  /** Live bytes by kind at the moment when the total was highest. */
  atPeak: Record<BufferKind, number>;
  liveBytes: number;
  peakBytes: number;
  /** Bytes kept for reuse, beyond the live ones. */
  idleBytes: number;
  /** Buffers created since the pool began: constant once a training loop has settled. */
  created: number;
}

/** A pool of storage buffers over one device. */
export interface BufferPool {
  acquire(bytes: number, kind: BufferKind): GpuBuffer;
  release(buffer: GpuBuffer): void;
  report(): MemoryReport;
  /** Starts a new peak measurement at the present state. */
  resetPeak(): void;
  /** Destroys idle buffers. */
  trim(): void;
}

const ALIGN = 256;

/**
 * @param device the device
 * @param budget bytes that live and idle buffers may take together
 * @param beforeDestroy called before buffers are destroyed, so that encoded work is submitted first
 * @param onDestroy called with each destroyed buffer's id, so that caches can forget it
 */
export function createPool(
  device: GPUDevice,
  budget: number,
  beforeDestroy: () => void,
  onDestroy: (id: number) => void,
): BufferPool {
  const idle = new Map<number, GpuBuffer[]>();
  const zero = () => Object.fromEntries(BUFFER_KINDS.map((k) => [k, 0])) as Record<BufferKind, number>;
  const live = zero();
  let atPeak = zero();
  let liveBytes = 0, idleBytes = 0, peakBytes = 0, created = 0, nextId = 1;

  function trim(): void {
    if (idleBytes === 0) return;
    beforeDestroy();
    for (const list of idle.values()) {
      for (const b of list) {
        onDestroy(b.id);
        b.raw.destroy();
      }
    }
    idle.clear();
    idleBytes = 0;
  }

  function acquire(bytes: number, kind: BufferKind): GpuBuffer {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    let raw: GPUBuffer, id: number;
    const reused = idle.get(size)?.pop();
    if (reused) {
      idleBytes -= size;
      ({ raw, id } = reused);
    } else {
      if (size > device.limits.maxBufferSize) {
        throw new NibbleError(
          "gpu/buffer-limit",
          `A buffer of ${mib(size)} is larger than this device allows`,
          {
            where: `${kind}; maxBufferSize is ${mib(device.limits.maxBufferSize)}`,
            remedy: "Use a shorter sequence or a smaller batch.",
          },
        );
      }
      if (liveBytes + idleBytes + size > budget) trim();
      if (liveBytes + size > budget) {
        throw new NibbleError("gpu/budget", `Out of device memory: ${mib(size)} more for ${kind}`, {
          where: `in use ${mib(liveBytes)} of a budget of ${mib(budget)}: ` +
            BUFFER_KINDS.map((k) => `${k} ${mib(live[k])}`).join(", "),
          remedy:
            "Lower per_device_train_batch_size or max_length, turn on gradient_checkpointing, or raise nibble_memory_budget_gb.",
        });
      }
      raw = device.createBuffer({
        size,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      });
      id = nextId++;
      created++;
    }
    live[kind] += size;
    liveBytes += size;
    if (liveBytes > peakBytes) {
      peakBytes = liveBytes;
      atPeak = { ...live };
    }
    return { id, raw, size, kind, references: 1 };
  }

  function release(buffer: GpuBuffer): void {
    if (buffer.references <= 0) throw new Error("a buffer was released twice");
    if (--buffer.references > 0) return;
    live[buffer.kind] -= buffer.size;
    liveBytes -= buffer.size;
    idleBytes += buffer.size;
    const list = idle.get(buffer.size);
    if (list) list.push(buffer);
    else idle.set(buffer.size, [buffer]);
  }

  return {
    acquire,
    release,
    trim,
    resetPeak() {
      peakBytes = liveBytes;
      atPeak = { ...live };
    },
    report: () => ({ live: { ...live }, atPeak: { ...atPeak }, liveBytes, peakBytes, idleBytes, created }),
  };
}

/** Bytes as `12.3 MiB`. */
export function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0)} MiB`;
}
