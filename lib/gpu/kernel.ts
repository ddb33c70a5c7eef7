/**
 * Kernels: a WGSL file, specialised and compiled once a variant, launched by the names in the file.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { GpuBuffer, GpuTexture } from "./pool.ts";
import type { CommandStream } from "./stream.ts";
import {
  type Binding,
  type ParamField,
  reflect,
  type Specialization,
  specialize,
  textureLayout,
} from "./wgsl.ts";

/** A kernel file and what was read from it. */
export interface Kernel {
  /** Name in error messages and profiles. */
  readonly name: string;
  /** The WGSL, with what it shares with others. */
  readonly source: string;
  /** Its bindings, by variable name. */
  readonly bindings: readonly Binding[];
  /** Fields of `struct Params`, in their order. */
  readonly params: readonly ParamField[];
}

/** A byte range of a buffer, bound to one name of the kernel. Offsets are multiples of 256. */
export interface BufferRange {
  buffer: GpuBuffer;
  offset?: number;
  bytes?: number;
}

/** One launch, in the kernel's own names. */
export interface LaunchOptions extends Specialization {
  /** Entry point; default `main`. */
  entry?: string;
  /** Fields of `struct Params`, all of them. */
  params?: Record<string, number>;
  /** Storage and texture bindings used by this entry point, by variable name. */
  bind: Record<string, BufferRange | GpuTexture>;
  /** Workgroups in x, y, z. */
  groups: readonly [number, number?, number?];
}

/**
 * Declares a kernel from its file's text.
 *
 * @param shared texts of `wgsl/shared/` that the file uses
 * @example
 * ```ts
 * import { defineKernel } from "./kernel.ts";
 * const k = defineKernel("copy", `
 *   struct Params { n: u32 }
 *   @group(0) @binding(0) var<uniform> p: Params;
 *   @group(0) @binding(1) var<storage, read> x: array<f32>;`);
 * if (k.params[0]?.name !== "n" || k.bindings.length !== 2) throw new Error("not read");
 * ```
 */
export function defineKernel(name: string, source: string, ...shared: string[]): Kernel {
  const whole = [source, ...shared].join("\n");
  return { name, source: whole, ...reflect(whole) };
}

interface Variant {
  id: number;
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
}

/** Compiles kernels and launches them on a stream. */
export interface KernelRunner {
  launch(kernel: Kernel, options: LaunchOptions): void;
  /** Drops bind groups that name a destroyed buffer or texture. */
  forget(id: number): void;
  /** Compiled variants. */
  compiled(): number;
  /** Bind groups made so far; a launch whose buffers were bound together before makes none. */
  bindGroups(): number;
}

