/**
 * A whole run, stage by stage: device, model, data, plan, evaluation, loop, evaluation, output.
 * @module
 */
import { gpu, type MemoryReport, mib } from "../gpu/mod.ts";
import { initOf } from "../lora/config.ts";
import { unmatchedTargets } from "../lora/targets.ts";
import { describeLoad } from "../model/load.ts";
import { learningRate, warmupSteps } from "../optim/mod.ts";
import { beginCorrected } from "./begin_corrected.ts";
import { writeOutputs } from "./finish.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { type HubPush, openHubPush } from "./hub_push.ts";
import { describeKernels, resumeKernels } from "./kernels.ts";
import { type EvalLog, evaluate, unlessStopped } from "./evaluate.ts";
import { runLoop, type TrainLog } from "./loop.ts";
import { setUpModel, type TrainableModel } from "./model_setup.ts";
import { checkMoved } from "./movement.ts";
import { needsReference } from "./objectives/preference_loss.ts";
import { complete, evalMetrics, type RunParts, type Sample } from "./output.ts";
import { openOutputFolder } from "./output_folder.ts";
import { formatPlan } from "./plan.ts";
import { usedItems } from "./prepare.ts";
import { openRunDevice, prepareRun } from "./prepare_run.ts";
import { createReporter, etaOf, progressOf, type Reporter } from "./progress.ts";
import { openRecord } from "./record.ts";
import { scoreByOther, scoreReference } from "./reference.ts";
import { beginRun, checkResume, freshNote, resumeFolder } from "./resume.ts";
import { createSaving } from "./saving.ts";
import { noEffect, type TrainSettings } from "./settings.ts";
import { type TrainerState, writeResults } from "./state.ts";
import { timing } from "./when.ts";

/** Options of {@link train}. */
export interface TrainOptions {
  /** The recipe as YAML, for the model card. */
  recipeText?: string;
  /** Folder against which relative paths of the recipe are tried too. */
  base?: string | undefined;
  /** Ends the run after the step in progress, and saves. */
  signal?: AbortSignal;
  /** Where lines go; default the terminal. */
  reporter?: Reporter;
  /** Called with each training log and evaluation, for live charts. */
  onLog?: (log: TrainLog | EvalLog) => void;
}

/** What {@link train} returns. */
export interface TrainResult {
  /** Folder of what was written. */
  output_dir: string;
  /** Optimizer steps done. */
  steps: number;
  /** Optimizer steps that the recipe asked for. */
  maxSteps: number;
  /** Whether the signal ended it before the last step. */
  stopped: boolean;
  /** Evaluation before the first step; undefined where none was asked for. */
  before: EvalLog | undefined;
  /** Evaluation after the last step; likewise. */
  after: EvalLog | undefined;
  /** The training logs, one each `logging_steps`. */
  logs: TrainLog[];
  /** What the model said to `nibble_sample_prompts`. */
  samples: Sample[];
  /** Time of the whole run. */
  seconds: number;
  /** Device memory: live and peak bytes by kind. */
  memory: MemoryReport;
}

/**
 * Trains as the settings say and writes the output folder.
 *
 * @throws NibbleError for anything in settings, files, data or device that stands in the way, before training starts
 *   where that can be known
 */
