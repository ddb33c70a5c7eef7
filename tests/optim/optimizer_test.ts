import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import {
  createOptimizer,
  createParameterPages,
  learningRate,
  METRICS,
  type OptimizerSettings,
  type ParameterPages,
} from "../../lib/optim/mod.ts";
import { largestError } from "../gpu_helper.ts";

const SPECS = [
  { name: "a", shape: [7, 11], decay: true },
  { name: "bias", shape: [5], decay: false },
  { name: "b", shape: [64, 3], decay: true },
  { name: "norm", shape: [130], decay: false },
];
const SETTINGS = {
  optim: "adamw_torch",
  adam_beta1: 0.9,
  adam_beta2: 0.99,
  adam_epsilon: 1e-8,
  weight_decay: 0.1,
  max_grad_norm: 1,
};
const STEPS = 20, GRAD_SCALE = 1 / 37;
const lrAt = (step: number) =>
  learningRate("cosine", { step: step - 1, total: STEPS, warmup: 3, base: 1e-2 });

function noise(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = (seed * 2654435761) >>> 0;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return (s / 2 ** 32) * 2 - 1;
  });
}
const sizeOf = (shape: number[]) => shape.reduce((a, b) => a * b, 1);
const start = (i: number) => noise(sizeOf(SPECS[i]!.shape), 100 + i);
/** Gradients before `gradScale`; their size changes so that some steps are clipped and some are not. */
const gradient = (i: number, step: number) =>
  noise(sizeOf(SPECS[i]!.shape), 1000 * step + i).map((g) => g * (step % 3 === 0 ? 30 : 0.9));

interface Wrong {
  noBiasCorrection?: boolean;
  coupledDecay?: boolean;
  frozenLr?: boolean;
  decayEverywhere?: boolean;
  noClip?: boolean;
}

/** The papers' and PyTorch's update in f64, one parameter at a time, with mistakes to order. */
function oracle(optim: string, wrong: Wrong = {}, skip: readonly number[] = []) {
  const w = SPECS.map((_, i) => Float64Array.from(start(i)));
  const m = w.map((x) => new Float64Array(x.length)), v = w.map((x) => new Float64Array(x.length));
  const norms: number[] = [];
  let t = 0;
  for (let step = 1; step <= STEPS; step++) {
    const g = SPECS.map((_, i) => Float64Array.from(gradient(i, step), (x) => x * GRAD_SCALE));
    const norm = Math.sqrt(g.reduce((a, x) => x.reduce((b, y) => b + y * y, a), 0));
    norms.push(norm);
    if (skip.includes(step)) continue;
    t++;
    const clip = wrong.noClip ? 1 : Math.min(1, SETTINGS.max_grad_norm / (norm + 1e-6));
    const lr = wrong.frozenLr ? lrAt(4) : lrAt(step);
    w.forEach((x, i) => {
      const decay = SPECS[i]!.decay || wrong.decayEverywhere ? SETTINGS.weight_decay : 0;
      for (let e = 0; e < x.length; e++) {
        let d = g[i]![e]! * clip;
        if (optim === "sgd") {
          x[e]! -= lr * (d + decay * x[e]!);
        } else if (optim === "rmsprop") {
          d += decay * x[e]!;
          v[i]![e] = 0.99 * v[i]![e]! + 0.01 * d * d;
          x[e]! -= lr * d / (Math.sqrt(v[i]![e]!) + 1e-8);
        } else {
          if (wrong.coupledDecay) d += decay * x[e]!;
          else x[e]! *= 1 - lr * decay;
          m[i]![e] = 0.9 * m[i]![e]! + 0.1 * d;
          v[i]![e] = 0.99 * v[i]![e]! + 0.01 * d * d;
          const c1 = wrong.noBiasCorrection ? 1 : 1 - 0.9 ** t,
            c2 = wrong.noBiasCorrection ? 1 : 1 - 0.99 ** t;
          x[e]! -= lr / c1 * m[i]![e]! / (Math.sqrt(v[i]![e]! / c2) + 1e-8);
        }
      }
    });
  }
  return { w, m, v, norms, applied: t };
}

/** Starts parameters and runs the steps `[from, to]` on the device. */
function fill(pages: ParameterPages): void {
  SPECS.forEach((s, i) => pages.tensors.get(s.name)!.write(start(i)));
}

