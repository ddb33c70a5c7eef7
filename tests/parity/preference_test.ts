/**
 * DPO, ORPO and KTO against TRL's own trainers, from the numbers that preference/make_reference.py left: each loss
 * with its figures and LoRA gradients, and twenty steps of DPO.
 *
 * The yardstick is PyTorch itself: how far its f32 run is from its f64 run. nibble computes in f32 too, with other
 * orders of summation, so it may err by FACTOR times as much.
 */
import assert from "node:assert/strict";
import {
  collateJudged,
  collatePairs,
  type EncodedJudgement,
  type EncodedPair,
  type JudgedBatch,
  type PairBatch,
  type Scores,
} from "../../lib/data/mod.ts";
import { openModel, openSafetensors, readAdapter } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import { type Adapter, adapterShapes } from "../../lib/lora/lora.ts";
import { loadAdapter } from "../../lib/lora/peft.ts";
import { buildModel } from "../../lib/model/load.ts";
import type { Model } from "../../lib/model/model.ts";
import { createOptimizer, createParameterPages, learningRate, type ParameterPages } from "../../lib/optim/mod.ts";
import { differentiate, noGrad } from "../../lib/tensor/tape.ts";
import { keep, scope } from "../../lib/tensor/tensor.ts";
import type { EncodedExample } from "../../lib/text/mod.ts";
import { newLoopState, runLoop, type TrainLog } from "../../lib/train/loop.ts";
import { meansOf, type Objective, PER_STEP } from "../../lib/train/objective.ts";
import { needsReference } from "../../lib/train/objectives/preference_loss.ts";
import { defaultSettings, type TrainSettings } from "../../lib/train/settings.ts";
import { trainTask } from "../../lib/train/task.ts";
import { EPS, gpuTest } from "../gpu_helper.ts";
import { within } from "./within.ts";

const at = (name: string) => new URL(name, import.meta.url).pathname;
const FACTOR = 16;

interface Row {
  prompt: number[];
  chosen: number[];
  rejected: number[];
  answer: number[];
  mismatched: number[];
  label: boolean;
}
interface Case {
  trainer: "dpo" | "orpo" | "kto";
  settings: Partial<TrainSettings>;
  loss: number;
  metrics: Record<string, number>;
  rows: Row[];
  deviation: { loss: number; metrics: number; gradient: number };
}
interface Trajectory {
  steps: number;
  beta: number;
  learning_rate: number;
  warmup_steps: number;
  weight_decay: number;
  max_grad_norm: number;
  batches: Row[][];
  log: Record<string, number[]>;
  deviation: Record<string, number>;
}
const reference: { cases: Record<string, Case>; trajectory: Trajectory } = JSON.parse(
  Deno.readTextFileSync(at("preference/cases.json")),
);

interface Setup {
  model: Model;
  adapter: Adapter;
  pages: ParameterPages;
  dispose(): void;
}

async function setUp(folder: string): Promise<Setup> {
  const files = openModel(at("model"));
  const model = await buildModel(files.config, files.source);
  files.source.close();
  const { config } = readAdapter(at(folder));
  const shapes = adapterShapes(model, { ...config, target_modules: config.target_modules! });
  const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: true })), "adapter");
  const adapter = loadAdapter(model, at(folder), { parameters: pages.tensors });
  return {
    model,
    adapter,
    pages,
    dispose() {
      model.dispose();
      pages.dispose();
    },
  };
}

/** What may be done wrong. */
interface Mistake {
  /** Chosen taken for rejected. */
  flipped?: boolean;
  /** Factor on beta. */
  beta?: number;
  /** Answers begin so many tokens late. */
  late?: number;
}

/** Prompt and answer as one sequence. */
function sequence(prompt: number[], answer: number[], row: number, late = 0): EncodedExample {
  const ids = [...prompt, ...answer];
  return { ids, trained: ids.map((_, i) => i >= Math.min(prompt.length + late, ids.length - 1)), row };
}

