import assert from "node:assert/strict";
import { adapterKind, gpu, openGpu } from "../../lib/gpu/mod.ts";
import { NibbleError } from "../../lib/errors.ts";
import {
  attention,
  attentionDecode,
  type AttentionHeads,
  attentionTiling,
  writeCache,
} from "../../lib/tensor/ops/attention.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, tensor, zeros } from "../../lib/tensor/tensor.ts";

/** Deterministic numbers in [-1, 1). */
function noise(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = seed >>> 0;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return (s / 2 ** 32) * 2 - 1;
  });
}

interface Case extends AttentionHeads {
  batch: number;
  time: number;
  segments: number[];
}

interface Numbers {
  q: ArrayLike<number>;
  k: ArrayLike<number>;
  v: ArrayLike<number>;
}

const EPS = 2 ** -24;

/**
 * The definition in f64: scores, softmax, weighted sum; and its gradients, if `dy` is given.
 *
 * `bound` holds, element by element, how far f32 may stray. A dot product of d terms errs by at most (d + 1) eps times the
 * sum of its absolute terms; so a score by e_s, and a weight p relatively by w = 2 max e_s + (2 |s - lse| + 8) eps (the
 * exponential, the sum over T, the normalisation: T eps more). D = sum of p dp errs like dp. Every result is a sum of
 * at most n = T * group terms, so it errs by the sum of its terms' errors and n eps times their absolute sum.
 */
function oracle(c: Case, { q, k, v }: Numbers, dy?: ArrayLike<number>) {
  const { batch, time, heads, kvHeads, headDim: d } = c;
  const scale = c.scale ?? d ** -0.5, window = c.window ?? Infinity;
  const rows = batch * time;
  const o = new Float64Array(rows * heads * d), dq = new Float64Array(o.length);
  const dk = new Float64Array(rows * kvHeads * d), dv = new Float64Array(dk.length);
  const like = (x: Float64Array) => new Float64Array(x.length);
  const bound = { o: like(o), dq: like(dq), dk: like(dk), dv: like(dv) };
  const sums = (1 + time * heads / kvHeads) * EPS;
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / (heads / kvHeads));
      for (let i = 0; i < time; i++) {
        const row = b * time + i, q0 = (row * heads + h) * d;
        const at = (j: number) => ((b * time + j) * kvHeads + g) * d;
        const dot = (x: ArrayLike<number>, x0: number, y: ArrayLike<number>, y0: number) => {
          let sum = 0;
          for (let e = 0; e < d; e++) sum += x[x0 + e]! * y[y0 + e]!;
          return sum;
        };
        const size = (x: ArrayLike<number>, x0: number, y: ArrayLike<number>, y0: number) => {
          let sum = 0;
          for (let e = 0; e < d; e++) sum += Math.abs(x[x0 + e]! * y[y0 + e]!);
          return (d + 1) * EPS * sum;
        };
        const seen: number[] = [];
        for (let j = 0; j <= i; j++) {
          if (c.segments[row] !== 0 && c.segments[row] === c.segments[b * time + j] && i - j < window) {
            seen.push(j);
          }
        }
        const scores = seen.map((j) => scale * dot(q, q0, k, at(j)));
        const top = Math.max(...scores);
        const total = scores.reduce((a, s) => a + Math.exp(s - top), 0);
        const p = scores.map((s) => Math.exp(s - top) / total);
        const scoreError = Math.max(...seen.map((j) => scale * size(q, q0, k, at(j))));
        const w = p.map((x) => 2 * scoreError + (2 * Math.abs(Math.log(x)) + 8 + time) * EPS);
        seen.forEach((j, n) => {
          for (let e = 0; e < d; e++) {
            o[q0 + e]! += p[n]! * v[at(j) + e]!;
            bound.o[q0 + e]! += p[n]! * Math.abs(v[at(j) + e]!) * (w[n]! + sums);
          }
        });
        if (!dy) continue;
        const dp = seen.map((j) => dot(dy, q0, v, at(j)));
        const mean = p.reduce((a, x, n) => a + x * dp[n]!, 0);
        const dpError = seen.map((j) => size(dy, q0, v, at(j)));
        const meanError = dpError.reduce((a, x, n) => a + p[n]! * (x + Math.abs(dp[n]!) * (w[n]! + sums)), 0);
        seen.forEach((j, n) => {
          const ds = scale * p[n]! * (dp[n]! - mean);
          const dsError = Math.abs(ds) * (w[n]! + sums) + scale * p[n]! * (dpError[n]! + meanError);
          for (let e = 0; e < d; e++) {
            dv[at(j) + e]! += p[n]! * dy[q0 + e]!;
            dq[q0 + e]! += ds * k[at(j) + e]!;
            dk[at(j) + e]! += ds * q[q0 + e]!;
            bound.dv[at(j) + e]! += p[n]! * (w[n]! + sums) * Math.abs(dy[q0 + e]!);
            bound.dq[q0 + e]! += dsError * Math.abs(k[at(j) + e]!);
            bound.dk[at(j) + e]! += dsError * Math.abs(q[q0 + e]!);
          }
        });
      }
    }
  }
  return { o, dq, dk, dv, bound };
}

