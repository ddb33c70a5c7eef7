/**
 * The runs of tests/parity/optim/make_reference.py again: same parameters, gradients and rates, on our device.
 * @module
 */
import { fromFileUrl } from "@std/path";
import { openSafetensors } from "../../lib/formats/mod.ts";
import {
  createOptimizer,
  createParameterPages,
  type Optimizer,
  type OptimizerSettings,
  type ParameterPages,
  type ParameterSpec,
  type ScheduleKwargs,
} from "../../lib/optim/mod.ts";

/** reference.json. */
export interface Reference {
  steps: number;
  learning_rate: number;
  weight_decay: number;
  small: ParameterSpec[];
  large: ParameterSpec[];
  snapshots: number[];
  /** Rate of each step. */
  rates: number[];
  cases: { optim: string; optim_args: string | null; key: string; norms: number[] }[];
  cases_8bit: string[];
  schedules: {
    name: string;
    kwargs: ScheduleKwargs | null;
    total: number;
    warmup: number;
    rates: number[];
  }[];
  decayed: Record<string, Record<string, boolean>>;
}

const at = (name: string) => fromFileUrl(new URL(`../parity/optim/${name}`, import.meta.url));

export const reference: Reference = JSON.parse(Deno.readTextFileSync(at("reference.json")));
/** Trainer's embedding is the one whose state stays in 32 bits. */
export const LARGE = reference.large.map((s) => s.name === "embed" ? { ...s, optim_bits: 32 as const } : s);

/** Reads arrays of reference.safetensors. */
export function readReference<T>(read: (source: ReturnType<typeof openSafetensors>) => T): T {
  const source = openSafetensors(at("reference.safetensors"));
  try {
    return read(source);
  } finally {
    source.close();
  }
}

export const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

function noise(n: number, seed: number): Float64Array {
  let s = (seed * 2654435761) >>> 0;
  return Float64Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return (s / 2 ** 32) * 2 - 1;
  });
}

/** Parameter `i` before the first step. */
export function startOf(i: number, { shape }: ParameterSpec): Float32Array<ArrayBuffer> {
  return Float32Array.from(noise(sizeOf(shape), 100 + i));
}

/** Its gradient in a step, from 1. */
export function gradientOf(
  i: number,
  { shape }: ParameterSpec,
  step: number,
  clipped: boolean,
): Float32Array<ArrayBuffer> {
  const factor = clipped ? (step % 3 === 0 ? 3 : 0.02) : 1;
  const x = noise(sizeOf(shape), 1000 * step + i).map((v) => v * v * v * v * v * factor);
  for (let k = (step * 7) % x.length; x.length > 1 && k < x.length; k += 11) x[k] = 0;
  return Float32Array.from(x);
}

/** Settings of every run of the reference. */
export function settingsOf(optim: string, optim_args: string | null, clipped: boolean): OptimizerSettings {
  return { optim, optim_args, weight_decay: reference.weight_decay, max_grad_norm: clipped ? 1 : 0 };
}

/** A run in progress. */
export interface Walk {
  pages: ParameterPages;
  optimizer: Optimizer;
  /** Takes the steps `[from, to]`, counted from 1. */
  advance(from: number, to: number): Promise<void>;
  values(): Promise<Float32Array[]>;
  dispose(): void;
}

/** Parameters at their start under an optimizer. */
export function startWalk(specs: readonly ParameterSpec[], settings: OptimizerSettings): Walk {
  const pages = createParameterPages(specs, "adapter");
  specs.forEach((s, i) => pages.tensors.get(s.name)!.write(startOf(i, s)));
  const optimizer = createOptimizer(pages, settings);
  const clipped = settings.max_grad_norm !== 0;
  return {
    pages,
    optimizer,
    async advance(from, to) {
      for (let step = from; step <= to; step++) {
        specs.forEach((s, i) => pages.tensors.get(s.name)!.grad!.write(gradientOf(i, s, step, clipped)));
        await optimizer.step({ lr: reference.rates[step - 1]!, step, gradScale: 1 });
      }
    },
    values: () => Promise.all(specs.map((s) => pages.tensors.get(s.name)!.data())),
    dispose() {
      optimizer.dispose();
      pages.dispose();
    },
  };
}

/** Saved state by name, each array whole. */
export async function stateOf(
  { optimizer }: Pick<Walk, "optimizer">,
): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const saved = await optimizer.saveState();
  return new Map(saved.map(({ name, data }) => [name, new Uint8Array(data.flatMap((piece) => [...piece]))]));
}

/** Parameters and state of the large specs after three steps. */
export async function threeSteps(optim: string) {
  const walk = startWalk(LARGE, { optim, weight_decay: 0.1 });
  await walk.advance(1, 3);
  const out = { values: await walk.values(), state: await stateOf(walk) };
  walk.dispose();
  return out;
}
