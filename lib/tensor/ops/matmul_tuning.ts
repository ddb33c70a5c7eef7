/**
 * What the tuner tries for matrix products: configurations by adapter, layout and class, and a typical work for each.
 * @module
 */
import { type AdapterKind, adapterKind, type Gpu, type Probe, type Tunable } from "../../gpu/mod.ts";
import { empty, tensor } from "../tensor.ts";
import type { MatmulClass } from "./matmul_choice.ts";
import { matmulInto, type MatmulKernel, type MatmulLayout } from "./matmul_kernel.ts";
import { textureFits, type TextureKernel, textureRule, vectorLanes } from "./matmul_texture.ts";
import { deviceHas, isTile, TILES } from "./matmul_tile.ts";

/** Layouts and classes, those that training spends most in first. */
const CLASSES: readonly (readonly [MatmulLayout, MatmulClass])[] = [
  ...[["nt", "large"], ["nn", "large"], ["nt", "medium"], ["nn", "medium"]] as const,
  // through the rank of an adapter, forward and backward
  ...[["nt", "narrow"], ["nn", "narrow"], ["tn", "narrow"], ["tn", "short"]] as const,
  ...[["nt", "shallow"], ["nn", "shallow"], ["nt", "short"], ["nn", "short"]] as const,
  // gradients of dense weights
  ...[["tn", "large"], ["tn", "medium"]] as const,
];

/** Kernels for GPUs; the first is what the rule takes for the class's work, and all fit that work. */
const ON_GPU: Readonly<Record<MatmulClass, readonly MatmulKernel[]>> = {
  large: ["tile64", "tile64r8", "quad64", "quad128x64", "quad128", "subgroup64", "half64", "half128x64"],
  medium: ["tile64", "tile32", "quad32", "quad64", "subgroup64", "half64"],
  short: ["tile32", "tile16", "tile16x64", "quad32", "quad16x64"],
  narrow: ["tile32", "tile16", "tile64x16", "quad32", "quad64x16"],
  shallow: ["tile64", "tile32", "quad64", "strided"],
};

/** The same for llvmpipe, less those that a layout has no room for and the one that `texture` stands for. */
const ON_LLVMPIPE: Readonly<Record<MatmulClass, readonly ("texture" | TextureKernel)[]>> = {
  large: ["texture", "texture32x1", "texture16x2", "texture16x1"],
  medium: ["texture", "texture32x1", "texture16x2", "texture16x1"],
  short: ["texture", "texture16x1", "texture8x2", "texture32x2"],
  narrow: ["texture", "texture16x1", "texture8x2", "texture32x2"],
  shallow: ["texture", "texture32x1", "texture16x2"],
};

/** The same for SwiftShader, which takes seconds to compile a larger one. */
const ON_SWIFTSHADER: Readonly<Record<MatmulClass, readonly MatmulKernel[]>> = {
  large: ["tile64", "tile32", "strided"],
  medium: ["tile64", "tile32", "strided"],
  short: ["tile32", "tile16", "strided"],
  narrow: ["tile32", "tile16", "strided"],
  shallow: ["tile64", "tile32", "strided"],
};

/** M, N, K of a class's work: on a GPU some milliseconds of an integrated one, less on processors. */
const WORKS: Readonly<Record<AdapterKind, Readonly<Record<MatmulClass, [number, number, number]>>>> = {
  gpu: {
    large: [1024, 2048, 512],
    medium: [512, 576, 576],
    short: [16, 2048, 2048],
    narrow: [512, 16, 2048],
    shallow: [512, 2048, 16],
  },
  llvmpipe: {
    large: [512, 1536, 384],
    medium: [448, 640, 512],
    short: [16, 1536, 576],
    narrow: [512, 16, 576],
    shallow: [512, 576, 16],
  },
  swiftshader: {
    large: [512, 1024, 64],
    medium: [448, 640, 96],
    short: [16, 1536, 192],
    narrow: [512, 16, 192],
    shallow: [512, 576, 16],
  },
};

/** M, N, K of the work that stands for a class on an adapter. */
export function workOf(device: Pick<Gpu, "name">, kind: MatmulClass): [number, number, number] {
  return WORKS[adapterKind(device)][kind];
}

/**
 * The products as the tuner takes them, the most important first.
 *
 * @param options `f16`: also tiles that hold operands in f16, where the adapter has it. They round, so they change what
 *   training computes; the others give the same sums in the same order
 */
export function matmulTunables({ f16 = false }: { f16?: boolean | undefined } = {}): Tunable[] {
  return CLASSES.map(([layout, kind]) => ({
    name: `matmul.${layout}.${kind}`,
    candidates: (device) => candidatesFor(device, layout, kind, f16),
    probe: (device) => probe(device, layout, kind),
  }));
}

function candidatesFor(device: Gpu, layout: MatmulLayout, kind: MatmulClass, f16: boolean): MatmulKernel[] {
  const lanes = vectorLanes(device);
  if (lanes > 0) {
    const [M, N] = workOf(device, kind), work = { layout, M, N, wKind: 0, low: undefined } as const;
    const rule = textureRule(work, lanes);
    return ON_LLVMPIPE[kind].filter((name) =>
      name === "texture" || name !== rule && textureFits(name, work, lanes)
    );
  }
  if (adapterKind(device) === "swiftshader") return [...ON_SWIFTSHADER[kind]];
  return ON_GPU[kind].filter((name) =>
    !isTile(name) ||
    deviceHas(device, name) && (f16 || !("f16" in TILES[name])) && (name !== "subgroup64" || layout !== "tn")
  );
}

function probe(device: Gpu, layout: MatmulLayout, kind: MatmulClass): Probe {
  const [M, N, K] = workOf(device, kind);
  const x = tensor(numbers(M * K, 1), layout === "tn" ? [K, M] : [M, K]);
  const w = tensor(numbers(N * K, 2), layout === "nt" ? [N, K] : [K, N]);
  const y = empty([M, N]);
  // K products of numbers below 1 whose sizes add up to K / 4 or little more; each of two sums rounds K times
  const f32 = K * K / 2 * 2 ** -24;
  return {
    run: (kernel) => matmulInto({ layout, x, w, y, kernel: kernel as MatmulKernel }),
    result: y.range,
    // two operands that are off by 2^-11 of themselves
    tolerance: (kernel) => isTile(kernel) && "f16" in TILES[kernel] ? f32 + K / 3 * 2 ** -10 : f32,
    flops: 2 * M * N * K,
    dispose: () => [x, w, y].forEach((t) => t.dispose()),
  };
}

/** Seeded numbers, uniform in ±1, for probes. */
export function numbers(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = seed;
  return Float32Array.from({ length: n }, () => (s = (Math.imul(s, 1664525) + 1013904223) | 0) / 2 ** 31);
}
