/**
 * The loss kernel against the formulas in f64, its gradients against their differences; one sign turned must be seen.
 */
import assert from "node:assert/strict";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { DPO_LOSSES } from "../../lib/train/objectives/losses.ts";
import { type LossParams, preferenceLoss } from "../../lib/train/objectives/preference_loss.ts";
import { assertClose, EPS, gpuTest, randoms } from "../gpu_helper.ts";

type Loss = typeof DPO_LOSSES[number];
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const logSigmoid = (x: number) => -Math.log1p(Math.exp(-x));

/** Loss of one pair from its log-ratios; `kl` are kto_pair's two means. */
const LOSSES: Record<Loss, (c: number, r: number, p: Required<LossParams>, kl: [number, number]) => number> =
  {
    sigmoid: (c, r, { beta: b, smoothing: e }) =>
      -(1 - e) * logSigmoid(b * (c - r)) - e * logSigmoid(-b * (c - r)),
    robust: (c, r, { beta: b, smoothing: e }) =>
      (-(1 - e) * logSigmoid(b * (c - r)) + e * logSigmoid(-b * (c - r))) / (1 - 2 * e),
    hinge: (c, r, { beta: b }) => Math.max(0, 1 - b * (c - r)),
    ipo: (c, r, { beta: b }) => (c - r - 1 / (2 * b)) ** 2,
    exo_pair: (c, r, { beta: b, smoothing: e }) => {
      const x = b * (c - r);
      return sigmoid(x) * (logSigmoid(x) - Math.log(1 - e)) + sigmoid(-x) * (logSigmoid(-x) - Math.log(e));
    },
    nca_pair: (c, r, { beta: b }) => -logSigmoid(b * c) - 0.5 * logSigmoid(-b * c) - 0.5 * logSigmoid(-b * r),
    sppo_hard: (c, r, { beta: b }) => (c - 0.5 / b) ** 2 + (r + 0.5 / b) ** 2,
    apo_zero: (c, r, { beta: b }) => 1 - sigmoid(b * c) + sigmoid(b * r),
    apo_down: (c, r, { beta: b }) => sigmoid(b * c) + 1 - sigmoid(b * (c - r)),
    discopop: (c, r, { beta: b, tau }) => {
      const x = b * (c - r), w = sigmoid(x / tau);
      return -logSigmoid(x) * (1 - w) + Math.exp(-x) * w;
    },
    kto_pair: (c, r, { beta: b }, [chosen, rejected]) =>
      0.5 * (1 - sigmoid(b * (c - rejected)) + 1 - sigmoid(b * (chosen - r))),
  };

const PARAMS: Required<LossParams> = {
  ...{ beta: 0.3, smoothing: 0.1, tau: 0.4, nll: 0.05, desirable: 1.5, undesirable: 0.7 },
};

/** Sums of log-probabilities about -20, and of mean logits about 1. */
function sumsOf(sequences: number, seed: number, around = -20): Float32Array<ArrayBuffer> {
  return randoms(2 * sequences, seed).map((v, i) => Math.fround(i % 2 === 0 ? around + 8 * v : v));
}

/** Stats and gradient as the device computes them. */
async function onDevice(
  ...[entry, o]: [Parameters<typeof preferenceLoss>[0], {
    sums: Float32Array<ArrayBuffer>;
    items: Float32Array<ArrayBuffer>;
    figures: number;
    loss?: number;
    others?: Float32Array<ArrayBuffer>;
    params?: LossParams;
  }]
) {
  const made = scope(() => {
    const sums = tensor(o.sums, [o.sums.length / 2, 2]);
    sums.requiresGrad = true;
    const others = o.others && tensor(o.others, [o.others.length / 2, 2]);
    const { items, figures, loss = 0, params = PARAMS } = o;
    const { output, gradients } = differentiate(
      () => preferenceLoss(entry, { sums, items, figures, loss, params, ...(others ? { others } : {}) }),
      undefined,
      [sums],
    );
    return [output, gradients[0]!];
  });
  const [stats, d] = await Promise.all(made.map((t) => t.data()));
  made.forEach((t) => t.dispose());
  return { stats: stats!, d: d! };
}

/** Slopes of `f` along every second number, the log-probabilities; mean logits have none. */
function slopes(sums: Float32Array, f: (x: Float64Array) => number): number[] {
  const x = Float64Array.from(sums), h = 1e-5;
  return Array.from(x, (value, i) => {
    if (i % 2 === 1) return 0;
    x[i] = value + h;
    const up = f(x);
    x[i] = value - h;
    const down = f(x);
    x[i] = value;
    return (up - down) / (2 * h);
  });
}

