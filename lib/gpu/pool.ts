/**
 * Buffers and textures with exact accounting by kind, reuse, and a budget.
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

/** What the pool lends. */
interface Lent<Raw> {
  /** Unique among buffers and textures. */
  readonly id: number;
  readonly raw: Raw;
  /** Bytes. */
  readonly size: number;
  readonly kind: BufferKind;
  /** Owners (tensors and views). It returns to the pool when this reaches 0. */
  references: number;
}

/** A device buffer lent by the pool. `size` is what was asked for, rounded up to 256 bytes. */
export type GpuBuffer = Lent<GPUBuffer>;

/** A two-dimensional texture lent by the pool: scratch for kernels that read through texture units. */
export interface GpuTexture extends Lent<GPUTexture> {
  readonly view: GPUTextureView;
  readonly shape: TextureShape;
}

/** What a texture is asked for by. */
export interface TextureShape {
  format: keyof typeof TEXEL_BYTES;
  width: number;
  height: number;
}

/** Bytes of a texel, by format. */
export const TEXEL_BYTES = {
  rgba32float: 16,
  rgba32uint: 16,
  r32uint: 4,
  rgba16float: 8,
  rgba16uint: 8,
} as const;

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
  /** Most bytes that the device held at once: live ones and those kept for reuse. */
  heldPeakBytes: number;
  /** Buffers and textures created since the pool began: constant once a training loop has settled. */
  created: number;
}

/** A pool of storage buffers and textures over one device. */
export interface BufferPool {
  acquire(bytes: number, kind: BufferKind): GpuBuffer;
  acquireTexture(shape: TextureShape, kind: BufferKind): GpuTexture;
  release(lent: GpuBuffer | GpuTexture): void;
  report(): MemoryReport;
  /** Bytes that may be lent beside those that are. */
  room(): number;
  /** Starts a new peak measurement at the present state. */
  resetPeak(): void;
  /** Destroys what is idle. */
  trim(): void;
  /**
   * Tells that a step, or a batch of an evaluation, is over, and destroys what lay idle for more than `most` of them,
   * so that the buffers of shapes that no longer come do not pile up.
   */
  age(most: number): void;
}

const ALIGN = 256;

/**
 * What is idle may take the whole to 1.25 times the most that was ever live, or 64 MiB beyond it: batches of one shape
 * come back to the same buffers and stay far below, batches of ever new lengths would pile up theirs.
 */
const IDLE_SHARE = 0.25;
const IDLE_BYTES = 64 * 2 ** 20;

/**
 * @param device the device
 * @param budget bytes that live and idle buffers and textures may take together
 * @param beforeDestroy called before any are destroyed, so that encoded work is submitted first
 * @param onDestroy called with the id of each that is destroyed, so that caches can forget it
 */