function pairBatch(rows: readonly Row[], scores: Scores, mistake: Mistake): PairBatch {
  const pairs: EncodedPair[] = rows.map(({ prompt, chosen, rejected }, row) => {
    const [good, bad] = mistake.flipped ? [rejected, chosen] : [chosen, rejected];
    const of = (answer: number[]) => sequence(prompt, answer, row, mistake.late);
    return { chosen: of(good), rejected: of(bad), row };
  });
  return collatePairs(pairs, [...rows.keys()], scores, 0);
}

function judgedBatch(rows: readonly Row[], scores: Scores, mistake: Mistake): JudgedBatch {
  const examples: EncodedJudgement[] = rows.map(({ prompt, answer, label }, row) => ({
    ...sequence(prompt, answer, row, mistake.late),
    parts: { prompt, answer, bos: 0 },
    label: mistake.flipped ? !label : label,
  }));
  const mismatched = rows.map((r, row) => sequence(r.prompt, r.mismatched, row, mistake.late));
  return collateJudged(examples, mismatched, [...rows.keys()], scores, 0);
}

/** Fills in what the model without its adapter says of a batch. */
async function scoreBatch(objective: Objective, { model, adapter }: Setup, batch: PairBatch | JudgedBatch) {
  if (!needsReference(objective)) return;
  adapter.enabled = false;
  const sums = noGrad(() => scope(() => objective.score(model, batch)));
  adapter.enabled = true;
  sums.forEach((t) => keep(t));
  const rows = (await Promise.all(sums.map((t) => t.data()))).flatMap((values) =>
    [...values].filter((_, i) => i % 2 === 0)
  );
  sums.forEach((t) => t.dispose());
  const n = batch.items.length;
  batch.scores.values = Float32Array.from(rows, (_, i) => rows[(i % 2) * n + Math.floor(i / 2)]!);
}

const sorted = (pages: ParameterPages) => [...pages.tensors].sort(([a], [b]) => a < b ? -1 : 1);
const norm = (x: ArrayLike<number>) => Math.sqrt(Array.from(x).reduce((a, v) => a + v * v, 0));
const distance = (x: ArrayLike<number>, y: ArrayLike<number>) => norm(Array.from(x).map((v, i) => v - y[i]!));

/** Errors of one case, each in units of what is allowed. */
async function caseErrors(name: string, mistake: Mistake = {}) {
  const { trainer, settings, rows, loss, metrics, deviation } = reference.cases[name]!;
  const run = await setUp("adapter_step");
  const { objective } = trainTask({
    ...defaultSettings(trainer),
    ...settings,
    beta: settings.beta! * (mistake.beta ?? 1),
  });
  const scores: Scores = { values: undefined, perItem: 2 };
  const batch = trainer === "kto" ? judgedBatch(rows, scores, mistake) : pairBatch(rows, scores, mistake);
  await scoreBatch(objective, run, batch);
  const totals = objective.counts(batch);
  run.pages.zeroGrad();
  const stats = scope(() => differentiate(() => objective.loss(run.model, batch, { totals }), undefined).output);
  const got = meansOf(objective, await stats.data(), { ...totals, [PER_STEP]: totals[objective.unit]! });
  stats.dispose();
  const gradient: number[] = [];
  for (const [, t] of sorted(run.pages)) {
    gradient.push(...(await t.grad!.data()).map((v) => v / totals[objective.unit]!));
  }
  run.dispose();
  const source = openSafetensors(at("preference/gradients.safetensors"));
  const want = source.readF32(`gradient.${name}`);
  source.close();
  // one number may err by nothing in PyTorch by luck: it is granted the rounding of a few sums of its size
  const allowed = (value: number, by: number) => FACTOR * Math.max(by, 4 * EPS * Math.max(1, Math.abs(value)));
  const errors = Object.entries(metrics).map(([key, value]) => {
    assert.ok(key in got, `${key} is missing among ${Object.keys(got)}`);
    return Math.abs(got[key]! - value) / allowed(value, deviation.metrics);
  });
  return {
    loss: Math.abs(got.loss! - loss) / allowed(loss, deviation.loss),
    figures: Math.max(...errors),
    gradient: distance(gradient, want) / norm(want) / (FACTOR * Math.max(deviation.gradient, 4 * EPS)),
  };
}

