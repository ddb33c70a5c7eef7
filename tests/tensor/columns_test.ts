import assert from "node:assert/strict";
import { splitColumns } from "../../lib/tensor/ops/columns.ts";
import { add, mul, scale } from "../../lib/tensor/ops/pointwise.ts";
import { checkpoint, differentiate } from "../../lib/tensor/tape.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

for (const rows of [1, 7, 93]) {
  gpuTest(`a fused projection of ${rows} rows is cut, and its gradient gathered`, async () => {
    // one element of a sum of three products of numbers in ±1
    await checkGradients(
      "split",
      [{ name: "x", shape: [rows, 5 + 5 + 3] }],
      (x) => {
        const [q, k] = splitColumns(scale(x, 1), [5, 5, 3]); // the last part is used by nobody
        return add(mul(q!, k!), k!);
      },
      (x) =>
        Float64Array.from({ length: rows * 5 }, (_, i) => {
          const at = Math.floor(i / 5) * 13 + i % 5;
          return x[at]! * x[at + 5]! + x[at + 5]!;
        }),
      16 * EPS,
    );
  });
}

gpuTest("the gradient is gathered in a checkpoint too, and anew in every pass", async () => {
  const data = randoms(4 * 6, 8);
  const results = scope(() => {
    const x = tensor(data, [4, 6]);
    x.requiresGrad = true;
    const work = (t: typeof x) => {
      const [a, b] = splitColumns(scale(t, 1), [2, 4]);
      const [, d] = splitColumns(b!, [2, 2]);
      return add(mul(a!, a!), d!);
    };
    const dy = tensor(new Float32Array(8).fill(1), [4, 2]);
    return [false, true, false].flatMap((again) =>
      differentiate(() => again ? checkpoint(work, [x]) : work(x), dy, [x]).gradients.map((g) => g!)
    );
  });
  const want = Array.from(data, (v, i) => [2 * v, 2 * v, 0, 0, 1, 1][i % 6]!);
  for (const g of results) {
    assertClose(await g.data(), want, 2 * EPS, "dx");
    g.dispose();
  }
  assert.equal(results.length, 3);
});

gpuTest("widths that do not add up are refused", () => {
  refused(() => scope(() => splitColumns(tensor(randoms(6, 1), [1, 6]), [2, 3])), "tensor/shape", /2 \+ 3/);
});