// The inputs are of the order of 20, so a difference of two carries 2 * 20 EPS; the squared losses scale that by up
// to twice their root (30), and n of them are added.
const tolerance = (n: number) => 40 * EPS * 60 * n;

for (const [index, name] of DPO_LOSSES.entries()) {
  for (const pairs of [1, 7]) {
    gpuTest(`${name} of ${pairs} pairs: figures and slopes`, async () => {
      // kto_pair: with three seeds both means fall on either side of 0
      for (const seed of name === "kto_pair" ? [1, 2, 3] : [1]) {
        const sums = sumsOf(2 * pairs, seed), other = sumsOf(2 * pairs, seed + 9);
        const tokens = Array.from({ length: 2 * pairs }, (_, i) => 3 + i % 5);
        const items = Float32Array.from(
          Array.from(
            { length: pairs },
            (_, i) => [other[2 * i]!, other[2 * (pairs + i)]!, tokens[i]!, tokens[pairs + i]!],
          ).flat(),
        );
        const ratio = (x: Float64Array, i: number, k: number) => {
          const by = name === "ipo" ? tokens[k * pairs + i]! : 1;
          return (x[2 * (k * pairs + i)]! - items[4 * i + k]!) / by;
        };
        const all = (x: Float64Array, k: number) => Array.from({ length: pairs }, (_, i) => ratio(x, i, k));
        const mean = (list: number[]) => Math.max(0, list.reduce((a, b) => a + b, 0) / list.length);
        const total = (x: Float64Array) => {
          const c = all(x, 0), r = all(x, 1);
          const kl: [number, number] = [mean(c), mean(r)];
          return c.reduce((n, v, i) => n + LOSSES[name](v, r[i]!, PARAMS, kl) - PARAMS.nll * x[2 * i]!, 0);
        };
        const { stats, d } = await onDevice("dpo", { sums, items, figures: 10, loss: index });
        const x = Float64Array.from(sums), c = all(x, 0), r = all(x, 1);
        const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
        const at = (from: number, k: number, scaled = false) =>
          sum(Array.from(
            { length: pairs },
            (_, i) => x[2 * (from + i) + k]! / (scaled && name === "ipo" ? tokens[from + i]! : 1),
          ));
        const want = [
          total(x),
          ...[0.3 * sum(c), 0.3 * sum(r), c.filter((v, i) => v > r[i]!).length, 0.3 * (sum(c) - sum(r))],
          ...[at(0, 0, true), at(pairs, 0, true), at(0, 1), at(pairs, 1), -at(0, 0)],
        ];
        assertClose(stats, want, tolerance(pairs), `${name}: figures`);
        assertClose(d, slopes(sums, total), tolerance(1), `${name}: slopes`);
      }
    });
  }
}

gpuTest("orpo: figures and slopes, for sure and unsure answers", async () => {
  const pairs = 5;
  for (const around of [-20, -1]) {
    // near 0 a log-probability is that of a model which is all but certain
    const sums = sumsOf(3 * pairs, 4, around).map((v, i) => i % 2 === 0 ? Math.min(v, -0.05) : v);
    const tokens = Array.from({ length: 2 * pairs }, (_, i) => 2 + i % 4);
    const items = Float32Array.from(
      Array.from({ length: pairs }, (_, i) => [tokens[i]!, tokens[pairs + i]!, 0, 0]).flat(),
    );
    const parts = (x: Float64Array, i: number) => {
      const c = x[2 * (2 * i + 1)]! / tokens[i]!, r = x[2 * (2 * pairs + i)]! / tokens[pairs + i]!;
      const odds = c - r - Math.log(-Math.expm1(c)) + Math.log(-Math.expm1(r));
      return { c, r, odds, ratio: logSigmoid(odds), nll: -x[4 * i]! - x[4 * i + 2]! };
    };
    const list = (x: Float64Array) => Array.from({ length: pairs }, (_, i) => parts(x, i));
    const total = (x: Float64Array) =>
      list(x).reduce((n, { ratio, nll }) => n + PARAMS.nll * nll - PARAMS.beta * ratio, 0);
    const { stats, d } = await onDevice("orpo", { sums, items, figures: 12 });
    const x = Float64Array.from(sums), all = list(x);
    const sum = (f: (p: typeof all[number]) => number) => all.reduce((n, p) => n + f(p), 0);
    const logits = (at: (i: number) => number) =>
      Array.from({ length: pairs }, (_, i) => x[2 * at(i) + 1]!).reduce((a, b) => a + b, 0);
    const want = [
      ...[total(x), 0.3 * sum((p) => p.c), 0.3 * sum((p) => p.r), all.filter((p) => p.c > p.r).length],
      ...[0.3 * sum((p) => p.c - p.r), sum((p) => p.c), sum((p) => p.r)],
      ...[logits((i) => 2 * i + 1), logits((i) => 2 * pairs + i), sum((p) => p.nll)],
      ...[sum((p) => p.ratio), sum((p) => p.odds)],
    ];
    assertClose(stats, want, tolerance(pairs), "figures");
    // 1 / (1 - e^c) grows to 20 towards certainty
    assertClose(d, slopes(sums, total), 20 * tolerance(1), "slopes");
  }
});

