/**
 * The adapter and the device: everything that the adapter offers is asked for, and features are probed by use.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { createRunner, type KernelRunner } from "./kernel.ts";
import { type BufferPool, createPool } from "./pool.ts";
import { type CommandStream, createStream } from "./stream.ts";
import type { Choices } from "./tuner.ts";

/** What works on this device, found by trying it. */
export interface GpuFeatures {
  /** Kernels may compute with 16-bit floats (`enable f16`). */
  f16: boolean;
  /** Invocations of a subgroup may exchange values without workgroup memory. */
  subgroups: boolean;
  /** Eight neighbouring invocations of a workgroup lie in one subgroup, side by side. */
  octets: boolean;
  /** Kernels can be timed on the device, which `profile` needs. */
  timestamps: boolean;
}

/** A device with its pool, stream and kernels. */
export interface Gpu {
  /** The adapter's own description, such as `llvmpipe (LLVM 15.0.6, 256 bits)`. */
  readonly name: string;
  /** The adapter's vendor as WebGPU gives it, often a number. */
  readonly vendor: string;
  /** What works, found by trying it. */
  readonly features: GpuFeatures;
  /** WebGPU's limits of the device. */
  readonly limits: GPUSupportedLimits;
  /** Largest byte range of one binding that operations use: the device's limit, or less on request. */
  readonly maxBinding: number;
  /** WebGPU's own device, for what nibble does not wrap. */
  readonly device: GPUDevice;
  /** Buffers, lent and taken back, with live bytes by kind (`pool.report()`). */
  readonly pool: BufferPool;
  /** Configurations of kernels that `tune` found fastest here, by kernel and class of work; empty before. */
  choices: Choices;
  /** The list of commands, its submissions and readbacks (`stream.counters()`). */
  readonly stream: CommandStream;
  /** Compiles and launches kernels (`kernels.launch(kernel, …)`). */
  readonly kernels: KernelRunner;
  /** Throws what the device reported since the last call: lost, out of memory, invalid use. */
  check(): void;
  /** Gives the device back. Tensors on it are lost. */
  close(): void;
}

/** Options of {@link openGpu}. */
export interface GpuOptions {
  /** Most bytes that buffers may take; default unlimited. */
  budgetBytes?: number;
  /** Ask for WebGPU's default limits only, to test portability. */
  defaultLimits?: boolean;
  /** Lower the binding size that operations use, to test the walking of row ranges. */
  maxBinding?: number;
}

/** Adapters that choices of tilings tell apart. */
export type AdapterKind = "llvmpipe" | "swiftshader" | "gpu";

/** Whether an adapter is one of the two in software, whose lanes are a processor's vector, or a GPU. */
export function adapterKind({ name }: Pick<Gpu, "name">): AdapterKind {
  return /llvmpipe/i.test(name) ? "llvmpipe" : /swiftshader/i.test(name) ? "swiftshader" : "gpu";
}

let current: Gpu | undefined;

/**
 * Opens the adapter's device and makes it the one that tensors use. Calling it again returns the open one,
 * unless options are given.
 *
 * @throws NibbleError `gpu/no-adapter` where WebGPU finds no adapter
 * @example
 * ```ts
 * import { openGpu } from "./device.ts";
 * const gpu = await openGpu();
 * if (!gpu.name) throw new Error("an adapter has a name");
 * ```
 */
export async function openGpu(options?: GpuOptions): Promise<Gpu> {
  if (current && !options) return current;
  const before = current;
  current?.close();
  current = await open(options ?? {});
  // what was measured on an adapter holds for another device on it, unless that one offers less
  if (before?.name === current.name && !options?.defaultLimits) current.choices = before.choices;
  return current;
}

/** The open device. Throws when {@link openGpu} was not awaited before. */
export function gpu(): Gpu {
  if (!current) {
    throw new NibbleError("gpu/not-open", "No GPU device is open", {
      remedy: "Call `await device()` first.",
    });
  }
  return current;
}

/** Makes another device the current one while `work` runs. */
export async function withGpu<T>(other: Gpu, work: () => Promise<T> | T): Promise<T> {
  const before = current;
  current = other;
  try {
    return await work();
  } finally {
    current = before;
  }
}

