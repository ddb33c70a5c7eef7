/**
 * A whole run, stage by stage: device, model, data, plan, evaluation, loop, evaluation, output.
 * @module
 */
import { basename, dirname, join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { writeWhole } from "../formats/mod.ts";
import { gpu, type MemoryReport } from "../gpu/mod.ts";
import { saveAdapter } from "../lora/peft.ts";
import { writeModel } from "../lora/merge.ts";
import { generate } from "../model/generate.ts";
import { describeLoad } from "../model/load.ts";
import type { Model } from "../model/model.ts";
import { learningRate, METRICS, warmupSteps } from "../optim/mod.ts";
import { encodeChatPrompt, type Tokenizer } from "../text/mod.ts";
import { loadState, saveState } from "./checkpoint.ts";
import { checkpointName, newestCheckpoint, rotateCheckpoints, writeFolder } from "./checkpoint_folder.ts";
import { type EvalLog, evaluate, type LoopState, runLoop, type TrainLog } from "./loop.ts";
import { lossCurveSvg, lossCurveText } from "./loss_curve.ts";
import { modelCard } from "./model_card.ts";
import { setUpModel, type TrainableModel } from "./model_setup.ts";
import { formatPlan, type MemoryPlan } from "./plan.ts";
import type { evalBatches, trainingOrder } from "./prepare.ts";
import { openRunDevice, prepareRun } from "./prepare_run.ts";
import { createReporter, etaOf, openJsonLog, type Reporter } from "./progress.ts";
import type { TrainSettings } from "./settings.ts";
import {
  historyOf,
  logMetrics,
  newTrainerState,
  noteBest,
  readTrainerState,
  speedMetrics,
  writeResults,
  writeTrainerState,
} from "./state.ts";
import { openEventFile, tagOf } from "./tensorboard.ts";

/** Version written into cards. */
export const VERSION = "0.1.0";

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

/** A prompt and what the model says to it before and after. */
export interface Sample {
  prompt: string;
  before: string;
  after: string;
}

/** What {@link train} returns. */
export interface TrainResult {
  output_dir: string;
  steps: number;
  maxSteps: number;
  stopped: boolean;
  before: EvalLog | undefined;
  after: EvalLog | undefined;
  logs: TrainLog[];
  samples: Sample[];
  seconds: number;
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
  if (s.nibble_task === "dpo" || s.nibble_task === "orpo") {
    throw new NibbleError("train/unsupported", `Training with ${s.nibble_task} is not built yet`, {
      remedy: "sft and cpt are; --explain shows how the recipe is read.",
    });
  }

  // 1. device
  const device = await openRunDevice(s);
  const { f16, subgroups, timestamps } = device.features;
  const can = Object.entries({ f16, subgroups, timestamps }).map(([k, v]) => `${k} ${v ? "yes" : "no"}`).join(
    ", ",
  );
  note(`adapter     ${device.name} (${can}; bindings up to ${mb(device.maxBinding)})`);

  // 2. model files, data and plan, before a weight is read
  const run = await prepareRun(s, {
    base: options.base,
    onNote: note,
    onProgress: (file, done, total) => {
      if (done === total) note(`fetched     ${file} (${mb(total)})`);
    },
    onData: (side, report) => note(indent(side, report)),
  });
  note(formatPlan(run.plan));

  // 3. model on the device
  let setUp: TrainableModel;
  try {
    setUp = setUpModel(s, run.files, run.maxPositions);
  } finally {
    run.files.source.close();
  }
  const { model, adapter, pages, optimizer } = setUp;
  try {
    note(`model       ${describeLoad(model)}`);
    note(
      `trainable   ${pages.count.toLocaleString("en")} parameters ` +
        `(${(100 * pages.count / (model.summary.parameters + (adapter ? pages.count : 0))).toFixed(2)} %)`,
    );
    return await trainModel(s, options, {
      ...{ reporter, setUp, tokenizer: run.tokenizer, hash: run.hash, order: run.order, evals: run.evals },
      ...{ chat: run.train.chat, trainRows: run.train.packed.length, plan: run.plan },
    });
  } finally {
    optimizer.dispose();
    model.dispose();
    pages.dispose();
    gpu().pool.trim();
  }
}

interface Prepared {
  reporter: Reporter;
  setUp: TrainableModel;
  tokenizer: Tokenizer;
  hash: string;
  order: ReturnType<typeof trainingOrder>;
  evals: ReturnType<typeof evalBatches>;
  chat: boolean;
  trainRows: number;
  plan: MemoryPlan;
}

async function trainModel(s: TrainSettings, options: TrainOptions, p: Prepared): Promise<TrainResult> {
  const { reporter, setUp: { model, adapter, pages, optimizer }, order } = p;
  const note = (text: string) => reporter.note(text);
  const { maxSteps } = order;
  const warmup = warmupSteps({ ...s, total: maxSteps });
  const at = every(s, maxSteps, order.stepsPerEpoch);
  const fingerprint = {
    parameters: `${pages.tensors.size} tensors, ${pages.count} numbers`,
    data:
      `${p.trainRows} sequences, batch ${s.per_device_train_batch_size} x ${s.gradient_accumulation_steps}, ` +
      `seed ${s.data_seed ?? s.seed}, ${maxSteps} steps`,
    optim: s.optim,
  };

  // 4. resume, or look at the untrained model
  let state: LoopState = { step: 0, numTokens: 0, pending: { loss: 0, correct: 0, steps: 0, trained: 0 } };
  let trainer = newTrainerState({
    max_steps: maxSteps,
    num_train_epochs: Math.ceil(maxSteps / order.stepsPerEpoch),
    train_batch_size: s.per_device_train_batch_size,
  });
  const from = resumeFolder(s);
  if (from) {
    state = loadState(from, optimizer, pages.tensors, fingerprint);
    trainer = readTrainerState(from);
    note(`resumed     ${from} at step ${state.step} of ${maxSteps}`);
  }
  const record = (metrics: Record<string, number>) => {
    const entry = logMetrics(trainer, metrics);
    jsonLog.write(entry);
    for (const [name, value] of Object.entries(metrics)) {
      events?.scalar(tagOf(name), value, trainer.global_step);
    }
  };
  Deno.mkdirSync(s.output_dir, { recursive: true });
  const jsonLog = openJsonLog(join(s.output_dir, "logs.jsonl"), state.step > 0 ? state.step : -1);
  const events = s.report_to.includes("none") ? undefined : openEventFile(join(s.output_dir, "runs"));
  const logs: TrainLog[] = [];
  const samples: Sample[] = [];
  let before: EvalLog | undefined;
  const evalNote = (log: EvalLog, when: string) =>
    note(
      `evaluation  ${when}: loss ${log.eval_loss.toFixed(4)}, perplexity ${
        Math.exp(log.eval_loss).toFixed(2)
      }, ` +
        `${(100 * log.eval_mean_token_accuracy).toFixed(1)} % of ${log.eval_num_tokens} tokens right, ${
          log.eval_runtime.toFixed(1)
        } s`,
    );
  const recordEval = (log: EvalLog) => {
    const { step: _, epoch: __, ...metrics } = log;
    record(metrics);
    options.onLog?.(log);
  };
  try {
    if (state.step === 0) {
      if (p.evals.length > 0 && (s.eval_on_start || s.do_eval)) {
        before = await evaluate(model, p.evals);
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
    const { state: end, stopped } = await runLoop({
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
      dropoutSeed: adapter && s.lora_dropout > 0 ? s.seed : undefined,
      checkpointing: s.gradient_checkpointing,
      ...at,
      evalBatches: p.evals,
      state,
      signal: options.signal,
      onLog(log) {
        trainer.global_step = log.step;
        trainer.epoch = log.epoch;
        const { step, epoch: _, skipped_steps, ...metrics } = log;
        record({ ...metrics, ...(skipped_steps ? { skipped_steps } : {}) });
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
        recordEval(log);
        evalNote(log, `step ${log.step}`);
      },
      async onSave(now, evaluation) {
        const name = checkpointName(now.step);
        const folder = join(s.output_dir, name);
        trainer.global_step = now.step;
        trainer.epoch = now.step / order.stepsPerEpoch;
        const isBest = evaluation !== undefined && noteBest(trainer, evaluation.eval_loss, false);
        if (isBest) trainer.best_model_checkpoint = folder;
        await writeFolder(folder, async (tmp) => {
          await writeWeights(tmp, s, p);
          await saveState(tmp, now, optimizer, pages.tensors, fingerprint);
          writeTrainerState(tmp, trainer);
        });
        rotateCheckpoints(s.output_dir, s.save_total_limit, trainer.best_model_checkpoint);
        note(`saved       ${folder}`);
      },
      afterFirstStep: async () => {
        if (adapter) await checkMoved(p);
      },
    });
    const seconds = (performance.now() - started) / 1000 - idle;
    if (stopped) {
      note(`stopped     after step ${end.step} of ${maxSteps}; run the same command again to go on`);
    }

    // 6. what was learned
    let after: EvalLog | undefined;
    if (!stopped) {
      if (p.evals.length > 0) {
        after = await evaluate(model, p.evals, end.step, end.step / order.stepsPerEpoch);
        recordEval(after);
        evalNote(after, "after");
        writeResults(s.output_dir, "eval", { ...evalMetrics(after) });
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

    // 7. the output folder
    const memory = gpu().pool.report();
    const losses = historyOf(trainer, "loss");
    const trainLoss = losses.reduce((a, b) => a + b.loss, 0) / Math.max(1, losses.length);
    record({
      ...speedMetrics("train", seconds, { steps: end.step - first }),
      train_loss: trainLoss,
      total_flos: 0,
    });
    writeTrainerState(s.output_dir, trainer);
    writeResults(s.output_dir, "train", {
      ...speedMetrics("train", seconds, { steps: end.step - first }),
      train_loss: trainLoss,
      epoch: trainer.epoch,
    });
    const curve = {
      train: losses,
      eval: historyOf(trainer, "eval_loss"),
      title: `Loss: ${s.run_name ?? basename(s.output_dir)}`,
    };
    writeText(join(s.output_dir, "loss_curve.svg"), lossCurveSvg(curve));
    if (!stopped) {
      await writeWeights(s.output_dir, s, p);
      writeText(
        join(s.output_dir, "README.md"),
        card(s, options, p, { before, after, seconds, end, memory, samples, trainLoss }),
      );
    }
    note(lossCurveText(curve));
    note(`${memoryLine(memory)}; planned ${mb(p.plan.memory.peakBytes)}`);
    note(
      `wrote       ${s.output_dir} (${seconds.toFixed(1)} s of training, ${
        (seconds / Math.max(1, end.step - first)).toFixed(2)
      } s a step)`,
    );
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
    jsonLog.close();
    events?.close();
  }
}

/** When to log, evaluate and save; a number of steps below 1 is a share of the run. */
function every(s: TrainSettings, maxSteps: number, stepsPerEpoch: number) {
  const steps = (n: number) => n < 1 ? Math.ceil(maxSteps * n) : Math.round(n);
  const when = (strategy: string, n: number) => (step: number) =>
    strategy === "steps" ? step % steps(n) === 0 : strategy === "epoch" ? step % stepsPerEpoch === 0 : false;
  const log = when(s.logging_strategy, s.logging_steps);
  const evalWhen = when(s.eval_strategy, s.eval_steps ?? s.logging_steps);
  return {
    logAt: (step: number) => log(step) || (s.logging_first_step && step === 1),
    // the last step is followed by the final evaluation
    evalAt: (step: number) => step < maxSteps && evalWhen(step),
    saveAt: when(s.save_strategy, s.save_steps),
  };
}

/** The checkpoint to go on from: as the key says, or the newest that is not finished. */
function resumeFolder(s: TrainSettings): string | undefined {
  const wish = s.resume_from_checkpoint;
  if (wish === "false") return undefined;
  const newest = newestCheckpoint(s.output_dir);
  if (wish === "true") {
    if (newest) return newest;
    throw new NibbleError("train/no-checkpoint", "There is no checkpoint to resume from", {
      where: s.output_dir,
      remedy: "Leave resume_from_checkpoint out to start afresh.",
    });
  }
  if (wish) return wish;
  if (!newest) return undefined;
  const { global_step, max_steps } = readTrainerState(newest);
  return global_step < max_steps ? newest : undefined; // a finished run is no reason to do nothing
}

/** Adapter or whole model, with the tokenizer beside it. */
async function writeWeights(
  folder: string,
  s: TrainSettings,
  { setUp: { model, adapter }, tokenizer, hash }: Prepared,
): Promise<void> {
  if (adapter) {
    await saveAdapter(adapter, folder, {
      base: s.model_name_or_path!,
      revision: s.model_revision,
      provenance: {
        base_hash: hash,
        ...(s.load_in_4bit
          ? { base_quantization: `${s.bnb_4bit_quant_type}${s.use_bnb_nested_quant ? "+double" : ""}` }
          : {}),
      },
    });
  } else {
    const dtype = { float32: "F32", float16: "F16", bfloat16: "BF16", auto: "F32" } as const;
    await writeModel(model, undefined, folder, { dtype: dtype[s.torch_dtype ?? "float32"] });
  }
  tokenizer.save(folder);
}

/** After one step B must have moved in every adapted layer: a layer that cannot learn is an error, not a footnote. */
async function checkMoved({ setUp: { adapter, optimizer } }: Prepared): Promise<void> {
  const layers = [...adapter!.layers];
  const ranges = layers.map(([, { b }]) => ({ buffer: b.buffer, offset: b.offset, bytes: b.bytes }));
  const [metrics, ...values] = await gpu().stream.read([
    { buffer: optimizer.metrics.buffer, offset: optimizer.metrics.offset, bytes: optimizer.metrics.bytes },
    ...ranges,
  ]);
  if (new Float32Array(metrics!)[METRICS.applied] === 0) return; // the step was skipped, which the log says
  const still = layers.filter((_, i) => new Float32Array(values[i]!).every((v) => v === 0)).map(([module]) =>
    module
  );
  // with warm-up the first step's learning rate is 0 and nothing may move
  if (still.length > 0 && still.length < layers.length) {
    throw new NibbleError("train/no-gradient", `${still.length} adapted layers got no gradient`, {
      where: still.slice(0, 3).join(", "),
    });
  }
}

/** The model's greedy answer to a prompt. */
async function complete(
  model: Model,
  { tokenizer, chat }: Prepared,
  prompt: string,
  s: TrainSettings,
): Promise<string> {
  const ids = chat
    ? encodeChatPrompt(tokenizer, [{ role: "user", content: prompt }])
    : tokenizer.encode(prompt);
  const { ids: out } = await generate(model, ids, {
    max_new_tokens: s.nibble_sample_max_new_tokens,
    eos_token_id: tokenizer.eosIds,
  });
  return tokenizer.decode(out, { skipSpecialTokens: true }).trim();
}

function evalMetrics(log: EvalLog): Record<string, number> {
  const { step: _, ...metrics } = log;
  return { ...metrics, perplexity: Math.exp(log.eval_loss) };
}

/** The first evaluation of a resumed run's history. */
function firstEval(trainer: ReturnType<typeof newTrainerState>): EvalLog | undefined {
  const entry = trainer.log_history.find((e) => typeof e.eval_loss === "number" && e.step === 0);
  return entry as EvalLog | undefined;
}

interface Outcome {
  before: EvalLog | undefined;
  after: EvalLog | undefined;
  seconds: number;
  end: LoopState;
  memory: MemoryReport;
  samples: Sample[];
  trainLoss: number;
}

function card(s: TrainSettings, options: TrainOptions, p: Prepared, o: Outcome): string {
  const named = (name: string) => ({
    name,
    onHub: /^[\w.-]+\/[\w.-]+$/.test(name) && !name.startsWith("assets/"),
  });
  const names = s.dataset_mixture?.datasets.map((d) => d.id) ?? Object.keys(s.dataset_mixer ?? {});
  const { model, adapter, pages } = p.setUp;
  return modelCard({
    modelName: s.run_name ?? basename(s.output_dir),
    base: named(s.model_name_or_path!),
    baseRevision: s.model_revision,
    isAdapter: adapter !== undefined,
    ...(s.load_in_4bit
      ? {
        quantization: {
          type: s.bnb_4bit_quant_type,
          blockSize: s.bnb_4bit_blocksize,
          doubleQuant: s.use_bnb_nested_quant,
        },
      }
      : {}),
    task: s.nibble_task ?? "sft",
    datasets: (names.length > 0 ? names : [s.dataset_name!]).map(named),
    ...(o.before ? { before: evalMetrics(o.before) } : {}),
    ...(o.after ? { after: evalMetrics(o.after) } : {}),
    trainLoss: o.trainLoss,
    steps: o.end.step,
    plannedSteps: p.order.maxSteps,
    epochs: o.end.step / p.order.stepsPerEpoch,
    tokens: o.end.numTokens,
    seconds: o.seconds,
    trainableParameters: pages.count,
    parameters: model.summary.parameters,
    device: gpu().name,
    deviceBytes: o.memory.peakBytes,
    recipe: options.recipeText ?? JSON.stringify(s, null, 2),
    lossCurve: "loss_curve.svg",
    samples: o.samples,
    version: VERSION,
  });
}

function writeText(path: string, text: string): void {
  Deno.mkdirSync(dirname(path), { recursive: true });
  writeWhole(path, (put) => put(new TextEncoder().encode(text)));
}

function memoryLine(m: MemoryReport): string {
  const kinds = Object.entries(m.atPeak).filter(([, n]) => n > 0).map(([k, n]) => `${k} ${mb(n)}`).join(", ");
  return `memory      ${mb(m.peakBytes)} at the peak: ${kinds}`;
}

const mb = (n: number) => `${(n / 2 ** 20).toFixed(1)} MiB`;
const oneLine = (text: string) => text.replace(/\s+/g, " ").slice(0, 300);
const indent = (head: string, text: string) =>
  text.split("\n").map((line, i) => `${i === 0 ? head.padEnd(12) : " ".repeat(12)}${line}`).join("\n");
