/**
 * Points of a loss curve, and what both its pictures do with them.
 * @module
 */

/** A point of a curve. */
export interface LossPoint {
  step: number;
  loss: number;
}

/** What is drawn. Points whose loss is not finite are left out, and the picture's description says how many. */
export interface LossCurve {
  /** Training loss; empty is allowed. */
  train: readonly LossPoint[];
  /** Evaluation loss; empty is allowed. */
  eval: readonly LossPoint[];
  title: string;
  /** Name of the vertical axis; `loss (nats per token)` unless given. */
  axis?: string;
  /**
   * Weight of the past in the smoothed training line, from 0 (none) to below 1. Unless given it is chosen by the
   * number of points: none below 30, then n / (n + 50), at most 0.95.
   */
  smoothing?: number;
}

/**
 * Exponential moving average whose early values are not pulled towards zero (divided by 1 - weight^n, as TensorBoard
 * and Adam do). Weight 0 gives the points back.
 */
export function smooth(points: readonly LossPoint[], weight: number): LossPoint[] {
  let mean = 0;
  return points.map(({ step, loss }, i) => {
    mean = weight * mean + (1 - weight) * loss;
    return { step, loss: mean / (1 - weight ** (i + 1)) };
  });
}

/** Weight for a number of points: the line lags w / (1 - w) points behind, here a fiftieth of the picture. */
export function defaultSmoothing(points: number): number {
  return points < 30 ? 0 : Math.min(0.95, points / (points + 50));
}

/** Finite points by rising step; of several at one step the last, as after a resumed run. */
export function inOrder(points: readonly LossPoint[]): LossPoint[] {
  const byStep = new Map<number, LossPoint>();
  for (const p of points) if (Number.isFinite(p.loss) && Number.isFinite(p.step)) byStep.set(p.step, p);
  return [...byStep.values()].sort((a, b) => a.step - b.step);
}

/** Lowest and highest of some numbers. */
export function rangeOf(values: readonly number[]): [low: number, high: number] {
  // A loop and not Math.min(...values): a long run has more points than a call may have arguments.
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    low = Math.min(low, v);
    high = Math.max(high, v);
  }
  return [low, high];
}