export async function train(s: TrainSettings, options: TrainOptions = {}): Promise<TrainResult> {
  const reporter = options.reporter ?? createReporter();
  const note = (text: string) => reporter.note(text);
  openOutputFolder(s, options.base);
  const push = s.push_to_hub ? await openHubPush(s, note) : undefined;

  // 1. device
  const device = await openRunDevice(s);
  const { f16, subgroups, timestamps } = device.features;
  const can = Object.entries({ f16, subgroups, timestamps }).map(([k, v]) => `${k} ${v ? "yes" : "no"}`).join(
    ", ",
  );
  note(`adapter     ${device.name} (${can}; bindings up to ${mib(device.maxBinding)})`);
  const from = resumeFolder(s);
  const kernels = from && resumeKernels(from);
  const fresh = from === undefined && freshNote(s);
  if (fresh) note(fresh);
  if (kernels || device.choices.size > 0) note(kernels ?? `kernels     ${describeKernels(device.choices)}`);

  // 2. model files, data and plan, before a weight is read
  const run = await prepareRun(s, {
    base: options.base,
    onNote: note,
    onProgress: (file, done, total) => {
      if (done === total) note(`fetched     ${file} (${mib(total)})`);
    },
    onData: (side, report) => note(indent(side, report)),
  });
  note(formatPlan(run.plan));

  // 3. model on the device; the reference scores all rows first, or another one before it
  const reference = needsReference(run.objective)
    ? {
      ...{ objective: run.objective, reporter, signal: options.signal },
      sides: [{ side: run.train, items: usedItems(run.order) }, ...(run.test ? [{ side: run.test }] : [])],
    }
    : undefined;
  let setUp: TrainableModel;
  const fingerprint = fingerprintOf(s, run);
  try {
    if (from) checkResume(from, s, fingerprint);
    if (reference && s.ref_model) {
      await scoreByOther(s, reference, { ...options, maxPositions: run.maxPositions });
    }
    setUp = await setUpModel(s, run.files, run.maxPositions, {
      ...{ residentBytes: run.plan.residentBytes, signal: options.signal },
      onProgress: progressOf(reporter, "loading"),
    });
    if (setUp.adapter && initOf(setUp.adapter.config).kind === "qera" && !from) {
      await beginCorrected(setUp, run, { reporter, signal: options.signal }).catch((error) => {
        setUp.dispose();
        throw error;
      });
    }
  } finally {
    reporter.done();
    run.files.source.close();
  }
  const { model, adapter, pages } = setUp;
  try {
    note(`model       ${describeLoad(model)}`);
    note(
      `trainable   ${pages.count.toLocaleString("en")} parameters ` +
        `(${(100 * pages.count / (model.summary.parameters + (adapter ? pages.count : 0))).toFixed(2)} %)`,
    );
    unmatchedTargets(model.linears.keys(), adapter?.config.target_modules ?? []).forEach((line) =>
      note(`note        ${line}`)
    );
    if (reference && !s.ref_model) await scoreReference(s, { ...reference, model, adapter, hash: run.hash });
    return await trainModel(s, options, {
      ...{ reporter, setUp, tokenizer: run.tokenizer, hash: run.hash, order: run.order, evals: run.evals },
      ...{ chat: run.train.chat, plan: run.plan, objective: run.objective, origin: run.origin, fingerprint },
    }, { push, from });
  } finally {
    setUp.dispose();
    gpu().pool.trim();
  }
}

