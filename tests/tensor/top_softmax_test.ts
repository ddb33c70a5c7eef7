import assert from "node:assert/strict";
import { topSoftmax } from "../../lib/tensor/ops/top_softmax.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

/** By sorting: softmax over all, cut to the largest k, divided by their sum. */
function naive(x: Float64Array, columns: number, k: number): Float64Array {
  const y = new Float64Array(x.length);
  for (let base = 0; base < x.length; base += columns) {
    const row = [...x.subarray(base, base + columns)];
    const order = row.map((_, c) => c).sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k);
    const total = row.reduce((sum, v) => sum + Math.exp(v), 0);
    const kept = order.reduce((sum, c) => sum + Math.exp(row[c]!) / total, 0);
    for (const c of order) y[base + c] = Math.exp(row[c]!) / total / kept;
  }
  return y;
}

// exp, a sum of at most 172 and a division: each within a few units; gradients sum 172 products more
const tolerance = (columns: number) => 16 * EPS * (columns + 4);

for (const [rows, columns, k] of [[1, 1, 1], [3, 8, 2], [67, 5, 1], [2, 172, 93], [5, 4, 4]] as const) {
  gpuTest(`the ${k} largest of ${columns} in ${rows} rows, and the gradient`, async () => {
    // distinct by more than a central difference moves them, so that no choice flips
    const data = randoms(rows * columns, 3).map((v, i) => Math.fround(v + 0.01 * (i % columns)));
    await checkGradients(
      `top ${k}`,
      [{ name: "x", shape: [rows, columns], data }],
      (x) => topSoftmax(x, k),
      (x) => naive(x, columns, k),
      tolerance(columns),
    );
  });
}

gpuTest("equal elements, large ones, and what is refused", async () => {
  const y = scope(() => topSoftmax(tensor([1, 1, 1, 1e4, -1e4, 9999], [2, 3]), 2));
  const e = Math.exp(-1);
  assertClose(await y.data(), [0.5, 0.5, 0, 1 / (1 + e), 0, e / (1 + e)], 4 * EPS, "first come, first taken");
  y.dispose();
  for (const k of [0, 4, 1.5]) {
    refused(() => scope(() => topSoftmax(tensor([1, 2, 3], [1, 3]), k)), "tensor/shape", /3/);
  }
});

gpuTest("the comparison can fail: one more element than asked", async () => {
  const x = randoms(24, 4);
  const y = scope(() => topSoftmax(tensor(x, [3, 8]), 3));
  const want = naive(Float64Array.from(x), 8, 2);
  const error = (await y.data()).reduce((a, v, i) => Math.max(a, Math.abs(v - want[i]!)), 0);
  assert.ok(error > 100 * tolerance(8));
  y.dispose();
});
