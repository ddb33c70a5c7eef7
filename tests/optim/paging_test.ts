import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { rehearse } from "../../lib/gpu/dry.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import {
  createOptimizer,
  createParameterPages,
  METRICS,
  type OptimizerSettings,
} from "../../lib/optim/mod.ts";
import { gpuTest } from "../gpu_helper.ts";
import { LARGE, startWalk, stateOf } from "./reference_helper.ts";

/** Paged optimizers and what they are when nothing is paged. */
const PAIRS = [
  ["paged_adamw_32bit", "adamw_torch"],
  ["paged_adamw_8bit", "adamw_bnb_8bit"],
  ["paged_lion_32bit", "lion_32bit"],
  ["paged_lion_8bit", "lion_8bit"],
] as const;
const STEPS = 10;
/** Two large parameters, whose state moves, and one that is not worth a journey. */
const SPECS = [...LARGE.slice(0, 2), { name: "norm", shape: [9], decay: false }];

const settingsOf = (optim: string, more: OptimizerSettings = {}): OptimizerSettings => ({
  ...{ optim, weight_decay: 0.1, max_grad_norm: 1 },
  ...more,
});

/** Parameters, metrics and state after the steps; one step has a gradient that is not finite. */
async function run(settings: OptimizerSettings) {
  const walk = startWalk(SPECS, settings);
  const state = gpu().pool.report().live.optimizer;
  for (let step = 1; step <= STEPS; step++) {
    await walk.advance(step, step);
    if (step !== 2) continue;
    walk.pages.tensors.get("w")!.grad!.write(new Float32Array([NaN]));
    await walk.optimizer.step({ lr: 1, step: 1000, gradScale: 1 });
    walk.pages.zeroGrad();
    // a skipped step was counted beyond the numbering of the others: take it back
    const metrics = await walk.optimizer.metrics.data();
    assert.equal(metrics[METRICS.applied], 0);
    metrics[METRICS.skipped] = 0;
    walk.optimizer.metrics.write(metrics);
  }
  const after = gpu().pool.report().live.optimizer;
  assert.equal(after, state, "stepping takes no device memory");
  const out = {
    values: await walk.values(),
    state: await stateOf(walk),
    hostBytes: walk.optimizer.hostBytes,
    device: after,
  };
  walk.dispose();
  return out;
}

for (const [paged, plain] of PAIRS) {
  gpuTest(`paging: ${paged} gives the bits of ${plain}, whatever stays on the device`, async () => {
    const base = await run(settingsOf(plain));
    assert.equal(base.hostBytes, 0);
    const bits = paged.includes("8bit") ? 8 : 32, states = paged.includes("lion") ? 1 : 2;
    // slots of nearly 1,792 elements: three chunks a page
    const slotBytes = (bits === 8 ? 4400 : 16384) * states / 2;
    const host = new Set<number>(), device = new Set<number>();
    for (const residentBytes of [0, 1.5 * slotBytes, 1e9]) {
      const got = await run(settingsOf(paged, { paging: { slotBytes, residentBytes } }));
      assert.deepEqual(got.values, base.values, `parameters with ${residentBytes} bytes on the device`);
      assert.deepEqual(got.state, base.state, `state with ${residentBytes} bytes on the device`);
      if (residentBytes === 1e9) assert.equal(got.hostBytes, 0, "all fits");
      else {assert.ok(
          got.hostBytes > 2 * slotBytes && got.device < base.device,
          `${got.hostBytes}, ${got.device}`,
        );}
      host.add(got.hostBytes);
      device.add(got.device);
    }
    assert.equal(host.size, 3, "three divisions");
    assert.equal(device.size, 3);
  });
}

gpuTest("paging: the device takes two slots, however large the state", () => {
  const slotBytes = 65536;
  const take = (rows: number) => {
    const before = gpu().pool.report().live.optimizer;
    const pages = createParameterPages([{ name: "w", shape: [rows, 256], decay: true }], "adapter");
    const optimizer = createOptimizer(pages, { optim: "paged_adamw_32bit", paging: { slotBytes } });
    const bytes = { device: gpu().pool.report().live.optimizer - before, host: optimizer.hostBytes };
    optimizer.dispose();
    pages.dispose();
    return bytes;
  };
  const small = take(320), large = take(3200);
  assert.equal(large.host, 3200 * 256 * 8);
  assert.ok(
    small.device <= 2 * slotBytes + 8192 && large.device <= 2 * slotBytes + 8192,
    `${small.device}, ${large.device}`,
  );
});

gpuTest("paging: state moves between paged and unpaged, and a piece gone astray shows", async () => {
  const plain = settingsOf("adamw_bnb_8bit"),
    paged = settingsOf("paged_adamw_8bit", { paging: { slotBytes: 4400 } });
  const whole = startWalk(SPECS, plain);
  await whole.advance(1, STEPS);
  const straight = { values: await whole.values(), state: await stateOf(whole) };
  whole.dispose();
  for (const [first, second] of [[plain, paged], [paged, plain], [paged, paged]] as const) {
    for (const lose of [false, true]) {
      const walk = startWalk(SPECS, first);
      await walk.advance(1, 2);
      const state = await stateOf(walk), values = await walk.values();
      walk.dispose();
      if (lose) state.get("state1.0")!.fill(127, 512, 1024); // the signed map's zero: one chunk's mean is forgotten
      const next = startWalk(SPECS, second);
      SPECS.forEach((s, i) => next.pages.tensors.get(s.name)!.write(values[i] as Float32Array<ArrayBuffer>));
      next.optimizer.loadState((name) => state.get(name)!);
      await next.advance(3, STEPS);
      const got = { values: await next.values(), state: await stateOf(next) };
      next.dispose();
      const same = () => {
        assert.deepEqual(got.values, straight.values);
        assert.deepEqual(got.state, straight.state);
      };
      if (lose) assert.throws(same);
      else same();
    }
  }
});

gpuTest("paging: a rehearsal counts the bytes that the device and the host take", async () => {
  const measure = async (residentBytes: number) => {
    const walk = startWalk(
      SPECS,
      settingsOf("paged_adamw_32bit", { paging: { slotBytes: 16384, residentBytes } }),
    );
    await walk.advance(1, 2);
    const bytes = [gpu().pool.report().live.optimizer, walk.optimizer.hostBytes];
    walk.dispose();
    return bytes;
  };
  const seen = new Set<number>();
  for (const residentBytes of [0, 25000, 1e9]) {
    const real = await measure(residentBytes);
    let rehearsed: number[] = [];
    await rehearse(gpu(), Infinity, async () => {
      rehearsed = await measure(residentBytes);
    });
    assert.deepEqual(rehearsed, real, `${residentBytes} bytes on the device`);
    seen.add(real[0]!);
  }
  assert.equal(seen.size, 3, "three divisions");
});

gpuTest("paging: a state that two slots could hold stays on the device", () => {
  const walk = startWalk(SPECS, settingsOf("paged_adamw_32bit", { paging: { slotBytes: 40000 } }));
  assert.equal(walk.optimizer.hostBytes, 0);
  walk.dispose();
});

gpuTest("paging: state of another shape is refused by name", () => {
  const walk = startWalk(SPECS, settingsOf("paged_adamw_8bit", { paging: { slotBytes: 4400 } }));
  assert.throws(
    () => walk.optimizer.loadState((name) => new Uint8Array(name === "absmax1.0" ? 8 : 4864)),
    (e) => e instanceof NibbleError && e.code === "optim/state" && /absmax1\.0|state/.test(e.message),
  );
  walk.dispose();
});
