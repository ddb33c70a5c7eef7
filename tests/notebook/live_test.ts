import assert from "node:assert/strict";
import { lineChart } from "../../lib/notebook/chart.ts";
import { liveTraining } from "../../lib/notebook/live.ts";

const LOG = {
  epoch: 0,
  grad_norm: 1,
  learning_rate: 1e-3,
  num_tokens: 9,
  tokens_per_second: 5,
  skipped_steps: 0,
};
const EVAL = { epoch: 0, eval_num_tokens: 1, eval_runtime: 0 };

/** What is printed meanwhile. */
async function printed(work: () => Promise<void>): Promise<unknown[]> {
  const lines: unknown[] = [];
  const { log } = console;
  console.log = (...args) => lines.push(...args);
  try {
    await work();
  } finally {
    console.log = log;
  }
  return lines;
}

Deno.test("logs go to their charts: losses together, rate, speed and memory below", async () => {
  let live: ReturnType<typeof liveTraining>;
  const lines = await printed(async () => {
    live = liveTraining({ title: "Run", metrics: ["rewards/margins"] });
    live.onLog({ ...EVAL, step: 0, eval_loss: 4 });
    live.onLog({ ...LOG, step: 1, loss: 3, "rewards/margins": 0.5 });
    live.onLog({ ...LOG, step: 2, loss: 2, "rewards/margins": 0.75 });
    live.say("Stopped after step 2");
    assert.equal(live.signal.aborted, false);
    await live.finish();
  });
  const [loss, rate, speed, margins, memory] = live!.charts();
  assert.deepEqual(
    loss,
    lineChart({ training: { x: [1, 2], y: [3, 2] }, "held out": { x: [0], y: [4] } }, {
      title: "Run",
      x: "step",
      y: "loss (nats)",
      dashed: ["held out"],
    }),
  );
  assert.deepEqual([rate, speed, margins, memory].map((c) => c!.title), [
    "learning rate",
    "tokens per second",
    "rewards/margins",
    "device MiB",
  ]);
  assert.deepEqual(margins!.kind === "xy" && margins!.traces[0]!.y, [0.5, 0.75]);
  assert.match(String(lines[0]), /^\[figure "Run": Line chart\. training: from 3 to 2 over step 1 to 2/);
  assert.equal(lines[1], "Stopped after step 2");
});

Deno.test("the log of a run that is gone on with comes first", () => {
  const at = (step: number) => ({ step, epoch: 0 });
  const live = liveTraining({}, [{ ...at(1), loss: 3 }, { ...at(1), eval_loss: 4 }, {
    ...at(2),
    train_runtime: 9,
  }]);
  live.onLog({ ...LOG, step: 2, loss: 2 });
  const [loss] = live.charts();
  assert.deepEqual(loss!.kind === "xy" && loss!.traces.map((t) => [t.x, t.y]), [[[1, 2], [3, 2]], [[1], [
    4,
  ]]]);
});
