import assert from "node:assert/strict";
import { METRICS, OPTIMIZERS, type OptimizerSettings } from "../../lib/optim/mod.ts";
import { gpuTest } from "../gpu_helper.ts";
import { LARGE, startWalk, stateOf, type Walk } from "./reference_helper.ts";

/** Two large parameters, one of a few elements: every kind of state. */
const SPECS = [...LARGE.slice(0, 2), { name: "norm", shape: [9], decay: false }];
const ARGS: Record<string, string> = {
  sgd: "momentum=0.9",
  rmsprop: "momentum=0.9,centered=true",
  adagrad: "lr_decay=0.1",
};

const start = (optim: string) => {
  const settings: OptimizerSettings = { optim, optim_args: ARGS[optim] ?? null, weight_decay: 0.1 };
  return startWalk(SPECS, { ...settings, paging: { slotBytes: 4400 } });
};
const snapshot = async (walk: Walk) => ({ values: await walk.values(), state: await stateOf(walk) });

for (const optim of OPTIMIZERS) {
  gpuTest(
    `${optim}: a gradient that is not finite changes nothing but the count of skipped steps`,
    async () => {
      const walk = start(optim);
      await walk.advance(1, 2);
      const before = await snapshot(walk);
      for (const poison of [NaN, Infinity]) {
        walk.pages.tensors.get("v")!.grad!.write(Float32Array.of(poison), 4098);
        await walk.optimizer.step({ lr: 1, step: 3, gradScale: 1 });
      }
      const after = await snapshot(walk);
      const metrics = new Float32Array(after.state.get("metrics")!.buffer);
      assert.deepEqual([metrics[METRICS.skipped], metrics[METRICS.applied]], [2, 0]);
      for (const { state } of [before, after]) state.delete("metrics");
      assert.deepEqual(after, before);
      walk.dispose();
    },
  );

  gpuTest(`${optim}: saved and restored after two steps, it goes on to the same bits`, async () => {
    const straight = start(optim);
    await straight.advance(1, 4);
    const want = await snapshot(straight);
    straight.dispose();

    const first = start(optim);
    await first.advance(1, 2);
    const { values, state } = await snapshot(first);
    first.dispose();
    assert.ok(
      optim === "adafactor" || [...state.keys()].some((name) => name.endsWith(".0")),
      "there is state",
    );
    for (const forgotten of [undefined, [...state.keys()][0]!]) {
      const second = start(optim);
      SPECS.forEach((s, i) =>
        second.pages.tensors.get(s.name)!.write(values[i] as Float32Array<ArrayBuffer>)
      );
      second.optimizer.loadState((name) => {
        const bytes = state.get(name)!;
        return name === forgotten ? new Uint8Array(bytes.length).fill(1) : bytes;
      });
      await second.advance(3, 4);
      const got = await snapshot(second);
      second.dispose();
      if (forgotten) assert.notDeepEqual(got, want, `${forgotten} matters`);
      else assert.deepEqual(got, want);
    }
  });
}
