/**
 * What a run minimises: the one interface through which loop, evaluation and memory plan see every task.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import type { ForwardOptions, Model } from "../model/model.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Counts of batches, made on the host: what the sums of the device are divided by. */
export type Counts = Readonly<Record<string, number>>;

/** One figure of the log. */
export interface Metric {
  /** Name as TRL logs it; evaluation puts `eval_` before it. */
  name: string;
  /** The count that its sum is divided by; {@link PER_STEP} for the loss itself. */
  per: string;
}

/** The `per` of a sum that is normalised within each step, and averaged over the steps of a logging interval. */
export const PER_STEP = "steps";

/** Values of one log by name. */
export type Values = Record<string, number>;

/** What one forward pass is given beside model and batch. */
export interface Pass extends ForwardOptions {
  /** Counts of the whole window of micro-batches, for losses whose parts are means over different things. */
  totals: Counts;
}

/** A loss with its figures. */
export interface Objective {
  /** The count that the loss is a mean over: the optimizer divides the gradients by it, over the whole window. */
  readonly unit: string;
  /** Sums that {@link Objective.loss} returns, in their order; the first is `loss`. */
  readonly metrics: readonly Metric[];
  /** What a batch counts, {@link Objective.unit} among it. */
  counts(batch: Batch): Counts;
  /**
   * Forward pass and loss, recorded where a tape is open.
   *
   * @returns `[1, metrics.length]`, sums over the batch; the backward is that of the first, times 1
   */
  loss(model: Model, batch: Batch, pass: Pass): Tensor;
  /** Figures that follow from the means, such as a difference of two. */
  derive?(means: Values): Values;
  /** An evaluation in a few words; `values` without the prefix `eval_`. */
  describe(values: Values): string;
}

/** Sum of the counts of several batches. */
export function totalCounts(counts: readonly Counts[]): Counts {
  const totals: Record<string, number> = {};
  for (const more of counts) addCounts(totals, more);
  return totals;
}

/** Adds `more` to `totals` in place. */
export function addCounts(totals: Record<string, number>, more: Counts): void {
  for (const [name, n] of Object.entries(more)) totals[name] = (totals[name] ?? 0) + n;
}

/** Means by name from sums and counts; what was never counted is left out, as TRL leaves it out. */
export function meansOf(objective: Objective, sums: ArrayLike<number>, counts: Counts): Values {
  const means: Values = {};
  objective.metrics.forEach(({ name, per }, i) => {
    const n = counts[per] ?? 0;
    if (n > 0) means[name] = sums[i]! / n;
  });
  return { ...means, ...objective.derive?.(means) };
}
