import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { layerNorm } from "../../lib/tensor/ops/layer_norm.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

// Two sums over a row, of squares of the order of 1 each, and for dw and db a sum over the rows; r <= 1 / sqrt(eps)
// never comes into play but for a single column, where y = b exactly. A few units for the root and the division.
const tol = (n: number) => 16 * EPS * (n + 4);
const SHAPES = [[1, 1], [3, 7], [5, 93], [2, 172], [41, 12]] as const;

function oracle(eps: number, columns: number) {
  return (x: Float64Array, w: Float64Array, b?: Float64Array) =>
    x.map((v, i) => {
      const row = x.subarray(i - i % columns, i - i % columns + columns);
      const mean = row.reduce((a, u) => a + u, 0) / columns;
      const variance = row.reduce((a, u) => a + (u - mean) ** 2, 0) / columns;
      return (v - mean) / Math.sqrt(variance + eps) * w[i % columns]! + (b ? b[i % columns]! : 0);
    });
}

for (const biased of [true, false]) {
  gpuTest(`layerNorm ${biased ? "with" : "without"} bias at odd shapes`, async () => {
    for (const [rows, columns] of SHAPES) {
      const inputs = [{ name: "x", shape: [rows, columns] }, { name: "w", shape: [columns] }];
      if (biased) inputs.push({ name: "b", shape: [columns] });
      await checkGradients(
        `layerNorm ${rows}x${columns}`,
        inputs,
        (x, w, b) => layerNorm(x!, w!, b, 1e-3),
        oracle(1e-3, columns) as (...x: Float64Array[]) => Float64Array,
        tol(Math.max(rows, columns)),
      );
    }
  });
}

gpuTest("layerNorm: a frozen weight and bias take no launch", async () => {
  const x = { name: "x", shape: [9, 20] };
  const w = { name: "w", shape: [20], frozen: true }, b = { name: "b", shape: [20], frozen: true };
  await checkGradients(
    "frozen",
    [x, w, b],
    (...t) => layerNorm(t[0]!, t[1]!, t[2], 1e-3),
    oracle(1e-3, 20),
    tol(20),
  );
  const launches = (trained: boolean) =>
    scope(() => {
      const t = [
        tensor(randoms(180, 1), [9, 20]),
        tensor(randoms(20, 2), [20]),
        tensor(randoms(20, 3), [20]),
      ];
      t[0]!.requiresGrad = true;
      t[1]!.requiresGrad = t[2]!.requiresGrad = trained;
      const before = gpu().stream.counters().dispatches;
      const { output, gradients } = differentiate(
        () => layerNorm(t[0]!, t[1]!, t[2], 1e-3),
        tensor(randoms(180, 4), [9, 20]),
        t,
      );
      for (const g of [output, ...gradients]) g?.dispose();
      return gpu().stream.counters().dispatches - before;
    });
  assert.equal(launches(false), 2, "forward and dx");
  assert.equal(launches(true), 5, "dw and db in slices, and a sum for each");
});

gpuTest("layerNorm keeps its digits where the mean is large", async () => {
  // E[x^2] - E[x]^2 would lose everything: 1e8 against a variance of 1/3
  const x = randoms(172, 8).map((v) => Math.fround(v + 4096));
  const y = scope(() =>
    layerNorm(tensor(x, [1, 172]), tensor(new Float32Array(172).fill(1), [172]), undefined, 0)
  );
  const want = oracle(0, 172)(Float64Array.from(x), new Float64Array(172).fill(1));
  // the mean of 172 numbers near 4096 errs by a rounding of 4096 or so a summand, divided by the count: below 2^-11
  assertClose(await y.data(), want, 2 * 2 ** -11, "y");
  y.dispose();
});

gpuTest("layerNorm: shapes that do not fit are refused", () =>
  scope(() => {
    const x = tensor(randoms(12, 1), [3, 4]), w = tensor(randoms(4, 2), [4]), b = tensor(randoms(3, 2), [3]);
    refused(() => layerNorm(x, b, undefined, 1e-5), "tensor/shape", /x \[3,4\], w \[3\]/);
    refused(() => layerNorm(x, w, b, 1e-5), "tensor/shape", /b \[3\]/);
  }));

gpuTest("layerNorm: the check catches a backward without the mean of the gradient", async () => {
  const wrong = (x: Tensor, w: Tensor) => layerNorm(x, w, undefined, 1e-3);
  // the oracle of RMSNorm differs in just that term and in the mean
  const rms = (x: Float64Array, w: Float64Array) =>
    x.map((v, i) => {
      const row = x.subarray(i - i % 9, i - i % 9 + 9);
      return v / Math.sqrt(row.reduce((a, u) => a + u * u, 0) / 9 + 1e-3) * w[i % 9]!;
    });
  const inputs = [{ name: "x", shape: [4, 9] }, { name: "w", shape: [9] }];
  await assert.rejects(checkGradients("control", inputs, wrong, rms, tol(9)), /control: y/);
});
