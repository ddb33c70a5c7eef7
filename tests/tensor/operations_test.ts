import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { dropout } from "../../lib/tensor/ops/dropout.ts";
import { embedding, gatherRows } from "../../lib/tensor/ops/embedding.ts";
import { linear, matmul } from "../../lib/tensor/ops/linear.ts";
import * as pointwise from "../../lib/tensor/ops/pointwise.ts";
import { mean, rowSum, sum } from "../../lib/tensor/ops/reduce.ts";
import { rmsNorm } from "../../lib/tensor/ops/rms_norm.ts";
import { checkpoint, differentiate, record } from "../../lib/tensor/tape.ts";
import { keep, scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms } from "../gpu_helper.ts";

// A sum of n products of numbers in ±1 errs by at most about n roundings of n; exp, tanh and division add a few
// units each. 16 covers those for values of the order of 1.
const tol = (n: number) => 16 * EPS * (n + 4);

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const geluOf = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

gpuTest("unary operations and their gradients", async () => {
  const positive = randoms(93, 5).map((v) => Math.fround(0.3 + Math.abs(v)));
  const cases: [string, (a: Tensor) => Tensor, (x: number) => number, Float32Array<ArrayBuffer>?][] = [
    ["scale", (a) => pointwise.scale(a, -2.5), (x) => -2.5 * x],
    ["addScalar", (a) => pointwise.addScalar(a, 0.75), (x) => x + 0.75],
    ["silu", pointwise.silu, (x) => x * sigmoid(x)],
    ["geluTanh", pointwise.geluTanh, geluOf],
    ["exp", pointwise.exp, Math.exp],
    ["log", pointwise.log, Math.log, positive],
    ["square", pointwise.square, (x) => x * x],
    ["relu", pointwise.relu, (x) => Math.max(x, 0)],
  ];
  for (const [name, op, f, data] of cases) {
    const input = { name: "a", shape: [93], ...(data ? { data } : {}) };
    await checkGradients(name, [input], op, (x) => x.map(f), tol(8));
  }
});

gpuTest("binary operations with every kind of broadcast", async () => {
  const shapes: [number[], number[]][] = [[[7, 13], [7, 13]], [[7, 13], [13]], [[7, 13], [1]], [[7, 13], [
    7,
    1,
  ]], [[1, 1], [1]]];
  for (const [a, b] of shapes) {
    const period = b.reduce((x, y) => x * y, 1);
    const spread = b.length === 2 && b[1] === 1 && a[1]! > 1;
    const at = (i: number) => spread ? Math.floor(i / 13) : i % period;
    const inputs = [{ name: "a", shape: a }, { name: "b", shape: b }];
    await checkGradients(
      `add ${b}`,
      inputs,
      pointwise.add,
      (x, y) => x.map((v, i) => v + y[at(i)]!),
      tol(91),
    );
    await checkGradients(
      `sub ${b}`,
      inputs,
      pointwise.sub,
      (x, y) => x.map((v, i) => v - y[at(i)]!),
      tol(91),
    );
    await checkGradients(
      `mul ${b}`,
      inputs,
      pointwise.mul,
      (x, y) => x.map((v, i) => v * y[at(i)]!),
      tol(91),
    );
  }
  assert.throws(() => scope(() => pointwise.add(tensor([1, 2, 3], [3]), tensor([1, 2], [2]))), /broadcast/);
});

gpuTest("gated activations", async () => {
  const inputs = [{ name: "a", shape: [5, 31] }, { name: "b", shape: [5, 31] }];
  await checkGradients(
    "silu",
    inputs,
    (a, b) => pointwise.gated("silu", a, b),
    (a, b) => a.map((v, i) => v * sigmoid(v) * b[i]!),
    tol(8),
  );
  await checkGradients(
    "gelu_pytorch_tanh",
    inputs,
    (a, b) => pointwise.gated("gelu_pytorch_tanh", a, b),
    (a, b) => a.map((v, i) => geluOf(v) * b[i]!),
    tol(8),
  );
});

gpuTest("gelu stays finite far from zero", async () => {
  const y = scope(() => pointwise.geluTanh(tensor([-1e4, -50, 50, 1e4], [4])));
  assert.deepEqual([...await y.data()].map((v) => v + 0), [0, 0, 50, 1e4]);
  y.dispose();
});

gpuTest("sums and means", async () => {
  const x = { name: "x", shape: [11, 172] };
  await checkGradients(
    "rowSum",
    [x],
    (t) => rowSum(t, 0.5),
    (v) =>
      Array.from({ length: 11 }, (_, r) => 0.5 * v.slice(r * 172, r * 172 + 172).reduce((a, b) => a + b, 0)),
    tol(172),
  );
  await checkGradients("sum", [x], (t) => sum(t), (v) => [v.reduce((a, b) => a + b, 0)], tol(172));
  await checkGradients("mean", [x], mean, (v) => [v.reduce((a, b) => a + b, 0) / v.length], tol(8));
});