async function walk(settings: OptimizerSettings, poison: readonly number[] = []) {
  await openGpu();
  const pages = createParameterPages(SPECS, "adapter");
  fill(pages);
  const optimizer = createOptimizer(pages, settings);
  const norms: number[] = [], clips: number[] = [];
  for (let step = 1; step <= STEPS; step++) {
    pages.zeroGrad();
    SPECS.forEach((s, i) => {
      const g = gradient(i, step);
      if (i === 2 && poison.includes(step)) g[17] = step % 2 ? NaN : Infinity;
      pages.tensors.get(s.name)!.grad!.write(g);
    });
    await optimizer.step({ lr: lrAt(step), step, gradScale: GRAD_SCALE });
    const metrics = await optimizer.metrics.data();
    norms.push(metrics[METRICS.norm]!);
    clips.push(metrics[METRICS.clip]!);
  }
  const w = [];
  for (const s of SPECS) w.push(await pages.tensors.get(s.name)!.data());
  const metrics = await optimizer.metrics.data();
  optimizer.dispose();
  pages.dispose();
  return { w, norms, clips, metrics };
}

const largest = (a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]) =>
  Math.max(0, ...a.map((x, i) => largestError(x, b[i]!)));

/**
 * Each step rounds w (|w| < 1.25) three times and adds an update below 3 lr that carries about 20 roundings (moments,
 * corrections to 4 ulp, root, quotient, clip): 20 steps * (4 * 1.25 + 20 * 3 * 1e-2) * 2^-24 = 6.7e-6. RMSprop's
 * first updates are lr / sqrt(0.01) = 10 lr, which triples the second term.
 */
const TOLERANCE = STEPS * (4 * 1.25 + 20 * 10 * 1e-2) * 2 ** -24;

for (const optim of ["adamw_torch", "adamw_torch_fused", "sgd", "rmsprop"]) {
  Deno.test(`optimizer: ${optim} follows the definition over 20 steps of a changing schedule`, async () => {
    const got = await walk({ ...SETTINGS, optim });
    const expected = oracle(optim);
    const error = largest(got.w, expected.w);
    assert.ok(error <= TOLERANCE, `error ${error} beyond ${TOLERANCE}`);
    // a sum of 412 squares in f32, then a root
    got.norms.forEach((n, i) =>
      assert.ok(Math.abs(n / expected.norms[i]! - 1) < 32 * 2 ** -24, `norm of step ${i + 1}`)
    );
    assert.ok(
      got.clips.some((c) => c === 1) && got.clips.some((c) => c < 1),
      "both kinds of step must occur",
    );
    assert.equal(got.metrics[METRICS.skipped], 0);
  });
}

Deno.test("optimizer: wrong copies fail the same comparison", async () => {
  const got = await walk(SETTINGS);
  const mistakes: Wrong[] = [
    { noBiasCorrection: true },
    { coupledDecay: true },
    { frozenLr: true },
    { decayEverywhere: true },
    { noClip: true },
  ];
  for (const wrong of mistakes) {
    const error = largest(got.w, oracle("adamw_torch", wrong).w);
    assert.ok(error > 20 * TOLERANCE, `${JSON.stringify(wrong)} passes with ${error}`);
  }
});

Deno.test("optimizer: NaN and infinite gradients skip the step and are counted", async () => {
  const skip = [1, 6, 7];
  const got = await walk(SETTINGS, skip);
  const expected = oracle("adamw_torch", {}, skip);
  assert.ok(largest(got.w, expected.w) <= TOLERANCE);
  assert.equal(got.metrics[METRICS.skipped], 3);
  assert.equal(got.metrics[METRICS.applied], 1);
  for (const s of skip) assert.ok(!Number.isFinite(got.norms[s - 1]!));
});

Deno.test("optimizer: bias corrections are right to a few ulp from the first step to the last", async () => {
  await openGpu();
  const pages = createParameterPages([{ name: "w", shape: [4], decay: true }], "adapter");
  const optimizer = createOptimizer(pages, { adam_beta1: 0.9, adam_beta2: 0.999 });
  for (const step of [1, 2, 5, 6, 50, 499, 500, 501, 5000, 100_000]) {
    await optimizer.step({ lr: 0, step, gradScale: 1 });
    const metrics = await optimizer.metrics.data();
    // 4 ulp for the logarithm's and product's rounding, the series and the root; exp near 1/2 adds its own 3
    const c1 = 1 - 0.9 ** step, c2 = Math.sqrt(-Math.expm1(step * Math.log(0.999)));
    assert.ok(Math.abs(metrics[METRICS.correction1]! / c1 - 1) < 8 * 2 ** -24, `1 - 0.9^${step}`);
    assert.ok(Math.abs(metrics[METRICS.correction2]! / c2 - 1) < 8 * 2 ** -24, `sqrt(1 - 0.999^${step})`);
  }
  optimizer.dispose();
  pages.dispose();
});

Deno.test("optimizer: no clipping when max_grad_norm is 0", async () => {
  const got = await walk({ ...SETTINGS, max_grad_norm: 0 });
  assert.ok(got.clips.every((c) => c === 1));
  assert.ok(largest(got.w, oracle("adamw_torch", { noClip: true }).w) <= TOLERANCE);
});