/** Largest error as a multiple of its bound; NaN counts as infinite. */
function excess(actual: ArrayLike<number>, expected: ArrayLike<number>, bound: ArrayLike<number>): number {
  assert.equal(actual.length, expected.length);
  let worst = 0;
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!);
    const ratio = error === 0 ? 0 : error / bound[i]!;
    if (!(ratio <= worst)) worst = Number.isNaN(ratio) ? Infinity : ratio;
  }
  return worst;
}

/** Compares output and gradients as they are computed here, and on buffers under this adapter's mapping and that of GPUs. */
async function compareBoth(c: Case, seed: number): Promise<void> {
  await compare(c, seed, "default");
  await compare(c, seed, "own");
  await openGpu();
  // SwiftShader compiles the GPU's unrolled steps for minutes
  if (adapterKind(gpu()) !== "swiftshader") await compare(c, seed, "gpu");
}

async function compare(c: Case, seed: number, mapping: "own" | "gpu" | "default" = "default"): Promise<void> {
  await openGpu();
  const { batch, time, heads, kvHeads, headDim } = c;
  const rows = batch * time;
  const n = {
    q: noise(rows * heads * headDim, seed),
    k: noise(rows * kvHeads * headDim, seed + 1),
    v: noise(rows * kvHeads * headDim, seed + 2),
  };
  const dyNumbers = noise(rows * heads * headDim, seed + 3);
  const segments = tensor(Uint32Array.from(c.segments), [rows]);
  const q = tensor(n.q, [rows, heads * headDim]);
  const k = tensor(n.k, [rows, kvHeads * headDim]);
  const v = tensor(n.v, [rows, kvHeads * headDim]);
  const dy = tensor(dyNumbers, [rows, heads * headDim]);
  for (const t of [q, k, v]) t.requiresGrad = true;
  const { output, gradients } = differentiate(
    () =>
      attention({
        ...c,
        q,
        k,
        v,
        segments,
        tiling: mapping === "default"
          ? undefined
          : attentionTiling(headDim, mapping === "own" ? adapterKind(gpu()) : mapping),
      }),
    dy,
    [q, k, v],
  );
  const expected = oracle(c, n, dyNumbers);
  const results = [output, ...gradients.map((g) => g!)];
  for (const [i, name] of (["o", "dq", "dk", "dv"] as const).entries()) {
    const ratio = excess(await results[i]!.data(), expected[name], expected.bound[name]);
    assert.ok(ratio <= 1, `${name}: error ${ratio} times its bound`);
  }
  for (const t of [q, k, v, dy, segments, ...results]) t.dispose();
}

/** Whether operands go through textures here. */
async function onTextures(): Promise<boolean> {
  return vectorLanes(await openGpu()) > 0;
}

/** Documents of the given lengths, then padding up to `time`, for each batch element. */
function documents(time: number, ...lengths: number[][]): number[] {
  return lengths.flatMap((row) => {
    const ids = row.flatMap((length, n) => Array<number>(length).fill(n + 1));
    return [...ids, ...Array<number>(time - ids.length).fill(0)];
  });
}

Deno.test("attention: one document, grouped heads, odd time", () =>
  compareBoth(
    { batch: 2, time: 37, heads: 6, kvHeads: 2, headDim: 16, segments: documents(37, [37], [37]) },
    1,
  ));

Deno.test("attention: packed documents with padding", () =>
  compareBoth({
    batch: 2,
    time: 45,
    heads: 4,
    kvHeads: 4,
    headDim: 8,
    segments: documents(45, [3, 1, 20, 9], [30, 15]),
  }, 2));

Deno.test("attention: sliding window inside documents", () =>
  compareBoth(
    { batch: 1, time: 70, heads: 3, kvHeads: 1, headDim: 12, window: 5, segments: documents(70, [9, 50]) },
    3,
  ));

Deno.test("attention: window of one sees itself alone", () =>
  compareBoth(
    { batch: 1, time: 9, heads: 2, kvHeads: 1, headDim: 4, window: 1, segments: documents(9, [9]) },
    4,
  ));

Deno.test("attention: head size 64, longer than one workgroup, own scale", () =>
  compareBoth(
    {
      batch: 1,
      time: 131,
      heads: 3,
      kvHeads: 1,
      headDim: 64,
      scale: 0.2,
      segments: documents(131, [66, 40, 20]),
    },
    5,
  ));

