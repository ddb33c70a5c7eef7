import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { learningRate, type ScheduleKwargs, SCHEDULES, warmupSteps } from "../../lib/optim/mod.ts";

const at = (name: string, step: number, kwargs?: ScheduleKwargs, warmup = 4) =>
  learningRate(name, { step, total: 24, warmup, base: 2e-4, kwargs }) / 2e-4;
const near = (a: number, b: number) => assert.ok(Math.abs(a - b) < 1e-12, `${a} is not ${b}`);

/** What a schedule cannot do without. */
const NEEDED: Record<string, ScheduleKwargs> = {
  cosine_with_min_lr: { min_lr: 1e-5 },
  cosine_warmup_with_min_lr: { min_lr: 1e-5 },
  warmup_stable_decay: { num_decay_steps: 4 },
};

Deno.test("schedules: every one but two warms up linearly from 0 to the base", () => {
  const first = (name: string, s: number) =>
    name === "constant" ? 1 : name === "cosine_warmup_with_min_lr" ? (s + 1) / 4 : s / 4;
  for (const name of SCHEDULES) {
    for (let s = 0; s < 4; s++) near(at(name, s, NEEDED[name]), first(name, s));
    if (name !== "cosine_warmup_with_min_lr") near(at(name, 4, NEEDED[name]), 1);
  }
});

Deno.test("schedules: arguments of another schedule, slopes that there are not, and two lowest rates are refused", () => {
  const refused = (name: string, kwargs: ScheduleKwargs, part: RegExp) =>
    assert.throws(
      () => at(name, 5, kwargs),
      (e: NibbleError) => e.code === "optim/schedule" && part.test(e.message),
    );
  refused("linear", { min_lr: 1e-5 }, /linear takes no argument 'min_lr'.*It takes none/s);
  refused("cosine", { power: 2 }, /It takes num_cycles/);
  refused("warmup_stable_decay", {}, /num_decay_steps is missing/);
  refused("warmup_stable_decay", { num_decay_steps: 4, decay_type: "steep" }, /no slope 'steep'.*1-sqrt/s);
  refused("cosine_with_min_lr", { min_lr: 1e-5, min_lr_rate: 0.1 }, /both given/);
  refused("polynomial", { lr_end: 1 }, /not below learning_rate/);
  refused("reduce_lr_on_plateau", {}, /follows the evaluation/);
  refused("linaer", {}, /Did you mean linear\?/);
});

Deno.test("schedules: values after warm-up, worked out by hand", () => {
  near(at("linear", 14), 0.5);
  near(at("linear", 24), 0);
  near(at("linear", 30), 0);
  near(at("cosine", 9), 0.5 * (1 + Math.SQRT1_2));
  near(at("cosine", 14), 0.5);
  near(at("cosine", 24), 0);
  near(at("constant_with_warmup", 20), 1);
  near(at("cosine_with_min_lr", 14, { min_lr_rate: 0.1 }), 0.55);
  near(at("cosine_with_min_lr", 24, { min_lr: 2e-5 }), 0.1);
  near(at("cosine_with_restarts", 9, { num_cycles: 2 }), 0.5);
  near(at("cosine_with_restarts", 14, { num_cycles: 2 }), 1);
  near(at("cosine_with_restarts", 24, { num_cycles: 2 }), 0);
  near(at("inverse_sqrt", 16), 0.5); // timescale = warm-up 4: 1 / sqrt(16 / 4)
  near(at("inverse_sqrt", 10_000, {}, 0), 1 / Math.sqrt(2));
  near(at("polynomial", 14, { power: 2, lr_end: 0 }), 0.25);
  near(at("polynomial", 24), 1e-7 / 2e-4);
  near(at("polynomial", 40), 1e-7 / 2e-4);
});

Deno.test("schedules: warm-up steps from steps, a part of the run, or a ratio", () => {
  assert.equal(warmupSteps({ warmup_steps: 7, warmup_ratio: 0.5, total: 100 }), 7);
  assert.equal(warmupSteps({ warmup_steps: 0.03, total: 101 }), 4);
  assert.equal(warmupSteps({ warmup_steps: 0, warmup_ratio: 0.1, total: 101 }), 11);
  assert.equal(warmupSteps({ total: 50 }), 0);
});

Deno.test("schedules: an unknown name and a missing lowest rate are named", () => {
  const is = (part: string) => (e: unknown) => e instanceof NibbleError && e.message.includes(part);
  assert.throws(() => at("cosin", 5), is("cosine_with_restarts"));
  assert.throws(() => at("toString", 5), is("toString"));
  assert.throws(() => at("cosine_with_min_lr", 5), is("min_lr_rate"));
});