gpuTest("rmsNorm at odd shapes", async () => {
  for (const [rows, columns, plus] of [[1, 1, 0], [3, 7, 1], [5, 93, 0], [2, 172, 1]] as const) {
    await checkGradients(
      `rmsNorm ${rows}x${columns}, weights ${plus} + w`,
      [{ name: "x", shape: [rows, columns] }, { name: "w", shape: [columns] }],
      (x, w) => rmsNorm(x, w, 1e-5, plus),
      (x, w) =>
        x.map((v, i) => {
          const row = x.subarray(Math.floor(i / columns) * columns, (Math.floor(i / columns) + 1) * columns);
          return v / Math.sqrt(row.reduce((a, b) => a + b * b, 0) / columns + 1e-5) *
            (plus + w[i % columns]!);
        }),
      tol(columns),
    );
  }
});

gpuTest("embedding sums the gradients of repeated ids; ids outside the vocabulary are refused", async () => {
  const ids = Uint32Array.of(3, 0, 3, 10, 3);
  await checkGradients(
    "embedding",
    [{ name: "w", shape: [11, 7] }],
    (w) => embedding(ids, w),
    (w) => [...ids].flatMap((id) => [...w.slice(id * 7, id * 7 + 7)]),
    tol(3),
  );
  assert.throws(
    () => scope(() => embedding(Uint32Array.of(1, 11), tensor(new Float32Array(77), [11, 7]))),
    /Token id 11 at 1/,
  );
});

gpuTest("gatherRows", async () => {
  await checkGradients(
    "gatherRows",
    [{ name: "x", shape: [6, 5] }],
    (x) => gatherRows(x, Uint32Array.of(4, 0, 5)),
    (x) => [4, 0, 5].flatMap((r) => [...x.slice(r * 5, r * 5 + 5)]),
    tol(1),
  );
});

gpuTest("linear and matmul in three layouts", async () => {
  const [m, n, k] = [5, 7, 13];
  const dot = (f: (i: number, j: number, l: number) => number) => {
    const out: number[] = [];
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let s = 0;
        for (let l = 0; l < k; l++) s += f(i, j, l);
        out.push(s);
      }
    }
    return out;
  };
  await checkGradients(
    "nt",
    [{ name: "x", shape: [m, k] }, { name: "w", shape: [n, k] }],
    (x, w, b) => linear(x, w, b),
    (x, w) => dot((i, j, l) => x[i * k + l]! * w[j * k + l]!),
    tol(k),
  );
  await checkGradients(
    "frozen",
    [{ name: "x", shape: [m, k] }, { name: "w", shape: [n, k], frozen: true }],
    (x, w, b) => linear(x, w, b),
    (x, w) => dot((i, j, l) => x[i * k + l]! * w[j * k + l]!),
    tol(k),
  );
  await checkGradients(
    "nn",
    [{ name: "x", shape: [m, k] }, { name: "w", shape: [k, n] }],
    (x, w) => matmul(x, w, "nn"),
    (x, w) => dot((i, j, l) => x[i * k + l]! * w[l * n + j]!),
    tol(k),
  );
  await checkGradients(
    "tn",
    [{ name: "x", shape: [k, m] }, { name: "w", shape: [k, n] }],
    (x, w) => matmul(x, w, "tn"),
    (x, w) => dot((i, j, l) => x[l * m + i]! * w[l * n + j]!),
    tol(k),
  );
});

