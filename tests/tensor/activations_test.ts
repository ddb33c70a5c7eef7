import assert from "node:assert/strict";
import { linear } from "../../lib/tensor/ops/linear.ts";
import {
  type Activation,
  activation,
  addInto,
  gated,
  gelu,
  isActivation,
  softcap,
} from "../../lib/tensor/ops/pointwise.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

const tol = (n: number) => 16 * EPS * (n + 4);

/** The normal distribution function in f64: Kummer's series inside (Abramowitz and Stegun 26.2.11), the continued fraction outside (26.2.14). */
function cdf(x: number): number {
  const density = Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
  if (Math.abs(x) < 5) {
    let sum = 0, term = x;
    for (let k = 1; Math.abs(term) > 1e-18 * Math.abs(sum); k++) {
      sum += term;
      term *= x * x / (2 * k + 1);
    }
    return 0.5 + density * sum;
  }
  let fraction = 0;
  for (let k = 60; k > 0; k--) fraction = k / (Math.abs(x) + fraction);
  const tail = density / (Math.abs(x) + fraction);
  return x > 0 ? 1 - tail : tail;
}
const exact = (x: number) => x * cdf(x);
const tanhForm = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const silu = (x: number) => x / (1 + Math.exp(-x));
const relu = (x: number) => Math.max(x, 0);

const FORMULAS: Record<Activation, (x: number) => number> = {
  silu,
  swish: silu,
  gelu: exact,
  gelu_new: tanhForm,
  gelu_fast: tanhForm,
  gelu_pytorch_tanh: tanhForm,
  relu,
};

gpuTest("every activation that config.json may name, alone and gated", async () => {
  for (const [name, f] of Object.entries(FORMULAS) as [Activation, (x: number) => number][]) {
    assert.ok(isActivation(name));
    // ±4 reaches both branches of gelu; odd and a multiple of four, so that both element types run
    for (const n of [93, 172]) {
      const data = randoms(n, 3).map((v) => Math.fround(4 * v));
      await checkGradients(
        `${name} ${n}`,
        [{ name: "a", shape: [n], data }],
        (a) => activation(name, a),
        (a) => a.map(f),
        tol(16),
      );
      await checkGradients(
        `gated ${name} ${n}`,
        [{ name: "a", shape: [n], data }, { name: "b", shape: [n] }],
        (a, b) => gated(name, a, b),
        (a, b) => a.map((v, i) => f(v) * b[i]!),
        tol(16),
      );
    }
  }
  assert.ok(!isActivation("toString") && !isActivation("geluu"));
});

gpuTest("gelu is exact to a few units, in its tail relative to it", async () => {
  const x = Float32Array.from({ length: 4097 }, (_, i) => -8 + i / 256);
  const y = scope(() => gelu(tensor(x, [x.length])));
  const got = await y.data();
  y.dispose();
  for (const [i, v] of x.entries()) {
    const want = exact(v);
    // WGSL's exp may err by 3 + 2 |x^2 / 2| units of its result; the rest is 8 roundings and a fit good to 1e-7
    const bound = Math.abs(want) * ((3 + v * v + 8) * 2 * EPS + 1e-7) + Math.abs(v) * 2 * EPS;
    const relative = v < -1 ? Math.abs(want) * ((3 + v * v + 8) * 2 * EPS + 4e-7) : bound;
    assert.ok(Math.abs(got[i]! - want) <= relative, `gelu(${v}) = ${got[i]}, not ${want}: bound ${relative}`);
  }
});

gpuTest("gelu and its tanh form differ, and the check sees it", async () => {
  const data = randoms(93, 3).map((v) => Math.fround(4 * v));
  const inputs = [{ name: "a", shape: [93], data }];
  await assert.rejects(
    checkGradients("control", inputs, (a) => gelu(a), (a) => a.map(tanhForm), tol(16)),
    /control: y/,
  );
  const far = scope(() => gelu(tensor([-1e4, -50, 50, 1e4], [4])));
  assert.deepEqual([...await far.data()].map((v) => v + 0), [0, 0, 50, 1e4]);
  far.dispose();
});

gpuTest("softcap bends towards its cap", async () => {
  const data = randoms(93, 6).map((v) => Math.fround(60 * v));
  const f = (x: number) => 30 * Math.tanh(x / 30);
  // values up to 30
  await checkGradients(
    "softcap",
    [{ name: "a", shape: [93], data }],
    (a) => softcap(a, 30),
    (a) => a.map(f),
    30 * tol(4),
  );
  const y = scope(() => softcap(tensor([1e6, -1e6], [2]), 50));
  assertClose(await y.data(), [50, -50], 50 * 4 * EPS, "far out");
  y.dispose();
});

gpuTest("a linear layer with a bias, and its column sums", async () => {
  for (const [m, n, k] of [[1, 1, 1], [5, 13, 7], [93, 172, 12]] as const) {
    const inputs = [{ name: "x", shape: [m, k] }, { name: "w", shape: [n, k] }, { name: "b", shape: [n] }];
    const oracle = (x: Float64Array, w: Float64Array, b: Float64Array) =>
      Float64Array.from({ length: m * n }, (_, at) => {
        const i = Math.floor(at / n), j = at % n;
        let sum = b[j]!;
        for (let c = 0; c < k; c++) sum += x[i * k + c]! * w[j * k + c]!;
        return sum;
      });
    if (m * n * k < 1000) {
      await checkGradients(
        `linear ${m}x${n}x${k}`,
        inputs,
        (x, w, b) => linear(x, w, b),
        oracle,
        tol(Math.max(m, n, k)),
      );
      continue;
    }
    // central differences over every element would take minutes here: the bias alone trains
    const frozen = inputs.map((input, i) => ({ ...input, frozen: i < 2 }));
    await checkGradients(`linear ${m}x${n}x${k}`, frozen, (x, w, b) => linear(x, w, b), oracle, tol(m));
  }
  scope(() => {
    const y = tensor(randoms(6, 1), [2, 3]);
    refused(() => addInto(y, tensor([1, 2], [2])), "tensor/shape", /broadcast \[2\] to \[2,3\]/);
    const w = tensor(randoms(6, 1), [2, 3]), b = tensor(randoms(3, 1), [3]) as Tensor;
    refused(() => linear(y, w, b), "tensor/shape", /y \[2,2\], bias \[3\]/);
  });
});