// larger heads compile for half a minute a mapping on a software adapter: one mapping each, up to 128
for (const headDim of [96, 128]) {
  Deno.test(`attention: head size ${headDim}`, async () => {
    const c = { batch: 1, time: 19, heads: 2, kvHeads: 1, headDim, segments: documents(19, [10, 8]) };
    await compare(c, headDim, headDim === 128 ? "own" : "gpu");
    if (await onTextures()) await compare(c, headDim);
  });
}

Deno.test("attention: head size 256 on textures", async () => {
  if (!await onTextures()) return;
  await compare(
    { batch: 1, time: 19, heads: 2, kvHeads: 1, headDim: 256, segments: documents(19, [10, 8]) },
    256,
  );
});

Deno.test("attention: kernels that are broken in one place do not pass", async () => {
  const { kernels } = await openGpu(), { launch } = kernels;
  const c = { batch: 1, time: 45, heads: 4, kvHeads: 2, headDim: 8, segments: documents(45, [3, 1, 20, 9]) };
  const broken: [mapping: "own" | "default", right: string, wrong: string][] = [
    ["own", "select(0.0, exp(s[r * STEP + t] - higher), seen[t])", "exp(s[r * STEP + t] - higher)"], // hidden keys count
    ["own", "acc_v[r * VECS + c] += s[", "acc_v[r * VECS + c] += dp["],
    [
      "default",
      "visible(batch_row, j0, end, documents, lane).low",
      "visible(batch_row, j0, end, documents, lane).high",
    ],
    ["default", "s[r * STEP + t] += dot(x[r * VECS + c], b)", "s[r * STEP + t] += dot(x[c], b)"], // the first block's rows
    ["default", "acc[r * VECS + c] += s[r * STEP + t] * a", "acc[r * VECS + c] += s[r * STEP] * a"], // one key of a step
    ["default", "subgroupShuffle(rows, t)", "rows"], // a lane's own row of stats
    ["default", "break if h >= head * each + p.h_to", "break if true"], // one query head of a group
  ];
  for (const [mapping, right, wrong] of broken) {
    if (mapping === "default" && !await onTextures()) continue;
    let found = false;
    kernels.launch = (k, options) => {
      found ||= k.source.includes(right);
      launch({ ...k, name: `${k.name} ${wrong}`, source: k.source.replaceAll(right, wrong) }, options);
    };
    try {
      await assert.rejects(compare(c, 10, mapping), /bound/, wrong);
      assert.ok(found, `no kernel has the text that this test changes: ${right}`);
    } finally {
      kernels.launch = launch;
    }
  }
});

Deno.test("attention: documents whose numbers come again and fall are still kept apart", () => {
  const segments = [5, 5, 2, 2, 2, 9, 9, 1, 0, 0, 5, 5, 5];
  return compareBoth({ batch: 1, time: 13, heads: 2, kvHeads: 2, headDim: 8, segments }, 6);
});

Deno.test("attention: the oracle's gradient is the derivative of its forward", () => {
  const c: Case = {
    batch: 1,
    time: 6,
    heads: 2,
    kvHeads: 1,
    headDim: 4,
    window: 3,
    segments: [1, 1, 1, 1, 2, 2],
  };
  const n = { q: [...noise(48, 11)], k: [...noise(24, 12)], v: [...noise(24, 13)] };
  const dy = noise(48, 14);
  const loss = () => oracle(c, n).o.reduce((a, x, i) => a + x * dy[i]!, 0);
  const gradient = oracle(c, n, dy);
  const h = 1e-5; // central differences in f64: error about h^2 + 1e-16 / h = 1e-10
  for (const name of ["q", "k", "v"] as const) {
    n[name].forEach((x, i) => {
      n[name][i] = x + h;
      const up = loss();
      n[name][i] = x - h;
      const down = loss();
      n[name][i] = x;
      assert.ok(Math.abs((up - down) / (2 * h) - gradient[`d${name}`][i]!) < 1e-8, `${name}[${i}]`);
    });
  }
});

Deno.test("attention: a wrong mask fails the same bound", () => {
  const c: Case = { batch: 1, time: 20, heads: 2, kvHeads: 1, headDim: 8, segments: documents(20, [11, 9]) };
  const n = { q: noise(320, 1), k: noise(160, 2), v: noise(160, 3) };
  const dy = noise(320, 4);
  const right = oracle(c, n, dy);
  const wrong = {
    leaky: oracle({ ...c, segments: documents(20, [20]) }, n, dy),
    "one key short": oracle({ ...c, window: 10 }, n, dy), // rows 10 of the first document lose one key
    "own scale": oracle({ ...c, scale: 1.001 * 8 ** -0.5 }, n, dy),
  };
  for (const [what, numbers] of Object.entries(wrong)) {
    for (const name of ["o", "dq", "dk", "dv"] as const) {
      assert.ok(excess(numbers[name], right[name], right.bound[name]) > 10, `${what} passes in ${name}`);
    }
  }
});