for (const name of Object.keys(reference.cases)) {
  gpuTest(`${name}: loss, figures and gradients are TRL's`, async () => {
    for (const [what, error] of Object.entries(await caseErrors(name))) {
      within(`preferences: ${what} over the yardstick`, name, FACTOR * error, FACTOR);
    }
  });
}

for (
  const [what, mistake] of [
    ["the margin's sign flipped", { flipped: true }],
    ["beta off by 2", { beta: 2 }],
    ["the mask one token late", { late: 1 }],
  ] as [string, Mistake][]
) {
  gpuTest(`the comparison can fail: ${what}`, async () => {
    for (const name of ["sigmoid", "orpo", "kto"]) {
      const { loss, figures, gradient } = await caseErrors(name, mistake);
      // far outside: no tolerance in between would let it pass
      for (const error of [loss, figures, gradient]) assert.ok(error > 100, `${name}: only ${error}`);
    }
  });
}

gpuTest("twenty steps of DPO follow TRL's trainer", async () => {
  const { steps, batches, log, deviation, warmup_steps: warmup, ...t } = reference.trajectory;
  const run = await setUp("adapter");
  const { model, pages } = run;
  const { objective } = trainTask({ ...defaultSettings("dpo"), beta: t.beta });
  const windows = batches.map((rows) => pairBatch(rows, { values: undefined, perItem: 2 }, {}));
  for (const batch of windows) await scoreBatch(objective, run, batch);
  const before = new Map<string, Float32Array>();
  for (const [name, value] of pages.tensors) before.set(name, await value.data());
  const optimizer = createOptimizer(pages, { weight_decay: t.weight_decay, max_grad_norm: t.max_grad_norm });
  const logs: TrainLog[] = [];
  await runLoop({
    objective,
    model,
    optimizer,
    pages,
    maxSteps: steps,
    stepsPerEpoch: steps,
    window: (step) => [windows[step]!],
    learningRate: (step) => learningRate("cosine", { step, total: steps, warmup, base: t.learning_rate }),
    dropoutSeed: undefined,
    checkpointing: false,
    logAt: () => true,
    evalAt: () => false,
    saveAt: () => false,
    evalBatches: [],
    state: newLoopState(),
    signal: undefined,
    onLog: (entry) => void logs.push(entry),
    onEval() {},
    onSave: () => Promise.resolve(),
  });
  assert.equal(logs[0]!.loss, Math.fround(Math.LN2), "ln 2 to the bit, or to the last place of the device's log");
  for (const [key, values] of Object.entries(log)) {
    const largest = Math.max(...values.map(Math.abs), 1);
    const allowed = FACTOR * Math.max(deviation[key]!, 4 * EPS * largest);
    values.forEach((value, i) => {
      const error = FACTOR * Math.abs(logs[i]![key]! - value) / allowed;
      within("preferences: 20 steps of DPO, the log over the yardstick", `${key} of step ${i + 1}`, error, FACTOR);
    });
  }
  const source = openSafetensors(at("preference/gradients.safetensors"));
  const want = source.readF32("final");
  source.close();
  const got: number[] = [], start: number[] = [];
  for (const [name, value] of sorted(pages)) {
    got.push(...await value.data());
    start.push(...before.get(name)!);
  }
  const error = distance(got, want) / distance(start, want);
  within("preferences: 20 steps of DPO, adapters over the yardstick", "end", error / deviation.adapter!, FACTOR);
  optimizer.dispose();
  run.dispose();
  gpu().check();
});
