import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { dequantizeOracle, quantize, QuantizedStack, stackFits, toQuantState } from "../../lib/quant/mod.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { normals } from "./helpers.ts";

await warmDevice();

interface Case {
  k: number;
  /** Rows of each weight. */
  rows: number[];
  /** Which of them have an adapter, and its rank. */
  adapted?: boolean[];
  rank?: number;
  norm?: { eps: number; plus: number };
  gated?: boolean;
  add?: boolean;
  blocksize?: number;
  doubleQuant?: boolean;
  /** The control: what the oracle leaves out. */
  without?: "norm" | "low" | "gate" | "add";
}

/** Sums in f64 with bounds on what f32 may stray. */
interface Bounded {
  value: number;
  bound: number;
}

/** `sum of a b`, of which `a` errs relatively by `error`, with K roundings at most (Higham 2002, section 3.1). */
function dot(a: ArrayLike<number>, b: Float32Array, from: number, error: number): Bounded {
  let value = 0, size = 0;
  for (let i = 0; i < a.length; i++) {
    value += a[i]! * b[from + i]!;
    size += Math.abs(a[i]! * b[from + i]!);
  }
  return { value, bound: size * (error + (a.length + 4) * EPS) };
}

/** Runs a case and returns by how much its worst element exceeds its bound, as a ratio. */
async function excess(c: Case): Promise<number> {
  const { k, rows, adapted = rows.map(() => false), rank = 8, norm, gated = false, add = false, without } = c;
  const { blocksize = 64, doubleQuant = true } = c;
  const xs = normals(k, 1), ns = randoms(k, 2).map((v) => 1 + v / 2), total = rows.reduce((a, b) => a + b);
  const before = normals(gated ? total / 2 : total, 3);
  const parts = rows.map((n, i) => ({
    w: normals(n * k, 4 + i).map((v) => v / Math.sqrt(k)),
    a: normals(rank * k, 14 + i).map((v) => v / Math.sqrt(k)),
    b: normals(n * rank, 24 + i),
    alpha: 0.5 + i,
  }));
  const weights = scope(() =>
    parts.map(({ w }, i) => quantize(tensor(w, [rows[i]!, k]), { quantType: "nf4", blocksize, doubleQuant }))
  );
  const low = parts.map(({ a, b, alpha }, i) =>
    adapted[i]
      ? { a: tensor(a, [rank, k], "f32", "adapter"), b: tensor(b, [rows[i]!, rank], "f32", "adapter"), alpha }
      : undefined
  );
  const stacked = weights.map((weight, i) => ({ weight, low: low[i] }));
  assert.ok(stackFits(stacked, gated));
  const y = scope(() => {
    const stack = new QuantizedStack(stacked, { ...(norm && { norm: tensor(ns, [k]) }), gated });
    const made = stack.apply(tensor(xs, [1, k]), {
      norm,
      add: add ? tensor(before, [1, before.length]) : undefined,
    });
    assert.ok(stack.bytes > 0);
    stack.dispose();
    return made;
  });
  const got = await y.data();
  const decoded = await Promise.all(weights.map(async (q) => dequantizeOracle(await toQuantState(q))));
  for (const t of [y, ...weights, ...low.flatMap((l) => l ? [l.a, l.b] : [])]) t.dispose();

  const square = xs.reduce((s, v) => s + v * v, 0) / k;
  const normed = norm && without !== "norm";
  const x = Float64Array.from(
    xs,
    (v, i) => normed ? v * (ns[i]! + norm.plus) / Math.sqrt(square + norm.eps) : v,
  );
  // the sum of squares, halved by the root, and a few roundings for root, quotient and weight
  const error = norm ? (k / 2 + 8) * EPS : 0;
  const all = parts.flatMap(({ a, b, alpha }, i) => {
    const h = Array.from({ length: rank }, (_, r) => dot(x, a, r * k, error));
    return Array.from({ length: rows[i]! }, (_, n): Bounded => {
      const sum = dot(x, decoded[i]!, n * k, error);
      if (!adapted[i] || without === "low") return sum;
      for (const [r, { value, bound }] of h.entries()) {
        const weight = Math.abs(alpha * b[n * rank + r]!);
        sum.value += alpha * value * b[n * rank + r]!;
        sum.bound += weight * (bound + (rank + 4) * EPS * Math.abs(value));
      }
      return sum;
    });
  });
  const want = !gated ? all : all.slice(0, rows[0]).map((g, n): Bounded => {
    const u = all[rows[0]! + n]!, silu = without === "gate" ? g.value : g.value / (1 + Math.exp(-g.value));
    // |silu'| < 1.1, and the exponential errs with its argument
    const own = (16 + 2 * Math.abs(g.value)) * EPS * Math.abs(silu * u.value);
    return {
      value: silu * u.value,
      bound: 1.1 * g.bound * (Math.abs(u.value) + u.bound) + Math.abs(silu) * u.bound + own,
    };
  });
  return got.reduce((worst, v, n) => {
    const value = want[n]!.value + (add && without !== "add" ? before[n]! : 0);
    return Math.max(worst, Math.abs(v - value) / (want[n]!.bound + 2 * EPS * Math.abs(value) + 1e-30));
  }, 0);
}