gpuTest("kto: figures and slopes, with the divergence above and below 0", async () => {
  const n = 6, good = [true, false, false, true, false, true];
  for (const shift of [3, -30]) {
    const sums = sumsOf(n, 5),
      other = sumsOf(n, 6),
      others = sumsOf(n, 7, -20 + shift),
      theirs = sumsOf(n, 8);
    const items = Float32Array.from(
      good.flatMap((g, i) => [other[2 * i]!, Number(g), theirs[2 * i]!, 0]),
    );
    const mean = good.reduce((a, _, i) => a + (others[2 * i]! - theirs[2 * i]!) / n, 0);
    const kl = Math.max(0, mean);
    assert.equal(kl > 0, shift > 0, "both cases occur");
    const ratio = (x: Float64Array, i: number) => x[2 * i]! - other[2 * i]!;
    const total = (x: Float64Array) =>
      good.reduce((a, g, i) => {
        const way = g ? 1 : -1, weight = g ? PARAMS.desirable : PARAMS.undesirable;
        return a + weight * (1 - sigmoid(way * PARAMS.beta * (ratio(x, i) - kl)));
      }, 0);
    const { stats, d } = await onDevice("kto", { sums, items, figures: 8, others });
    const x = Float64Array.from(sums);
    const sum = (of: boolean, f: (i: number) => number) =>
      good.reduce((a, g, i) => g === of ? a + f(i) : a, 0);
    const both = (f: (i: number) => number) => [sum(true, f), sum(false, f)];
    const want = [
      total(x),
      ...both((i) => 0.3 * ratio(x, i)),
      ...both((i) => x[2 * i]!),
      ...both((i) => x[2 * i + 1]!),
      kl,
    ];
    assertClose(stats, want, tolerance(n), "figures");
    assertClose(d, slopes(sums, total), tolerance(1), "slopes");
  }
});

gpuTest("before the first step: ln 2 to the last place, and rewards of 0", async () => {
  const sums = sumsOf(8, 1);
  const items = Float32Array.from(
    { length: 16 },
    (_, i) => i % 4 < 2 ? sums[2 * (4 * (i % 4) + (i >> 2))]! : 5,
  );
  const params = { beta: 0.1 };
  const { stats } = await onDevice("dpo", { sums, items, figures: 10, params });
  // the device's own logarithm of 2 may be off by one unit
  assertClose([stats[0]! / 4], [Math.LN2], 2 * EPS, "loss");
  assert.deepEqual([...stats.subarray(1, 5)], [0, 0, 0, 0]);
});

gpuTest("the comparison can fail: the margin's sign turned", async () => {
  const sums = sumsOf(6, 1), other = sumsOf(6, 10);
  const items = Float32Array.from(
    { length: 12 },
    (_, i) => i % 4 < 2 ? other[2 * (3 * (i % 4) + (i >> 2))]! : 4,
  );
  const { stats, d } = await onDevice("dpo", { sums, items, figures: 10, params: { beta: 0.3 } });
  const turned = (x: Float64Array) =>
    [0, 1, 2].reduce((n, i) => {
      const c = x[2 * i]! - other[2 * i]!, r = x[2 * (3 + i)]! - other[2 * (3 + i)]!;
      return n + LOSSES.sigmoid(r, c, { ...PARAMS, smoothing: 0 }, [0, 0]);
    }, 0);
  assert.ok(Math.abs(stats[0]! - turned(Float64Array.from(sums))) > 100 * tolerance(3));
  const wrong = slopes(sums, turned);
  assert.ok(d.some((v, i) => Math.abs(v - wrong[i]!) > 100 * tolerance(1)));
});