/** @param debug prints every launch (`NIBBLE_DEBUG=kernels`) */
export function createRunner(device: GPUDevice, stream: CommandStream, debug: boolean): KernelRunner {
  const variants = new Map<string, Variant>();
  const groups = new Map<string, { group: GPUBindGroup; ids: readonly number[] }>();
  const keysOfBuffer = new Map<number, Set<string>>();
  const limits = device.limits;
  let groupsMade = 0;

  function compile(kernel: Kernel, options: LaunchOptions, key: string): Variant {
    const entry = options.entry ?? "main";
    const code = specialize(kernel.source, options);
    const used = kernel.bindings.filter((b) => b.kind === "uniform" || b.name in options.bind);
    const layout = device.createBindGroupLayout({
      label: kernel.name,
      entries: used.map((b) => ({
        binding: b.index,
        visibility: GPUShaderStage.COMPUTE,
        ...layoutOf(b, code),
      })),
    });
    const label = `${kernel.name}.${entry}`;
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label, code });
    const pipeline = device.createComputePipeline({
      label,
      layout: device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: entry },
    });
    device.popErrorScope().then((error) => {
      if (error) report(kernel, options, `${error.message}\n${keepSource(label, code)}`);
    });
    const variant = { id: variants.size, pipeline, layout };
    variants.set(key, variant);
    return variant;
  }

  function report(kernel: Kernel, options: LaunchOptions, message: string): void {
    device.dispatchEvent(
      new ErrorEvent("nibble-kernel-error", {
        message: describe(kernel, options) + "\n" + message,
      }),
    );
  }

  /**
   * The bytes that a launch may touch: what it asked for is checked, what is bound reaches to the buffer's end, so that
   * one group serves every length that begins there. Parts of one buffer of which one is written are bound as they are,
   * apart.
   */
  function boundRange(range: BufferRange, apart: boolean, name: string, where: () => string) {
    const { buffer, offset = 0 } = range;
    const room = buffer.size - offset, most = limits.maxStorageBufferBindingSize;
    const size = Math.ceil((range.bytes ?? room) / 4) * 4;
    if (size > most || size > room) {
      throw new NibbleError("gpu/bind", `Cannot bind '${name}': ${size} bytes at ${offset}`, {
        where: `${where()}; buffer of ${buffer.size} bytes, ` +
          `${buffer.references} owners, bindings up to ${most}`,
      });
    }
    return { offset, size: apart ? size : Math.min(room, most) };
  }

  function bindGroup(kernel: Kernel, variant: Variant, options: LaunchOptions): GPUBindGroup {
    const where = () => describe(kernel, options);
    const used = kernel.bindings.filter((b) => options.bind[b.name]);
    const ids = used.map(({ name }) => lentOf(options.bind[name]!).id);
    let key = `${variant.id}`;
    const bound = used.map(({ index, name }, i) => {
      const range = options.bind[name]!, id = ids[i]!;
      if (lentOf(range).references <= 0) {
        throw new NibbleError("gpu/released", `Cannot bind '${name}': its buffer was given back`, {
          where: where(),
        });
      }
      const apart = ids.indexOf(id) !== ids.lastIndexOf(id) &&
        used.some(({ kind }, other) => ids[other] === id && kind === "read_write");
      const part = "view" in range ? undefined : boundRange(range, apart, name, where);
      key += part ? `|${id}.${part.offset}.${part.size}` : `|${id}`;
      return { index, range, part };
    });
    const known = groups.get(key);
    if (known) return known.group;
    const entries: GPUBindGroupEntry[] = bound.map(({ index, range, part }) => ({
      binding: index,
      resource: "view" in range ? range.view : { buffer: range.buffer.raw, ...part },
    }));
    for (const b of kernel.bindings.filter(({ kind }) => kind === "uniform")) {
      const size = Math.max(16, Math.ceil(kernel.params.length / 4) * 16);
      entries.push({ binding: b.index, resource: { buffer: stream.uniforms, offset: 0, size } });
    }
    const group = device.createBindGroup({ label: kernel.name, layout: variant.layout, entries });
    groups.set(key, { group, ids });
    for (const id of ids) keysOf(id).add(key);
    groupsMade++;
    return group;
  }

  /** Keys of the groups that name this buffer or texture. */
  function keysOf(id: number): Set<string> {
    const keys = keysOfBuffer.get(id) ?? new Set();
    keysOfBuffer.set(id, keys);
    return keys;
  }

  function uniformBlock(kernel: Kernel, params: Record<string, number>): ArrayBuffer {
    const block = new ArrayBuffer(Math.max(16, Math.ceil(kernel.params.length / 4) * 16));
    const view = new DataView(block);
    kernel.params.forEach(({ name, type }, i) => {
      const value = params[name];
      if (value === undefined || Number.isNaN(value)) {
        throw new NibbleError("gpu/params", `${kernel.name}: parameter '${name}' is missing or NaN`);
      }
      if (type === "f32") view.setFloat32(4 * i, value, true);
      else if (type === "u32") view.setUint32(4 * i, value, true);
      else view.setInt32(4 * i, value, true);
    });
    return block;
  }

  return {
    launch(kernel, options) {
      const [x, y = 1, z = 1] = options.groups;
      if (x === 0 || y === 0 || z === 0) return;
      if (Math.max(x, y, z) > limits.maxComputeWorkgroupsPerDimension) {
        throw new NibbleError(
          "gpu/grid",
          `Grid ${x}x${y}x${z} exceeds ${limits.maxComputeWorkgroupsPerDimension}`,
          {
            where: describe(kernel, options),
          },
        );
      }
      const key = `${kernel.name}.${options.entry ?? "main"}|${JSON.stringify(options.consts ?? 0)}|${
        JSON.stringify(options.types ?? 0)
      }|${Object.keys(options.bind).sort().join()}`;
      const variant = variants.get(key) ?? compile(kernel, options, key);
      const uniform = kernel.params.length > 0;
      if (debug) console.error(`kernel ${describe(kernel, options)}`);
      stream.launch({
        label: `${kernel.name}.${options.entry ?? "main"}`,
        pipeline: variant.pipeline,
        bindGroup: bindGroup(kernel, variant, options),
        uniformOffset: uniform ? stream.uniformSlot(uniformBlock(kernel, options.params ?? {})) : undefined,
        groups: [x, y, z],
      });
    },
    forget(id) {
      for (const key of keysOf(id)) {
        for (const other of groups.get(key)!.ids) if (other !== id) keysOf(other).delete(key);
        groups.delete(key);
      }
      keysOfBuffer.delete(id);
    },
    compiled: () => variants.size,
    bindGroups: () => groupsMade,
  };
}

/** Leaves the text that did not compile, which stands in no file, where its line numbers can be looked up. */
function keepSource(label: string, code: string): string {
  try {
    const path = Deno.makeTempFileSync({ prefix: `nibble-${label}-`, suffix: ".wgsl" });
    Deno.writeTextFileSync(path, code);
    return `specialised text: ${path}`;
  } catch {
    return code; // no place to write: better long than lost
  }
}

/** The buffer or texture that is bound. */
function lentOf(range: BufferRange | GpuTexture): GpuBuffer | GpuTexture {
  return "view" in range ? range : range.buffer;
}

/** The kind of resource that a binding of a specialised text takes. */
function layoutOf(b: Binding, code: string): Partial<GPUBindGroupLayoutEntry> {
  if (b.kind === "texture") return textureLayout(code, b.name);
  if (b.kind === "uniform") return { buffer: { type: "uniform", hasDynamicOffset: true } };
  return { buffer: { type: b.kind === "read" ? "read-only-storage" : "storage" } };
}

function describe(kernel: Kernel, options: LaunchOptions): string {
  const show = (o: object | undefined) => o ? JSON.stringify(o).replaceAll('"', "") : "";
  const bound = Object.entries(options.bind)
    .map(([name, r]) => `${name}:${"view" in r ? r.size : r.bytes ?? r.buffer.size - (r.offset ?? 0)}B`).join(
      " ",
    );
  return `${kernel.name}.${options.entry ?? "main"} ${show(options.consts)}${show(options.types)} params ${
    show(options.params)
  } bind ${bound} groups ${options.groups.join("x")}`;
}