const RMS = { eps: 1e-5, plus: 0 };
const CASES: Record<string, Case> = {
  "one weight, rows that fill no workgroup": { k: 96, rows: [42] },
  "one weight, its sum with the residual": { k: 128, rows: [64], add: true },
  "blocks of 32, plain scales": { k: 96, rows: [32, 64], blocksize: 32, doubleQuant: false },
  "blocks of 256": { k: 256, rows: [64], blocksize: 256 },
  "three weights behind a norm": { k: 576, rows: [64, 32, 32], norm: RMS },
  "a norm that stores the distance from 1": { k: 64, rows: [32], norm: { eps: 1e-3, plus: 1 } },
  "three adapters behind a norm": { k: 576, rows: [64, 32, 32], norm: RMS, adapted: [true, true, true] },
  "one adapter of three, rank 20": { k: 64, rows: [32, 32, 32], adapted: [false, true, false], rank: 20 },
  "an adapter and the residual, rank 4": { k: 160, rows: [42], adapted: [true], rank: 4, add: true },
  "a gated unit behind a norm": { k: 64, rows: [41, 41], gated: true, norm: RMS },
  "a gated unit with adapters": { k: 96, rows: [48, 48], gated: true, adapted: [true, true], rank: 16 },
};

for (const [name, c] of Object.entries(CASES)) {
  gpuTest(`a stack equals products by hand: ${name}`, async () => {
    if (vectorLanes(gpu()) === 0) return;
    const ratio = await excess(c);
    assert.ok(ratio <= 1, `error ${ratio} times its bound`);
  });
}

gpuTest("the check of stacks catches what is left out", async () => {
  if (vectorLanes(gpu()) === 0) return;
  const everything: Case = {
    k: 64,
    rows: [32, 32],
    gated: true,
    adapted: [true, false],
    norm: RMS,
    add: true,
  };
  assert.ok(await excess(everything) <= 1);
  for (const without of ["norm", "low", "gate", "add"] as const) {
    assert.ok(await excess({ ...everything, without }) > 10, without);
  }
});

gpuTest("weights that do not stack are refused", () => {
  scope(() => {
    const weight = (n: number, k: number) => quantize(tensor(normals(n * k, 1), [n, k]));
    const low = (rank: number, n: number, k: number) => ({
      ...{ a: tensor(normals(rank * k, 2), [rank, k]), b: tensor(normals(n * rank, 3), [n, rank]), alpha: 1 },
    });
    const a = weight(32, 64), b = weight(32, 96), c = weight(40, 64);
    const fits = (...parts: { weight: typeof a; low?: ReturnType<typeof low> }[]) =>
      stackFits(parts.map(({ weight, low }) => ({ weight, low })), false);
    const lanes = vectorLanes(gpu());
    assert.equal(fits({ weight: a }, { weight: c }), lanes > 0);
    assert.ok(!fits({ weight: a }, { weight: b }), "other columns");
    assert.ok(!fits({ weight: a, low: low(6, 32, 64) }), "rank 6");
    assert.ok(!fits({ weight: a, low: low(4, 32, 64) }, { weight: a, low: low(8, 32, 64) }), "two ranks");
    assert.ok(!fits({ weight: c, low: low(4, 40, 64) }, { weight: a }), "a part begins within a workgroup");
    for (const q of [a, b, c]) q.dispose();
  });
});
