import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { createOptimizer, createParameterPages } from "../../lib/optim/mod.ts";
import { asOnGpu, EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { stateOf, threeSteps } from "./reference_helper.ts";

/** Sums of up to 4,480 squares in another order are off by about their length's root, 70 roundings; so is the update,
 * which is at most lr = 1e-2 on average and some ten times that at an element. */
const TOLERANCE = 3 * (2 + 0.1 * 140) * EPS;

function assertNear(a: readonly Float32Array[], b: readonly Float32Array[]): void {
  a.forEach((w, i) => w.forEach((x, e) => assert.ok(Math.abs(x - b[i]![e]!) <= TOLERANCE, `${i}[${e}]`)));
}

gpuTest("adafactor: the workgroups of a GPU give what those of a processor do", async () => {
  const here = await threeSteps("adafactor"), compiled = gpu().kernels.compiled();
  const there = await asOnGpu(() => threeSteps("adafactor"));
  assert.ok(gpu().kernels.compiled() > compiled, "other kernels ran");
  assertNear(there.values, here.values);
});

const matrix = async () => {
  const pages = createParameterPages([{ name: "m", shape: [301, 17], decay: true }], "adapter");
  const optimizer = createOptimizer(pages, { optim: "adafactor", weight_decay: 0.1, max_grad_norm: 0 });
  const t = pages.tensors.get("m")!, before = gpu().stream.counters().dispatches;
  for (let step = 1; step <= 3; step++) {
    t.grad!.write(randoms(t.size, step).map((g, i) => g * (1 + i % 7)));
    await optimizer.step({ lr: 1e-2, step, gradScale: 1 });
  }
  const dispatches = gpu().stream.counters().dispatches - before;
  const out = [await t.data()], names = [...(await stateOf({ optimizer })).keys()];
  optimizer.dispose();
  pages.dispose();
  return { out, names, dispatches };
};
let whole: Awaited<ReturnType<typeof matrix>>;

gpuTest("adafactor: state under the parameter's name, one number a row and one a column", async () => {
  whole = await matrix();
  assert.deepEqual(whole.names, ["exp_avg_sq_row.m", "exp_avg_sq_col.m", "metrics"]);
});

gpuTest("adafactor: a matrix beyond one binding in ranges of rows", async () => {
  const ranged = await matrix();
  assertNear(ranged.out, whole.out);
  // of six kernels a step, four take a range at a time, and so does the norm's
  assert.ok(ranged.dispatches >= whole.dispatches + 3 * 4 * 2, `${ranged.dispatches}, ${whole.dispatches}`);
}, { maxBinding: 8192 }); // ranges of 128 rows: three of them
