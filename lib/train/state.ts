/**
 * The record of a run, in the files that Transformers' Trainer leaves (4.57): `trainer_state.json`,
 * `train_results.json`, `eval_results.json`, `all_results.json`. Tools that read those read ours.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { isObject, readTextIfThere, writeText } from "../formats/file.ts";

/** One entry of the log: metrics by name, with the step and epoch at which they were taken. */
export interface LogEntry {
  /** Optimizer step. */
  step: number;
  /** Passes over the training rows so far, in fractions. */
  epoch: number;
  /** `loss`, `grad_norm`, `learning_rate`, `eval_loss`, ... A value that is not finite is kept as null. */
  [metric: string]: number | null;
}

/** `trainer_state.json`, key for key. */
export interface TrainerState {
  best_global_step: number | null;
  best_metric: number | null;
  best_model_checkpoint: string | null;
  epoch: number;
  eval_steps: number;
  global_step: number;
  is_hyper_param_search: boolean;
  is_local_process_zero: boolean;
  is_world_process_zero: boolean;
  log_history: LogEntry[];
  logging_steps: number;
  max_steps: number;
  num_input_tokens_seen: number;
  num_train_epochs: number;
  save_steps: number;
  stateful_callbacks: Record<string, unknown>;
  total_flos: number;
  train_batch_size: number;
  trial_name: string | null;
  trial_params: Record<string, unknown> | null;
}

/** Metrics by name. */
export type Metrics = Record<string, number>;

/** Name of the file in a checkpoint and in the output folder. */
export const TRAINER_STATE_FILE = "trainer_state.json";

/**
 * The state of a run that has not begun.
 *
 * @param known what is known already, such as `max_steps`
 *
 * @example
 * ```ts
 * import { logMetrics, newTrainerState } from "./state.ts";
 * const state = newTrainerState({ max_steps: 40, num_train_epochs: 1 });
 * state.global_step = 10;
 * state.epoch = 0.25;
 * logMetrics(state, { loss: 3.41237, grad_norm: 0.83, learning_rate: 9.8e-4 });
 * const [first] = state.log_history;
 * if (first.loss !== 3.4124 || first.step !== 10 || first.epoch !== 0.25) throw new Error("the log entry");
 * ```
 */
export function newTrainerState(known: Partial<TrainerState> = {}): TrainerState {
  return {
    best_global_step: null,
    best_metric: null,
    best_model_checkpoint: null,
    epoch: 0,
    eval_steps: 500,
    global_step: 0,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: [],
    logging_steps: 500,
    max_steps: 0,
    num_input_tokens_seen: 0,
    num_train_epochs: 0,
    save_steps: 500,
    stateful_callbacks: {},
    total_flos: 0,
    train_batch_size: 1,
    trial_name: null,
    trial_params: null,
    ...known,
  };
}

/**
 * Add metrics to `log_history` under the state's step and epoch, as Trainer does: the training `loss` is rounded to
 * 4 decimals, all else is kept whole.
 *
 * @returns the entry, to pass on to other logs
 */
export function logMetrics(state: TrainerState, metrics: Metrics): LogEntry {
  const entry: LogEntry = { step: state.global_step, epoch: state.epoch };
  for (const [name, value] of Object.entries(metrics)) {
    entry[name] = !Number.isFinite(value) ? null : name === "loss" ? round(value, 4) : value;
  }
  state.log_history.push(entry);
  return entry;
}

/**
 * Trainer's figures of speed, with its names and rounding: `<split>_runtime` in seconds, samples and steps a second.
 *
 * @example
 * ```ts
 * import { speedMetrics } from "./state.ts";
 * const speed = speedMetrics("eval", 2, { samples: 9, steps: 3 });
 * if (speed.eval_samples_per_second !== 4.5 || speed.eval_steps_per_second !== 1.5) throw new Error("speed");
 * ```
 */
export function speedMetrics(
  split: string,
  seconds: number,
  done: { samples?: number; steps?: number },
): Metrics {
  const metrics: Metrics = { [`${split}_runtime`]: round(seconds, 4) };
  if (seconds <= 0) return metrics;
  if (done.samples !== undefined) metrics[`${split}_samples_per_second`] = round(done.samples / seconds, 3);
  if (done.steps !== undefined) metrics[`${split}_steps_per_second`] = round(done.steps / seconds, 3);
  return metrics;
}

/**
 * Compare an evaluation with the best so far and keep it where it is better. A value that is not a number never wins.
 *
 * @param greaterIsBetter whether the metric should rise
 * @returns whether this one is the best now; the caller sets `best_model_checkpoint` when it has been saved
 */
