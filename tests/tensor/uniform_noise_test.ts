import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { uniformNoise } from "../../lib/tensor/ops/uniform_noise.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";

/** PCG's output permutation over a 32-bit state (Jarzynski and Olano 2020), in exact integers. */
function pcg(v: number): number {
  const state = (Math.imul(v, 747796405) + 2891336453) >>> 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}

const oracle = (x: Float32Array, magnitude: number, seed: number) =>
  x.map((value, i) => value + magnitude * ((pcg((i ^ pcg(seed)) >>> 0) >>> 8) * 2 ** -23 - 1));

async function noisy(shape: number[], magnitude: number, seed: number) {
  const x = randoms(shape.reduce((a, b) => a * b), 7);
  const y = scope(() => uniformNoise(tensor(x, shape), magnitude, seed));
  const got = await y.data();
  y.dispose();
  return { x, got };
}

for (const shape of [[1, 1], [7, 13], [3, 93], [172, 5], [9, 64]]) {
  gpuTest(`noise on [${shape}] is the oracle's, element by element`, async () => {
    const { x, got } = await noisy(shape, 0.25, 12345);
    // one rounding of the product, one of the sum, both of numbers below 1.25
    oracle(x, 0.25, 12345).forEach((want, i) =>
      assert.ok(Math.abs(got[i]! - want) <= 2 ** -23, `${i}: ${got[i]} ${want}`)
    );
  });
}

gpuTest(
  "noise: the same seed draws the same, another one other numbers, and none leaves its bounds",
  async () => {
    const { x, got } = await noisy([40, 50], 0.5, 1);
    assert.deepEqual((await noisy([40, 50], 0.5, 1)).got, got);
    const { got: other } = await noisy([40, 50], 0.5, 2);
    const drawn = (y: Float32Array) => y.map((v, i) => v - x[i]!);
    assert.ok(other.filter((v, i) => v === got[i]).length < 20, "2,000 numbers of two seeds");
    for (const y of [drawn(got), drawn(other)]) {
      assert.ok(y.every((v) => Math.abs(v) <= 0.5 + 2 ** -23));
      const mean = y.reduce((a, b) => a + b) / y.length;
      const square = y.reduce((a, b) => a + b * b, 0) / y.length;
      // the mean of 2,000 has deviation 0.5 / sqrt(3 * 2000) = 0.0065, the mean square 0.0833 +- 0.0017: five of each
      assert.ok(Math.abs(mean) < 0.033, `mean ${mean}`);
      assert.ok(Math.abs(square - 0.25 / 3) < 0.009, `mean square ${square}`);
    }
  },
);

gpuTest("noise: the gradient passes as it is", async () => {
  const dy = randoms(7 * 13, 3);
  const { gradient, output } = scope(() => {
    const x = tensor(randoms(7 * 13, 4), [7, 13]);
    x.requiresGrad = true;
    const { output, gradients } = differentiate(() => uniformNoise(x, 0.1, 9), tensor(dy, [7, 13]), [x]);
    return { output, gradient: gradients[0]! };
  });
  assert.deepEqual(await gradient.data(), dy);
  output.dispose();
  gradient.dispose();
  await gpu().stream.fence();
});