Deno.test("attention: same numbers, same bits", async () => {
  await openGpu();
  const segments = tensor(Uint32Array.from(documents(40, [25, 10])), [40]);
  const [q, k, v, dy] = [4, 2, 2, 4].map((h, i) => tensor(noise(40 * h * 8, i), [40, h * 8]));
  for (const t of [q!, k!, v!]) t.requiresGrad = true;
  const run = () =>
    differentiate(
      () =>
        attention({ q: q!, k: k!, v: v!, segments, batch: 1, time: 40, heads: 4, kvHeads: 2, headDim: 8 }),
      dy!,
      [q!, k!, v!],
    ).gradients;
  const first = run(), second = run();
  for (let i = 0; i < 3; i++) assert.deepEqual(await first[i]!.data(), await second[i]!.data());
});

Deno.test("attention: batches beyond one binding are walked, at offsets that are not multiples of 256", async () => {
  // one sequence is 11 * 16 * 4 = 704 bytes, not a multiple of 256; a binding takes two of the five
  await openGpu({ maxBinding: 1664 });
  try {
    const lengths = [[11], [4, 7], [11], [5, 5], [11]];
    await compare({
      batch: 5,
      time: 11,
      heads: 4,
      kvHeads: 1,
      headDim: 4,
      segments: documents(11, ...lengths),
    }, 7);
    const big = { batch: 1, time: 99, heads: 4, kvHeads: 1, headDim: 4, segments: documents(99, [99]) };
    await assert.rejects(compare(big, 8), (e) => e instanceof NibbleError && e.code === "tensor/binding");
  } finally {
    await openGpu({});
  }
});

Deno.test("attention: memory returns to where it was", async () => {
  const gpu = await openGpu();
  const c = { batch: 1, time: 16, heads: 2, kvHeads: 1, headDim: 8, segments: documents(16, [16]) };
  await compare(c, 9);
  const before = gpu.pool.report().liveBytes;
  await compare(c, 9);
  assert.equal(gpu.pool.report().liveBytes, before);
});

Deno.test("attention: shapes that do not fit are named", async () => {
  await openGpu();
  const q = zeros([4, 16]), segments = tensor(Uint32Array.of(1, 1, 1, 1), [4]);
  const call = (heads: number, kvHeads: number, headDim: number) => () =>
    attention({ q, k: q, v: q, segments, batch: 1, time: 4, heads, kvHeads, headDim });
  assert.throws(call(3, 3, 8), /4,16/);
  assert.throws(call(3, 2, 4), /3 heads/);
  assert.throws(call(2, 2, 6), /multiple of 4/);
  assert.throws(call(1, 1, 260), /multiple of 4/);
});

for (const window of [undefined, 9]) {
  for (const headDim of [8, 64, 128]) {
    Deno.test(`attentionDecode: prefill then single rows equal the whole, head size ${headDim}, window ${window}`, async () => {
      await openGpu();
      const time = headDim === 8 ? 140 : 40, heads = 4, kvHeads = 2;
      const c: Case = { batch: 1, time, heads, kvHeads, headDim, window, segments: documents(time, [time]) };
      const n = {
        q: noise(time * heads * headDim, 21),
        k: noise(time * kvHeads * headDim, 22),
        v: noise(time * kvHeads * headDim, 23),
      };
      const { o: expected, bound } = oracle(c, n);
      const kCache = zeros([time + 3, kvHeads * headDim]), vCache = zeros([time + 3, kvHeads * headDim]);
      const cut = (x: Float32Array<ArrayBuffer>, from: number, to: number, h: number) =>
        tensor(x.slice(from * h * headDim, to * h * headDim), [to - from, h * headDim]);
      // prefill in two uneven parts, then one to three rows at a time
      const steps = [0, time - 15, time - 14, time - 11, time - 10, time - 2, time];
      for (let s = 0; s + 1 < steps.length; s++) {
        const start = steps[s]!, to = steps[s + 1]!;
        const o = scope(() => {
          writeCache(kCache, cut(n.k, start, to, kvHeads), start);
          writeCache(vCache, cut(n.v, start, to, kvHeads), start);
          return attentionDecode({
            q: cut(n.q, start, to, heads),
            kCache,
            vCache,
            start,
            heads,
            kvHeads,
            headDim,
            window,
          });
        });
        const [a, b] = [start * heads * headDim, to * heads * headDim];
        const ratio = excess(await o.data(), expected.slice(a, b), bound.o.slice(a, b));
        assert.ok(ratio <= 1, `rows ${start}..${to}: error ${ratio} times its bound`);
        o.dispose();
      }
      assert.throws(() => writeCache(kCache, kCache, 1), /row 1/);
      kCache.dispose();
      vCache.dispose();
    });
  }
}