async function trainModel(
  s: TrainSettings,
  options: TrainOptions,
  p: RunParts,
  { push, from }: { push: HubPush | undefined; from: string | undefined },
): Promise<TrainResult> {
  const { reporter, setUp: { model, adapter, pages, optimizer }, objective, order } = p;
  const note = (text: string) => reporter.note(text);
  const { maxSteps } = order;
  const warmup = warmupSteps({ ...s, total: maxSteps });
  const { logAt, evalAt, saveAt, ...intervals } = timing(s, maxSteps, order.stepsPerEpoch);

  // 4. resume, or look at the untrained model
  const { state, trainer } = beginRun(from, p, {
    max_steps: maxSteps,
    num_train_epochs: Math.ceil(maxSteps / order.stepsPerEpoch),
    train_batch_size: s.per_device_train_batch_size,
    ...intervals,
  });
  const record = openRecord(s, trainer);
  const saving = createSaving(s, p, trainer, push);
  const logs: TrainLog[] = [];
  const samples: Sample[] = [];
  let before: EvalLog | undefined;
  const evalNote = (log: EvalLog, when: string) =>
    note(`evaluation  ${when}: ${objective.describe(valuesOf(log))}, ${log.eval_runtime.toFixed(1)} s`);
  const evalProgress = () => progressOf(reporter, "evaluating");
  const watched = () => ({ signal: options.signal, onProgress: evalProgress() });
  const recordEval = (log: EvalLog) => {
    const { step: _, epoch: __, ...metrics } = log;
    record.add(metrics);
    options.onLog?.(log);
  };
  try {
    if (state.step === 0) {
      if (p.evals.length > 0 && (s.eval_on_start || s.do_eval)) {
        before = await evaluate(objective, model, p.evals, watched());
        recordEval(before);
        evalNote(before, "before");
      }
      for (const prompt of s.nibble_sample_prompts) {
        samples.push({ prompt, before: await complete(model, p, prompt, s), after: "" });
        note(`sample      ${prompt}\n            before: ${oneLine(samples.at(-1)!.before)}`);
      }
    }

    // 5. the loop
    const started = performance.now();
    const first = state.step;
    let idle = 0;
    let lastEval: EvalLog | undefined;
    const { state: end, stopped } = await runLoop({
      objective,
      model,
      optimizer,
      pages,
      maxSteps,
      stepsPerEpoch: order.stepsPerEpoch,
      window: order.window,
      learningRate: (step) =>
        learningRate(s.lr_scheduler_type, {
          step,
          total: maxSteps,
          warmup,
          base: s.learning_rate,
          kwargs: s.lr_scheduler_kwargs ?? undefined,
        }),
      dropoutSeed: adapter && s.lora_dropout > 0 && !noEffect("lora_dropout", s) ? s.seed : undefined,
      noise: s.neftune_noise_alpha ? { alpha: s.neftune_noise_alpha, seed: s.seed ^ 0x6e656674 } : undefined,
      checkpointing: s.gradient_checkpointing,
      stopAtNonFinite: s.debug === "underflow_overflow",
      ...{ logAt, evalAt, evalProgress },
      saveAt: (step) => saveAt(step) || (s.save_strategy === "best" && trainer.best_global_step === step),
      evalBatches: p.evals,
      state,
      signal: options.signal,
      onLog(log) {
        trainer.global_step = log.step;
        trainer.epoch = log.epoch;
        const { step, epoch: _, skipped_steps, ...metrics } = log;
        record.add({ ...metrics, ...(skipped_steps ? { skipped_steps } : {}) });
        logs.push(log);
        options.onLog?.(log);
        reporter.log({
          step,
          maxSteps,
          loss: log.loss,
          learningRate: log.learning_rate,
          gradNorm: log.grad_norm,
          tokensPerSecond: log.tokens_per_second,
          deviceBytes: gpu().pool.report().peakBytes,
          secondsLeft: etaOf(step, maxSteps, (performance.now() - started) / 1000 - idle, step - first),
        });
      },
      onEval(log) {
        idle += log.eval_runtime;
        lastEval = log;
        trainer.global_step = log.step; // the last log may be some steps old
        trainer.epoch = log.epoch;
        recordEval(log);
        saving.evaluated(log);
        evalNote(log, `step ${log.step}`);
      },
      async onSave(now) {
        const began = performance.now();
        await saving.save(now);
        idle += (performance.now() - began) / 1000;
      },
      afterMove: () => checkMoved(p.setUp),
    });
    const seconds = (performance.now() - started) / 1000 - idle;
    if (stopped) {
      note(`stopped     after step ${end.step} of ${maxSteps}; run the same command again to go on`);
    }

    // 6. what was learned
    let after: EvalLog | undefined;
    if (!stopped) {
      const others = saving.restoreBest();
      if (p.evals.length > 0) {
        if (!others && lastEval?.step === end.step) {
          after = lastEval;
        } else {
          const place = { step: end.step, epoch: end.step / order.stepsPerEpoch };
          after = await evaluate(objective, model, p.evals, { ...place, ...watched() }).catch(unlessStopped);
          if (after) {
            recordEval(after);
            evalNote(after, "after");
          } else note("evaluation  after: stopped, left out");
        }
        if (after) writeResults(s.output_dir, "eval", { ...evalMetrics(after, objective) });
      }
      for (const sample of samples) {
        sample.after = await complete(model, p, sample.prompt, s);
        note(
          `sample      ${sample.prompt}\n            before: ${oneLine(sample.before)}\n            after:  ${
            oneLine(sample.after)
          }`,
        );
      }
    }
    before ??= firstEval(trainer);
    const skipped = logs.at(-1)?.skipped_steps ?? 0;
    if (skipped > 0) note(`warning     ${skipped} steps were skipped: their gradients were not finite`);

    // 7. the output folder
    const memory = gpu().pool.report();
    await writeOutputs(s, p, {
      ...{ trainer, record, stopped, recipeText: options.recipeText },
      ...{ before, after, seconds, steps: end.step - first, end, memory, samples },
    });
    if (record.wandbFolder) note(`wandb       wandb sync ${record.wandbFolder}`);
    if (!stopped) await push?.end();
    return {
      output_dir: s.output_dir,
      steps: end.step,
      maxSteps,
      stopped,
      before,
      after,
      logs,
      samples,
      seconds,
      memory,
    };
  } finally {
    reporter.done();
    record.close();
  }
}

/** The first evaluation of a resumed run's history. */
function firstEval(trainer: TrainerState): EvalLog | undefined {
  const entry = trainer.log_history.find((e) => typeof e.eval_loss === "number" && e.step === 0);
  return entry as EvalLog | undefined;
}

/** An evaluation's figures without the prefix. */
const valuesOf = (log: EvalLog) =>
  Object.fromEntries(Object.entries(log).map(([name, value]) => [name.replace(/^eval_/, ""), value]));
const oneLine = (text: string) => text.replace(/\s+/g, " ").slice(0, 300);
const indent = (head: string, text: string) =>
  text.split("\n").map((line, i) => `${i === 0 ? head.padEnd(12) : " ".repeat(12)}${line}`).join("\n");
