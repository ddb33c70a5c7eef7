/**
 * What GPU tests share: the device, seeded numbers, and comparison with derived tolerances.
 * @module
 */
import assert from "node:assert/strict";
import { NibbleError } from "../lib/errors.ts";
import { type Gpu, gpu, type GpuOptions, openGpu } from "../lib/gpu/mod.ts";
import { differentiate } from "../lib/tensor/tape.ts";
import { scope, type Tensor, tensor } from "../lib/tensor/tensor.ts";

/** Unit roundoff of f32. */
export const EPS = 2 ** -24;

let reduced = false;

/** A test on the device: every buffer it makes must be gone at its end, and the device must have nothing to report. */
export function gpuTest(name: string, body: () => Promise<void> | void, options?: GpuOptions): void {
  Deno.test(name, async () => {
    await openGpu(options ?? (reduced ? {} : undefined));
    reduced = options !== undefined;
    const before = gpu().pool.report().liveBytes;
    await body();
    await gpu().stream.fence();
    gpu().check();
    assert.equal(gpu().pool.report().liveBytes, before, "buffers leaked");
  });
}

/** Seeded numbers, uniform in ±1, rounded to f32 so that f64 oracles start from the same values. */
export function randoms(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 31 - 1;
  });
}

/** Asserts |got - want| <= tolerance at every element, and that both are finite. */
export function assertClose(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  assert.equal(got.length, want.length, `${what}: lengths`);
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    assert.ok(
      error <= tolerance,
      `${what}[${i}]: got ${got[i]}, want ${want[i]}, error ${error} > ${tolerance}`,
    );
  }
}

/** Largest |a - b|; NaN where one of them is. */
export function largestError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assert.equal(a.length, b.length);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i]! - b[i]!));
  return worst;
}

/** An input of {@link checkGradients}. */
export interface Input {
  name: string;
  shape: number[];
  /** Default: seeded numbers in ±1. */
  data?: Float32Array<ArrayBuffer>;
  /** Frozen: must get no gradient. */
  frozen?: boolean;
}

/**
 * Compares an operation with a naive f64 oracle, and its gradients with central differences of that oracle.
 *
 * The differences err by h^2 and by 2^-53 / h, both below 1e-9 at h = 1e-5, far under `tolerance`.
 *
 * @param tolerance absolute, on values of the order of 1: a small multiple of EPS times the length of the sums
 */
export async function checkGradients(
  what: string,
  inputs: Input[],
  onGpu: (...t: Tensor[]) => Tensor,
  oracle: (...x: Float64Array[]) => Float64Array | number[],
  tolerance: number,
): Promise<void> {
  const data = inputs.map((input, i) =>
    input.data ?? randoms(input.shape.reduce((a, b) => a * b, 1), i + 1 + what.length)
  );
  const want = oracle(...data.map((d) => Float64Array.from(d)));
  const weights = randoms(want.length, 99);
  const made = scope(() => {
    const tensors = inputs.map((input, i) => {
      const t = tensor(data[i]!, input.shape);
      t.requiresGrad = !input.frozen;
      return t;
    });
    const shape = scope(() => [...onGpu(...tensors).shape]);
    const { output, gradients } = differentiate(() => onGpu(...tensors), tensor(weights, shape), tensors);
    return { output, gradients: gradients.map((g) => g ?? []) };
  });
  try {
    assertClose(await made.output.data(), want, tolerance, `${what}: y`);
    const h = 1e-5;
    for (const [i, input] of inputs.entries()) {
      const gradient = made.gradients[i]!;
      if (input.frozen) {
        assert.ok(Array.isArray(gradient), `${what}: d${input.name} must not exist`);
        continue;
      }
      assert.ok(!Array.isArray(gradient), `${what}: d${input.name} is missing`);
      const x = data.map((d) => Float64Array.from(d));
      const difference = Array.from(x[i]!, (value, k) => {
        const at = (v: number) => {
          x[i]![k] = v;
          return Array.from(oracle(...x)).reduce((sum, y, j) => sum + y * weights[j]!, 0);
        };
        const slope = (at(value + h) - at(value - h)) / (2 * h);
        x[i]![k] = value;
        return slope;
      });
      assertClose(await (gradient as Tensor).data(), difference, tolerance, `${what}: d${input.name}`);
    }
  } finally {
    made.output.dispose();
    for (const g of made.gradients) if (!Array.isArray(g)) g.dispose();
  }
}

/** Asserts that `work` throws a NibbleError of that code whose message matches. */
export function refused(work: () => unknown, code: string, pattern: RegExp): void {
  assert.throws(work, isRefusal(code, pattern));
}

/** {@link refused} for work that takes waiting. */
export async function rejected(work: () => Promise<unknown>, code: string, pattern: RegExp): Promise<void> {
  await assert.rejects(work, isRefusal(code, pattern));
}

const isRefusal = (code: string, pattern: RegExp) => (e: unknown) => {
  assert.ok(e instanceof NibbleError, String(e));
  assert.equal(e.code, code);
  assert.match(e.message, pattern);
  return true;
};

/** Runs `work` as if the adapter were a GPU: with the kernels and the workgroups that one takes. */
export async function asOnGpu<T>(work: () => Promise<T>): Promise<T> {
  const device = gpu() as { -readonly [K in keyof Gpu]: Gpu[K] }, { name } = device;
  device.name = "a GPU, by its name";
  try {
    return await work();
  } finally {
    device.name = name;
  }
}
