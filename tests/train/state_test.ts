import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import {
  historyOf,
  logMetrics,
  newTrainerState,
  noteBest,
  readTrainerState,
  speedMetrics,
  writeResults,
  writeTrainerState,
} from "../../lib/train/state.ts";

// The keys of TrainerState in Transformers 4.57, in the order in which json.dumps(sort_keys=True) writes them.
const KEYS = [
  "best_global_step",
  "best_metric",
  "best_model_checkpoint",
  "epoch",
  "eval_steps",
  "global_step",
  "is_hyper_param_search",
  "is_local_process_zero",
  "is_world_process_zero",
  "log_history",
  "logging_steps",
  "max_steps",
  "num_input_tokens_seen",
  "num_train_epochs",
  "save_steps",
  "stateful_callbacks",
  "total_flos",
  "train_batch_size",
  "trial_name",
  "trial_params",
];

function withFolder(test: (folder: string) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    test(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}
const code = (wanted: string) => (e: unknown) => e instanceof NibbleError && e.code === wanted;

Deno.test("trainer_state.json has exactly Transformers' keys, sorted, and comes back the same", () => {
  withFolder((folder) => {
    const state = newTrainerState({ max_steps: 40, num_train_epochs: 2, train_batch_size: 4 });
    state.global_step = 10;
    state.epoch = 0.5;
    logMetrics(state, { loss: 3.41237, grad_norm: 0.8312345, learning_rate: 9.8e-4 });
    logMetrics(state, { eval_loss: 3.3333333, eval_runtime: 1.5 });
    writeTrainerState(folder, state);
    const text = Deno.readTextFileSync(join(folder, "trainer_state.json"));
    assert.deepEqual(Object.keys(JSON.parse(text)), KEYS);
    assert.deepEqual(Object.keys(JSON.parse(text).log_history[0]), [
      "epoch",
      "grad_norm",
      "learning_rate",
      "loss",
      "step",
    ]);
    assert.deepEqual(readTrainerState(folder), state);
    assert.deepEqual(
      [...Deno.readDirSync(folder)].map((e) => e.name),
      ["trainer_state.json"],
      "nothing beside it",
    );
  });
});

Deno.test("a log entry rounds the training loss alone, and keeps what is not finite as null", () => {
  const state = newTrainerState();
  state.global_step = 3;
  const entry = logMetrics(state, {
    loss: 1.23456,
    eval_loss: 1.23456,
    grad_norm: Infinity,
    learning_rate: NaN,
  });
  assert.deepEqual(entry, {
    step: 3,
    epoch: 0,
    loss: 1.2346,
    eval_loss: 1.23456,
    grad_norm: null,
    learning_rate: null,
  });
  assert.deepEqual(historyOf(state, "loss"), [{ step: 3, loss: 1.2346 }]);
  assert.deepEqual(historyOf(state, "grad_norm"), []);
});

Deno.test("what Python wrote is read: NaN, missing newer keys, NaN inside a string left alone", () => {
  withFolder((folder) => {
    Deno.writeTextFileSync(
      join(folder, "trainer_state.json"),
      `{"epoch": 1.0, "global_step": 2, "max_steps": 4, "best_model_checkpoint": "out/NaN, Infinity \\"NaN\\"",
        "log_history": [{"step": 1, "epoch": 0.5, "grad_norm": NaN, "loss": -Infinity}]}`,
    );
    const state = readTrainerState(folder);
    assert.deepEqual(state.log_history, [{ step: 1, epoch: 0.5, grad_norm: null, loss: null }]);
    assert.equal(state.best_model_checkpoint, 'out/NaN, Infinity "NaN"');
    assert.equal(state.best_global_step, null);
  });
});

Deno.test("a state that is missing or damaged is said clearly", () => {
  withFolder((folder) => {
    assert.throws(() => readTrainerState(folder), code("train/no-state"));
    for (
      const text of [
        "",
        "[]",
        '{"epoch": 1, "global_step": 2',
        '{"epoch": 1, "global_step": "2", "max_steps": 4}',
        '{"epoch": 1, "global_step": -2, "max_steps": 4}',
        '{"epoch": 1, "global_step": 2.5, "max_steps": 4}',
        '{"epoch": 1, "global_step": 2, "max_steps": 4, "log_history": [3]}',
      ]
    ) {
      Deno.writeTextFileSync(join(folder, "trainer_state.json"), text);
      assert.throws(() => readTrainerState(folder), code("train/bad-state"), text);
    }
  });
});

Deno.test("the best is kept by direction; NaN never wins", () => {
  const state = newTrainerState();
  state.global_step = 1;
  assert.equal(noteBest(state, NaN, false), false);
  assert.equal(noteBest(state, 3, false), true);
  state.global_step = 2;
  assert.equal(noteBest(state, 3, false), false, "an equal value is no improvement");
  assert.equal(noteBest(state, 4, false), false);
  assert.deepEqual([state.best_metric, state.best_global_step], [3, 1]);
  assert.equal(noteBest(state, 4, true), true);
  assert.deepEqual([state.best_metric, state.best_global_step], [4, 2]);
});

Deno.test("results: one file a split, all of them together in a third, even over a damaged one", () => {
  withFolder((folder) => {
    const read = (name: string) => JSON.parse(Deno.readTextFileSync(join(folder, name)));
    Deno.writeTextFileSync(join(folder, "all_results.json"), '{"half');
    writeResults(folder, "train", {
      train_loss: 2.5,
      epoch: 1,
      ...speedMetrics("train", 8, { samples: 20, steps: 10 }),
    });
    writeResults(folder, "eval", { eval_loss: NaN, epoch: 2 });
    assert.deepEqual(read("train_results.json"), {
      epoch: 1,
      train_loss: 2.5,
      train_runtime: 8,
      train_samples_per_second: 2.5,
      train_steps_per_second: 1.25,
    });
    assert.deepEqual(read("eval_results.json"), { epoch: 2, eval_loss: null });
    assert.deepEqual(read("all_results.json"), {
      ...read("train_results.json"),
      ...read("eval_results.json"),
    });
  });
  assert.deepEqual(speedMetrics("eval", 0, { samples: 3 }), { eval_runtime: 0 }, "no division by zero");
});
