/**
 * The objective's means over held-out rows.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { gpu } from "../gpu/mod.ts";
import type { Model } from "../model/model.ts";
import { addInto } from "../tensor/ops/pointwise.ts";
import { noGrad } from "../tensor/tape.ts";
import { keep, scope, zeros } from "../tensor/tensor.ts";
import { nextTurn } from "../turn.ts";
import { meansOf, type Objective, PER_STEP, totalCounts } from "./objective.ts";

/** Batches after which a buffer that lay idle is destroyed: their lengths differ. */
export const IDLE_BATCHES = 2;

/** Loss over the evaluation rows. */
export interface EvalLog {
  /** Optimizer steps done. */
  step: number;
  /** Passes over the data done, with their fraction. */
  epoch: number;
  /** Mean loss in nats: per counted token, or per pair. */
  eval_loss: number;
  /** Tokens that the loss counted. */
  eval_num_tokens: number;
  /** Seconds that the evaluation took. */
  eval_runtime: number;
  /** The objective's own, with `eval_` before their names. */
  [metric: string]: number;
}

/** Where an evaluation stands in a run, and how it is watched. */
export interface EvaluateOptions {
  step?: number;
  epoch?: number;
  /** Ends it with `train/stopped`. */
  signal?: AbortSignal | undefined;
  onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Undefined for an evaluation that was stopped; other errors go on. */
export function unlessStopped(error: unknown): undefined {
  if (error instanceof NibbleError && error.code === "train/stopped") return undefined;
  throw error;
}

/**
 * The objective's means over all batches, with the adapter as it is and without dropout. One readback.
 *
 * @throws NibbleError `train/nan-eval` when the loss is not finite, `train/empty-eval` when nothing is counted,
 *   `train/stopped`
 */
export async function evaluate(
  objective: Objective,
  model: Model,
  batches: readonly Batch[],
  { step = 0, epoch = 0, signal, onProgress }: EvaluateOptions = {},
): Promise<EvalLog> {
  const started = performance.now();
  const counted = batches.map((batch) => ({ batch, counts: objective.counts(batch) }));
  const used = counted.filter(({ counts }) => counts[objective.unit]);
  if (used.length === 0) {
    throw new NibbleError("train/empty-eval", "The evaluation rows have no token that the loss counts");
  }
  const totals = totalCounts(used.map(({ counts }) => counts));
  const sums = keep(zeros([1, objective.metrics.length], "f32", "scratch"));
  let values: Float32Array;
  try {
    for (const [i, { batch }] of used.entries()) {
      if (signal?.aborted) throw new NibbleError("train/stopped", "Stopped during an evaluation");
      noGrad(() => scope(() => addInto(sums, objective.loss(model, batch, { totals }))));
      await gpu().stream.fence();
      gpu().pool.age(IDLE_BATCHES);
      onProgress?.(i + 1, used.length);
      await nextTurn();
    }
    values = await sums.data();
  } finally {
    sums.dispose();
  }
  // all batches together are one step
  const { loss, ...means } = meansOf(objective, values, { ...totals, [PER_STEP]: totals[objective.unit]! });
  if (!Number.isFinite(loss)) {
    throw new NibbleError("train/nan-eval", `The evaluation loss is ${loss}`, { where: `step ${step}` });
  }
  return {
    step,
    epoch,
    eval_loss: loss!,
    ...Object.fromEntries(Object.entries(means).map(([name, value]) => [`eval_${name}`, value])),
    eval_num_tokens: used.reduce((n, { batch }) => n + batch.trainedTokens, 0),
    eval_runtime: (performance.now() - started) / 1000,
  };
}
