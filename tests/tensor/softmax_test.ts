import assert from "node:assert/strict";
import { softmax } from "../../lib/tensor/ops/softmax.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { checkGradients, EPS, gpuTest, randoms } from "../gpu_helper.ts";

// exp of numbers in ±1, a sum of n of them, a division; in the backward one more sum of n
const tol = (n: number) => 16 * EPS * (n + 4);

const oracle = (columns: number, slip = 0) => (x: Float64Array) =>
  x.map((v, i) => {
    const from = i - i % columns;
    let total = slip;
    for (let c = 0; c < columns; c++) total += Math.exp(x[from + c]!);
    return Math.exp(v) / total;
  });

gpuTest("softmax and its gradient at odd shapes", async () => {
  for (const [rows, columns] of [[1, 1], [3, 7], [5, 93], [2, 172], [70, 8]] as const) {
    const inputs = [{ name: "x", shape: [rows, columns] }];
    await checkGradients(`softmax ${rows}x${columns}`, inputs, softmax, oracle(columns), tol(columns));
  }
});

gpuTest("softmax stays finite, and shares among equals", async () => {
  const y = scope(() => softmax(tensor([3e38, 3e38, -3e38, -1e30, -1e30, -1e30], [2, 3])));
  assert.deepEqual([...await y.data()].map((v) => Math.round(v * 1e6)), [
    500000,
    500000,
    0,
    333333,
    333333,
    333333,
  ]);
  y.dispose();
});

gpuTest("softmax over more rows than one dimension of a grid holds", async () => {
  const rows = 65535 + 17, x = randoms(2 * rows, 4);
  const y = scope(() => softmax(tensor(x, [rows, 2])));
  const got = await y.data();
  y.dispose();
  const want = oracle(2)(Float64Array.from(x));
  for (const row of [0, 65534, 65535, rows - 1]) {
    assert.ok(Math.abs(got[2 * row]! - want[2 * row]!) < tol(2), `row ${row}: ${got[2 * row]}`);
  }
});

gpuTest("softmax: the check catches a sum that counts one too many", async () => {
  const inputs = [{ name: "x", shape: [3, 7] }];
  await assert.rejects(checkGradients("control", inputs, softmax, oracle(7, 1e-3), tol(7)), /control: y/);
});