export function createPool(
  device: GPUDevice,
  budget: number,
  beforeDestroy: () => void,
  onDestroy: (id: number) => void,
): BufferPool {
  const idle = new Map<string | number, { lent: GpuBuffer | GpuTexture; since: number }[]>();
  const zero = () => Object.fromEntries(BUFFER_KINDS.map((k) => [k, 0])) as Record<BufferKind, number>;
  const live = zero();
  let atPeak = zero();
  let liveBytes = 0, idleBytes = 0, peakBytes = 0, heldPeakBytes = 0, created = 0, nextId = 1;
  let generation = 0;

  /** Destroys what lies idle since before that generation, the oldest first, until no more than `most` bytes are idle. */
  function destroyIdle(before: number, most = 0): void {
    if (idleBytes <= most) return;
    const old = [...idle.values()].flat().filter(({ since }) => since < before);
    if (old.length === 0) return;
    beforeDestroy();
    const gone = new Set<GpuBuffer | GpuTexture>();
    for (const { lent } of old.sort((a, b) => a.since - b.since)) {
      if (idleBytes <= most) break;
      onDestroy(lent.id);
      lent.raw.destroy();
      idleBytes -= lent.size;
      gone.add(lent);
    }
    for (const [key, list] of idle) {
      const stay = list.filter(({ lent }) => !gone.has(lent));
      if (stay.length > 0) idle.set(key, stay);
      else idle.delete(key);
    }
  }
  const trim = () => destroyIdle(Infinity);

  /** One of the same key that is idle, or a new one within the budget; counted as live from now on. */
  function lend<T extends GpuBuffer | GpuTexture>(
    key: string | number,
    size: number,
    kind: BufferKind,
    create: () => Omit<T, keyof Lent<unknown>> & { raw: T["raw"] },
  ): T {
    let made = idle.get(key)?.pop()?.lent as T | undefined;
    if (made) {
      idleBytes -= size;
      made = { ...made, kind, references: 1 };
    } else {
      if (liveBytes + idleBytes + size > budget) trim();
      const wanted = liveBytes + size, most = Math.max(wanted, peakBytes);
      // all of the room at once: each time costs a submit
      if (wanted + idleBytes > most + Math.max(IDLE_SHARE * most, IDLE_BYTES)) {
        destroyIdle(Infinity, most - wanted);
      }
      if (liveBytes + size > budget) {
        throw new NibbleError("gpu/budget", `Out of device memory: ${mib(size)} more for ${kind}`, {
          where: `in use ${mib(liveBytes)} of a budget of ${mib(budget)}: ` +
            BUFFER_KINDS.map((k) => `${k} ${mib(live[k])}`).join(", "),
          remedy:
            "Lower per_device_train_batch_size or max_length, turn on gradient_checkpointing, or raise nibble_memory_budget_gb.",
        });
      }
      made = { ...create(), id: nextId++, size, kind, references: 1 } as unknown as T;
      created++;
    }
    live[kind] += size;
    liveBytes += size;
    heldPeakBytes = Math.max(heldPeakBytes, liveBytes + idleBytes);
    if (liveBytes > peakBytes) {
      peakBytes = liveBytes;
      atPeak = { ...live };
    }
    return made;
  }

  function acquire(bytes: number, kind: BufferKind): GpuBuffer {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
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
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    return lend<GpuBuffer>(size, size, kind, () => ({ raw: device.createBuffer({ size, usage }) }));
  }

  function acquireTexture(shape: TextureShape, kind: BufferKind): GpuTexture {
    const { format, width, height } = shape;
    return lend<GpuTexture>(keyOf(shape), width * height * TEXEL_BYTES[format], kind, () => {
      const usage = GPUTextureUsage.COPY_DST | GPUTextureUsage.TEXTURE_BINDING |
        GPUTextureUsage.STORAGE_BINDING;
      const raw = device.createTexture({ size: [width, height], format, usage });
      return { raw, view: raw.createView(), shape };
    });
  }

  function release(lent: GpuBuffer | GpuTexture): void {
    if (lent.references <= 0) throw new Error("a buffer was released twice");
    if (--lent.references > 0) return;
    live[lent.kind] -= lent.size;
    liveBytes -= lent.size;
    idleBytes += lent.size;
    const key = "view" in lent ? keyOf(lent.shape) : lent.size;
    const list = idle.get(key);
    const entry = { lent, since: generation };
    if (list) list.push(entry);
    else idle.set(key, [entry]);
  }

  return {
    acquire,
    acquireTexture,
    release,
    trim,
    age(most) {
      generation++;
      destroyIdle(generation - most);
      // equal steps ask in an equal order: from equal lists they get the same buffers, whose bind groups are known
      for (const list of idle.values()) list.sort((a, b) => a.lent.id - b.lent.id);
    },
    resetPeak() {
      peakBytes = liveBytes;
      heldPeakBytes = liveBytes + idleBytes;
      atPeak = { ...live };
    },
    room: () => budget - liveBytes,
    report: () => ({
      live: { ...live },
      atPeak: { ...atPeak },
      ...{ liveBytes, peakBytes, idleBytes, heldPeakBytes, created },
    }),
  };
}

const keyOf = ({ format, width, height }: TextureShape) => `${format} ${width}x${height}`;

/** Bytes by kind as `base 160 MiB, adapter 18.6 MiB`, those that are none left out. */
export function byKind(bytes: Readonly<Record<BufferKind, number>>): string {
  return BUFFER_KINDS.filter((kind) => bytes[kind] > 0).map((kind) => `${kind} ${mib(bytes[kind])}`).join(
    ", ",
  );
}

/** Bytes as `12.3 MiB`. */
export function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0)} MiB`;
}