Deno.test("optimizer: a step reads nothing back, and clearing is one command a page", async () => {
  const gpu = await openGpu();
  const pages = createParameterPages(SPECS, "adapter");
  const optimizer = createOptimizer(pages, SETTINGS);
  const before = gpu.stream.counters();
  for (let step = 1; step <= 3; step++) {
    pages.zeroGrad();
    await optimizer.step({ lr: 1e-3, step, gradScale: 1 });
  }
  const after = gpu.stream.counters();
  assert.equal(after.readbacks, before.readbacks);
  assert.equal(after.fences, before.fences);
  assert.equal(after.dispatches - before.dispatches, 3 * (2 * pages.pages.length + 1));
  optimizer.dispose();
  pages.dispose();
});

Deno.test("optimizer: saved state continues bit for bit", async () => {
  await openGpu();
  const run = async (stop: boolean) => {
    let pages = createParameterPages(SPECS, "adapter");
    fill(pages);
    let optimizer = createOptimizer(pages, SETTINGS);
    for (let step = 1; step <= 10; step++) {
      SPECS.forEach((s, i) => {
        const g = gradient(i, step);
        if (step === 3) g[0] = NaN;
        pages.tensors.get(s.name)!.grad!.write(g);
      });
      await optimizer.step({ lr: lrAt(step), step, gradScale: GRAD_SCALE });
      if (!stop || step !== 5) continue;
      const values = new Map<string, Float32Array<ArrayBuffer>>(),
        state = new Map<string, Uint8Array<ArrayBuffer>>();
      for (const [name, t] of pages.tensors) values.set(name, await t.data());
      for (const { name, data } of await optimizer.saveState()) {
        state.set(name, Uint8Array.from(data.flatMap((piece) => [...piece])));
      }
      optimizer.dispose();
      pages.dispose();
      pages = createParameterPages(SPECS, "adapter");
      optimizer = createOptimizer(pages, SETTINGS);
      for (const [name, t] of pages.tensors) t.write(values.get(name)!);
      optimizer.loadState((name) => state.get(name)!);
    }
    const out = [];
    for (const s of SPECS) out.push(await pages.tensors.get(s.name)!.data());
    optimizer.dispose();
    pages.dispose();
    return out;
  };
  assert.deepEqual(await run(true), await run(false));
});

Deno.test("optimizer: pages beyond one binding and many small pages give the same update", async () => {
  const whole = await walk(SETTINGS);
  await openGpu({ maxBinding: 512 }); // 128 floats: each parameter alone, and 'b' and 'norm' cut in two
  try {
    const cut = await walk(SETTINGS);
    const w = cut.w.map((x, i) => largest([x], [whole.w[i]!]));
    // only the order of the norm's sum differs
    assert.ok(Math.max(...w) <= TOLERANCE, `${w}`);
  } finally {
    await openGpu({});
  }
});

Deno.test("optimizer: an unknown name lists the known ones", async () => {
  await openGpu();
  const pages = createParameterPages(SPECS, "adapter");
  for (const optim of ["adam", "constructor"]) {
    assert.throws(
      () => createOptimizer(pages, { optim }),
      (e) => e instanceof NibbleError && e.code === "optim/unknown" && e.message.includes("adamw_torch"),
    );
  }
  pages.dispose();
});

Deno.test("pages: layout, views, clearing and release", async () => {
  const gpu = await openGpu();
  const before = gpu.pool.report().liveBytes;
  const pages = createParameterPages(SPECS, "adapter");
  assert.deepEqual(pages.pages.map((p) => [p.decay, p.parameters.map((q) => q.name).join(), p.value.size]), [
    [true, "a,b", 128 + 192],
    [false, "bias,norm", 64 + 192],
  ]);
  assert.equal(pages.count, 77 + 5 + 192 + 130);
  for (const t of pages.tensors.values()) {
    assert.equal(t.offset % 256, 0);
    assert.equal(t.grad!.offset, t.offset);
    assert.ok(t.requiresGrad);
  }
  assert.ok(pages.pages.every((p) => !p.quantizable), "all are below 4,096 elements");
  pages.tensors.get("b")!.grad!.write(new Float32Array(192).fill(2));
  pages.tensors.get("b")!.write(new Float32Array(192).fill(3));
  const page = pages.pages[0]!;
  assert.equal((await page.grad.data()).reduce((x, y) => x + y), 384);
  assert.deepEqual([...(await page.value.data()).slice(127, 129)], [0, 3]);
  pages.zeroGrad();
  assert.equal((await page.grad.data()).some((x) => x !== 0), false);
  pages.dispose();
  assert.equal(gpu.pool.report().liveBytes, before);
  assert.throws(() => createParameterPages([SPECS[0]!, SPECS[0]!], "adapter"), /twice/);
  assert.throws(() => createParameterPages([], "adapter"), /no trainable/);
});
