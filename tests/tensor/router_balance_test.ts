import assert from "node:assert/strict";
import { add } from "../../lib/tensor/ops/pointwise.ts";
import { routerBalance } from "../../lib/tensor/ops/router_balance.ts";
import { checkpoint, differentiate } from "../../lib/tensor/tape.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

/** Transformers' `load_balancing_loss_func` over layers of `[rows, E]`, padding left out. */
function naive(layers: Float64Array[], segments: Uint32Array, experts: number, k: number): number {
  const taken = new Float64Array(experts), probability = new Float64Array(experts);
  let n = 0;
  for (const x of layers) {
    segments.forEach((segment, i) => {
      if (segment === 0) return;
      n++;
      const row = [...x.subarray(i * experts, (i + 1) * experts)];
      const total = row.reduce((sum, v) => sum + Math.exp(v), 0);
      row.forEach((v, e) => probability[e]! += Math.exp(v) / total);
      row.map((_, e) => e).sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k).forEach((e) => taken[e]!++);
    });
  }
  return experts * taken.reduce((sum, f, e) => sum + f / n * probability[e]! / n, 0);
}

for (const [rows, experts, k] of [[1, 2, 1], [93, 8, 2], [172, 5, 3]] as const) {
  for (const checkpointed of [false, true]) {
    gpuTest(
      `loss and gradient of ${rows} rows, ${k} of ${experts}${checkpointed ? ", run again" : ""}`,
      async () => {
        const weight = 7, size = rows * experts;
        const data = [11, 12].map((seed) => randoms(size, seed).map((v) => 2 * v));
        const segments = Uint32Array.from(
          { length: rows },
          (_, i) => rows > 1 && i % 7 === 3 ? 0 : 1 + i % 2,
        );
        const dy = randoms(size, 13);
        const { stats, gradients } = scope(() => {
          const layers = data.map((d) => {
            const t = tensor(d, [rows, experts]);
            t.requiresGrad = true;
            return t;
          });
          const balance = routerBalance({ layers: 2, experts, k, weight }, tensor(segments, [rows]));
          const run = (i: number) => (x: Tensor) => balance.apply(i, x);
          const { gradients } = differentiate(
            () => {
              const [a, b] = layers.map((x, i) => checkpointed ? checkpoint(run(i), [x]) : run(i)(x));
              return add(a!, b!);
            },
            tensor(dy, [rows, experts]),
            layers,
          );
          const stats = tensor([3, 5], [1, 2]);
          balance.addTo(stats);
          return { stats, gradients: gradients.map((g) => g!) };
        });
        const x = data.map((d) => Float64Array.from(d));
        const loss = () => weight * naive(x, segments, experts, k);
        // sums of up to 2 * 172 terms of at most 1, then a product of means
        const tolerance = 8 * EPS * Math.sqrt(2 * rows) * weight * experts;
        assertClose(await stats.data(), [3 + loss(), 5], tolerance + 16 * EPS, "loss");
        const h = 1e-6;
        for (const [layer, g] of gradients.entries()) {
          const want = Array.from(x[layer]!, (v, i) => {
            const at = (value: number) => {
              x[layer]![i] = value;
              return loss();
            };
            const slope = (at(v + h) - at(v - h)) / (2 * h);
            x[layer]![i] = v;
            return dy[i]! + slope;
          });
          assertClose(await g.data(), want, tolerance / rows + 1e-7, `dx of layer ${layer}`);
          g.dispose();
        }
        stats.dispose();
      },
    );
  }
}

gpuTest("the comparison can fail: padding that counts", async () => {
  const data = randoms(40, 11), segments = Uint32Array.of(1, 1, 0, 0, 1, 1, 1, 1, 1, 1);
  const stats = scope(() => {
    const balance = routerBalance(
      { layers: 1, experts: 4, k: 2, weight: 1 },
      tensor(segments.map(() => 1), [10]),
    );
    balance.apply(0, tensor(data, [10, 4]));
    const stats = tensor([0], [1]);
    balance.addTo(stats);
    return stats;
  });
  const off = (await stats.data())[0]! - naive([Float64Array.from(data)], segments, 4, 2);
  assert.ok(Math.abs(off) > 1e-3);
  stats.dispose();
});

gpuTest("logits of another batch are refused", () => {
  const wrong = () =>
    scope(() => {
      const balance = routerBalance(
        { layers: 1, experts: 4, k: 2, weight: 1 },
        tensor(Uint32Array.of(1, 1), [2]),
      );
      balance.apply(0, tensor(randoms(12, 1), [3, 4]));
    });
  refused(wrong, "tensor/shape", /\[3,4\] of 2 rows, 4 experts/);
});
