import assert from "node:assert/strict";
import { defaultSettings, type TrainSettings } from "../../lib/train/settings.ts";
import { timing } from "../../lib/train/when.ts";

const BASE: TrainSettings = {
  ...defaultSettings(),
  ...{ logging_steps: 4, eval_strategy: "steps", eval_steps: 3, save_strategy: "steps", save_steps: 5 },
};

/** Steps of a run at which each thing happens. */
function happens(more: Partial<TrainSettings>, maxSteps = 10, stepsPerEpoch = 4) {
  const t = timing({ ...BASE, ...more }, maxSteps, stepsPerEpoch);
  const steps = Array.from({ length: maxSteps }, (_, i) => i + 1);
  return { log: steps.filter(t.logAt), eval: steps.filter(t.evalAt), save: steps.filter(t.saveAt), t };
}

Deno.test("timing: by steps, the last saved, the last evaluation left to the end", () => {
  const { log, eval: evaluations, save } = happens({});
  assert.deepEqual([log, evaluations, save], [[4, 8], [3, 6, 9], [5, 10]]);
  assert.deepEqual(happens({ eval_steps: 5 }).eval, [5]);
  assert.deepEqual(happens({}, 11).save, [5, 10, 11]);
  assert.deepEqual(happens({ eval_steps: null }).eval, [4, 8], "eval_steps follows logging_steps");
  assert.deepEqual(happens({ logging_first_step: true }).log, [1, 4, 8]);
});

Deno.test("timing: shares of the run are rounded up, as Trainer does", () => {
  const { log, eval: evaluations, save, t } = happens({
    logging_steps: 0.1,
    eval_steps: 0.25,
    save_steps: 0.5,
  }, 11);
  assert.deepEqual([t.logging_steps, t.eval_steps, t.save_steps], [2, 3, 6]);
  assert.deepEqual([log, evaluations, save], [[2, 4, 6, 8, 10], [3, 6, 9], [6, 11]]);
  assert.deepEqual(happens({ save_steps: 0.05 }, 3).save, [1, 2, 3], "never less than a step");
});

Deno.test("timing: by epochs, one that is cut short included; and never", () => {
  const epochs = happens({ logging_strategy: "epoch", eval_strategy: "epoch", save_strategy: "epoch" });
  assert.deepEqual([epochs.log, epochs.eval, epochs.save], [[4, 8, 10], [4, 8], [4, 8, 10]]);
  const never = happens({ logging_strategy: "no", eval_strategy: "no", save_strategy: "no" });
  assert.deepEqual([never.log, never.eval, never.save], [[], [], []]);
});

Deno.test("timing: where the best model counts, the last step is evaluated before it is saved", () => {
  assert.deepEqual(happens({ load_best_model_at_end: true, eval_steps: 5 }).eval, [5, 10]);
  assert.deepEqual(
    happens({ load_best_model_at_end: true, eval_strategy: "epoch", save_strategy: "epoch" }).eval,
    [4, 8, 10],
  );
});

Deno.test("timing: eval_delay holds evaluations back, by steps or by epochs", () => {
  assert.deepEqual(happens({ eval_delay: 6 }).eval, [6, 9]);
  assert.deepEqual(happens({ eval_delay: 7 }).eval, [9]);
  assert.deepEqual(happens({ eval_delay: 1.5, eval_strategy: "epoch" }).eval, [8]);
});

Deno.test("timing: save_strategy best leaves saving to the evaluations, the last step's among them", () => {
  const { eval: evaluations, save } = happens({ save_strategy: "best", eval_steps: 5 });
  assert.deepEqual([evaluations, save], [[5, 10], []]);
});