async function open(options: GpuOptions): Promise<Gpu> {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new NibbleError("gpu/no-adapter", "WebGPU finds no adapter on this machine", {
      remedy:
        "Run `deno task doctor`, which installs a software adapter; on Debian: apt-get install mesa-vulkan-drivers.",
    });
  }
  const { device, subgroups, octets } = await requestDevice(adapter, options.defaultLimits ?? false);
  const problems: NibbleError[] = [];
  let closed = false;
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault();
    const message = (event as GPUUncapturedErrorEvent).error.message;
    problems.push(new NibbleError("gpu/invalid", `The GPU reported an error: ${message}`));
  });
  device.addEventListener("nibble-kernel-error", (event) => {
    problems.push(new NibbleError("gpu/kernel", `Cannot compile a kernel: ${(event as ErrorEvent).message}`));
  });
  device.lost.then((info) => {
    if (!closed) {
      problems.push(
        new NibbleError("gpu/lost", `The GPU device was lost: ${info.message || info.reason}`, {
          remedy: "Start again with resume_from_checkpoint; use a smaller batch if memory ran out.",
        }),
      );
    }
  });
  const check = () => {
    const first = problems.shift();
    if (first) throw first;
  };
  const debug = environment("NIBBLE_DEBUG")?.split(",").includes("kernels") ?? false;
  const stream = createStream(device, check, 64);
  const kernels = createRunner(device, stream, debug);
  const pool = createPool(
    device,
    options.budgetBytes ?? Infinity,
    () => stream.flush(),
    (id) => kernels.forget(id),
  );
  return {
    name: adapter.info.description || adapter.info.device || adapter.info.vendor || "unknown adapter",
    vendor: adapter.info.vendor,
    features: {
      f16: device.features.has("shader-f16"),
      subgroups,
      octets,
      timestamps: device.features.has("timestamp-query"),
    },
    limits: device.limits,
    maxBinding: Math.min(options.maxBinding ?? Infinity, device.limits.maxStorageBufferBindingSize),
    device,
    choices: new Map(),
    pool,
    stream,
    kernels,
    check,
    close() {
      closed = true;
      pool.trim();
      device.destroy();
      if (current?.device === device) current = undefined;
    },
  };
}

/** The environment variable, or undefined where reading it is not permitted. */
export function environment(name: string): string | undefined {
  try {
    return Deno.env.get(name);
  } catch {
    return undefined;
  }
}

const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupsPerDimension",
] as const;

async function requestDevice(
  adapter: GPUAdapter,
  defaults: boolean,
): Promise<{ device: GPUDevice } & Subgroups> {
  if (defaults) return { device: await adapter.requestDevice(), ...NO_SUBGROUPS };
  const requiredLimits: Record<string, number> = {};
  for (const name of LIMITS) requiredLimits[name] = adapter.limits[name];
  const features = (["shader-f16", "timestamp-query"] as GPUFeatureName[]).filter((f) =>
    adapter.features.has(f)
  );
  // Deno leaves `subgroups` out of adapter.features although the device can be had with it: so try.
  for (const extra of [["subgroups" as GPUFeatureName], []]) {
    try {
      const device = await adapter.requestDevice({
        requiredFeatures: [...features, ...extra],
        requiredLimits,
      });
      if (extra.length === 0) return { device, ...NO_SUBGROUPS };
      const found = await probeSubgroups(device);
      if (found.subgroups) return { device, ...found };
      device.destroy();
    } catch {
      // refused with this feature: the next round asks without
    }
  }
  return { device: await adapter.requestDevice({ requiredLimits }), ...NO_SUBGROUPS };
}

type Subgroups = Pick<GpuFeatures, "subgroups" | "octets">;
const NO_SUBGROUPS: Subgroups = { subgroups: false, octets: false };

const SUBGROUP_PROBE = `
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64) fn main(
  @builtin(local_invocation_index) i: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) id: u32,
) {
  let octet = id - id % 8u;
  let works = subgroupAdd(1u) == size;
  let mirrored = subgroupShuffle(i, octet + 7u - id % 8u) == i - i % 8u + 7u - i % 8u;
  y[i] = u32(works) + 2u * u32(works && size % 8u == 0u && id % 8u == i % 8u && mirrored);
}`;

async function probeSubgroups(device: GPUDevice): Promise<Subgroups> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: SUBGROUP_PROBE });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const y = device.createBuffer({ size: 256, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const out = device.createBuffer({ size: 256, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const entries = [{ binding: 0, resource: { buffer: y } }];
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(y, 0, out, 0, 256);
  device.queue.submit([encoder.finish()]);
  const failed = await device.popErrorScope();
  if (failed) return NO_SUBGROUPS;
  await out.mapAsync(GPUMapMode.READ);
  const found = [...new Uint32Array(out.getMappedRange())];
  out.unmap();
  y.destroy();
  out.destroy();
  return { subgroups: found.every((v) => v & 1), octets: found.every((v) => v & 2) };
}