// 64 KiB bindings cut 120 rows of 200 logits into two chunks
for (const [vocabulary, maxBinding] of [[11, undefined], [200, 65536]] as const) {
  gpuTest(
    `linearCrossEntropy over ${vocabulary} tokens: loss, accuracy, gradients, masked rows`,
    async () => {
      const rows = 150, columns = 6;
      const labels = Int32Array.from({ length: rows }, (_, i) => i % 5 === 0 ? -100 : (i * 7) % vocabulary);
      let correct = 0;
      const lossOf = (x: Float64Array, w: Float64Array) => {
        let loss = 0;
        for (let r = 0; r < rows; r++) {
          if (labels[r] === -100) continue;
          const z = Array.from({ length: vocabulary }, (_, v) => {
            let s = 0;
            for (let c = 0; c < columns; c++) s += x[r * columns + c]! * w[v * columns + c]!;
            return s;
          });
          if (z[labels[r]!] === Math.max(...z)) correct++;
          loss += Math.log(z.reduce((a, b) => a + Math.exp(b), 0)) - z[labels[r]!]!;
        }
        return loss;
      };
      const x = randoms(rows * columns, 1), w = randoms(vocabulary * columns, 2);
      const made = scope(() => {
        const tx = tensor(x, [rows, columns]), tw = tensor(w, [vocabulary, columns]);
        tx.requiresGrad = tw.requiresGrad = true;
        const { output, gradients } = differentiate(
          () => linearCrossEntropy(tx, tw, labels).stats,
          undefined,
          [
            tx,
            tw,
          ],
        );
        return [output, ...gradients.map((g) => g!)];
      });
      const [stats, dx, dw] = await Promise.all(made.map((t) => t.data()));
      const x64 = Float64Array.from(x), w64 = Float64Array.from(w);
      correct = 0;
      assertClose([stats![0]!], [lossOf(x64, w64)], tol(rows * 3), "loss");
      assert.equal(stats![1], correct, "rows whose label is the most likely token");
      // every seventh element: each slope costs two passes over all rows
      const slopes = (v: Float64Array) =>
        Array.from({ length: Math.ceil(v.length / 7) }, (_, k) => {
          const i = 7 * k, value = v[i]!;
          v[i] = value + 1e-5;
          const up = lossOf(x64, w64);
          v[i] = value - 1e-5;
          const down = lossOf(x64, w64);
          v[i] = value;
          return (up - down) / 2e-5;
        });
      const seventh = (v: Float32Array) => v.filter((_, i) => i % 7 === 0);
      assertClose(seventh(dx!), slopes(x64), tol(columns * vocabulary), "dx");
      assertClose(seventh(dw!), slopes(w64), tol(rows), "dw");
      made.forEach((t) => t.dispose());
      assert.throws(() =>
        scope(() =>
          linearCrossEntropy(
            tensor(x, [rows, columns]),
            tensor(w, [vocabulary, columns]),
            new Int32Array(rows).fill(-100),
          )
        ), /nothing to learn/);
    },
    maxBinding ? { maxBinding } : undefined,
  );
}

gpuTest("dropout keeps the expected share, scales the rest, and repeats its mask", async () => {
  const n = 40000, rate = 0.3;
  const made = scope(() => {
    const x = tensor(new Float32Array(n).fill(1), [n]);
    x.requiresGrad = true;
    const { output, gradients } = differentiate(
      () => dropout(x, rate, 7),
      tensor(new Float32Array(n).fill(1), [n]),
      [x],
    );
    return [output, gradients[0]!, dropout(x, rate, 8)];
  });
  const [y, dx, other] = await Promise.all(made.map((t) => t.data()));
  assert.deepEqual(y, dx, "the backward draws the same mask");
  assert.notDeepEqual(y, other, "another seed draws another");
  const kept = y!.filter((v) => v !== 0);
  assert.ok(
    kept.every((v) => v === Math.fround(1 / (1 - Math.fround(rate))) || Math.abs(v - 1 / 0.7) < 4 * EPS),
  );
  const deviation = Math.sqrt(n * rate * (1 - rate));
  assert.ok(Math.abs(kept.length - n * (1 - rate)) < 5 * deviation, `${kept.length} kept`);
  made.forEach((t) => t.dispose());
});

gpuTest("a checkpointed function gives the same bits, and holds less memory", async () => {
  const x = randoms(64 * 32, 3);
  const run = (checkpointing: boolean) =>
    scope(() => {
      const a = tensor(x, [64, 32]);
      a.requiresGrad = true;
      const block = (t: Tensor) => pointwise.silu(pointwise.mul(pointwise.geluTanh(t), pointwise.square(t)));
      gpu().pool.resetPeak();
      const { output, gradients } = differentiate(
        () => {
          let y: Tensor = a;
          for (let i = 0; i < 4; i++) y = checkpointing ? checkpoint(block, [y]) : block(y);
          return y;
        },
        tensor(x, [64, 32]),
        [a],
      );
      return { output, gradient: gradients[0]!, peak: gpu().pool.report().peakBytes };
    });
  const plain = run(false), saved = run(true);
  assert.deepEqual(await saved.output.data(), await plain.output.data());
  assert.deepEqual(await saved.gradient.data(), await plain.gradient.data());
  assert.ok(saved.peak < plain.peak, `${saved.peak} < ${plain.peak}`);
  for (const r of [plain, saved]) {
    r.output.dispose();
    r.gradient.dispose();
  }
});

gpuTest("the check of gradients can fail: a wrong derivative is caught", async () => {
  await assert.rejects(
    checkGradients(
      "wrong",
      [{ name: "a", shape: [17] }],
      (a) => pointwise.silu(a),
      (x) => x.map((v) => v * sigmoid(1.001 * v)),
      tol(8),
    ),
    /wrong: /,
  );
});

gpuTest("an output that its backward does not read is gone before the backward runs; others stay", () => {
  for (const keeps of [true, false]) {
    const x = keep(tensor([1, 2], [2]));
    x.requiresGrad = true;
    let seen: boolean | undefined;
    scope(() => {
      differentiate(
        () => {
          const y = record("probe", pointwise.copy(x), [x], (dy) => {
            seen = y.disposed;
            return [dy.view(dy.shape)];
          }, keeps);
          return sum(y);
        },
        undefined,
        [x],
      );
    });
    assert.equal(seen, !keeps);
    x.dispose();
  }
});