export function noteBest(state: TrainerState, value: number, greaterIsBetter: boolean): boolean {
  const best = state.best_metric;
  const better = best === null || (greaterIsBetter ? value > best : value < best);
  if (!Number.isFinite(value) || !better) return false;
  state.best_metric = value;
  state.best_global_step = state.global_step;
  return true;
}

/** Points of a metric over the steps, for curves; entries without it are passed over. */
export function historyOf(state: TrainerState, metric: string): { step: number; loss: number }[] {
  return state.log_history.flatMap((entry) => {
    const value = entry[metric];
    return typeof value === "number" ? [{ step: entry.step, loss: value }] : [];
  });
}

/** Write `trainer_state.json` into a folder, whole or not at all; keys are sorted, as Transformers sorts them. */
export function writeTrainerState(folder: string, state: TrainerState): void {
  writeJson(join(folder, TRAINER_STATE_FILE), state, 2);
}

/**
 * Read `trainer_state.json`, ours or Transformers'. Keys that older versions lack get their defaults; NaN and
 * Infinity, which Python writes and JSON forbids, become null.
 *
 * @throws NibbleError `train/no-state` where there is none, `train/bad-state` where it cannot be one
 */
export function readTrainerState(folder: string): TrainerState {
  const path = join(folder, TRAINER_STATE_FILE);
  const text = readTextIfThere(path);
  if (text === undefined) {
    throw new NibbleError("train/no-state", `There is no ${TRAINER_STATE_FILE} in ${folder}`, {
      where: path,
      remedy: "Name a folder checkpoint-N that training has written, or start afresh.",
    });
  }
  const value = parsePythonJson(text);
  if (!isObject(value)) throw badState(path, "it is not a JSON object");
  for (const key of ["global_step", "max_steps", "epoch"]) {
    const given = value[key];
    if (typeof given !== "number" || given < 0) throw badState(path, `${key} must be a number from 0 on`);
  }
  if (!Number.isInteger(value.global_step)) throw badState(path, "global_step must be a whole number");
  const history = value.log_history ?? [];
  const entries = Array.isArray(history) && history.every((e) => isObject(e) && typeof e.step === "number");
  if (!entries) throw badState(path, "log_history must be a list of objects with a step");
  return newTrainerState({ ...(value as Partial<TrainerState>), log_history: history as LogEntry[] });
}

/**
 * Write `<split>_results.json` and add the same metrics to `all_results.json`, as `Trainer.save_metrics` does.
 *
 * @param split `train` or `eval`
 *
 * @example
 * ```ts
 * import { writeResults } from "./state.ts";
 * const folder = await Deno.makeTempDir();
 * writeResults(folder, "train", { train_loss: 2.5, epoch: 1 });
 * writeResults(folder, "eval", { eval_loss: 2.25, epoch: 1 });
 * const all = JSON.parse(await Deno.readTextFile(`${folder}/all_results.json`));
 * if (all.train_loss !== 2.5 || all.eval_loss !== 2.25) throw new Error("both belong into all_results.json");
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function writeResults(folder: string, split: string, metrics: Metrics): void {
  writeJson(join(folder, `${split}_results.json`), metrics, 4);
  const path = join(folder, "all_results.json");
  const text = readTextIfThere(path);
  const before = text === undefined ? undefined : parsePythonJson(text);
  // A damaged summary of an earlier run is no reason to lose this run's.
  writeJson(path, { ...(isObject(before) ? before : {}), ...metrics }, 4);
}

function writeJson(path: string, value: unknown, indent: number): void {
  const text = JSON.stringify(sorted(value), null, indent) + "\n";
  writeText(path, text);
}

/** The same value with the keys of every object in order. Numbers JSON has no word for are null already, or become it. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

/** JSON as Python writes it; undefined when it is none. */
function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Strings are matched first, so that a NaN inside one is left alone.
    const plain = text.replace(
      /("(?:[^"\\]|\\.)*")|-?\b(?:NaN|Infinity)\b/g,
      (_, string) => string ?? "null",
    );
    try {
      return JSON.parse(plain);
    } catch {
      return undefined;
    }
  }
}

function badState(path: string, why: string): NibbleError {
  return new NibbleError("train/bad-state", `${TRAINER_STATE_FILE} cannot be read: ${why}`, {
    where: path,
    remedy: "Resume from an earlier checkpoint, or start afresh with resume_from_checkpoint: false.",
  });
}

function round(value: number, digits: number): number {
  return Math.round(value * 10 ** digits) / 10 ** digits;
}
