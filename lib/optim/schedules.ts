/**
 * Learning-rate schedules by Transformers' names (`lr_scheduler_type`), as plain functions of the step.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** `lr_scheduler_kwargs`. */
export interface ScheduleKwargs {
  /** cosine, cosine_with_min_lr: default 0.5; cosine_with_restarts: default 1. */
  num_cycles?: number;
  /** cosine_with_min_lr: the lowest rate itself. */
  min_lr?: number;
  /** cosine_with_min_lr: the lowest rate as a part of the base. */
  min_lr_rate?: number;
  /** polynomial: default 1. */
  power?: number;
  /** polynomial: the last rate, default 1e-7. */
  lr_end?: number;
  /** inverse_sqrt: default the warm-up, or 10,000 without one. */
  timescale?: number;
}

/** Where a run stands. */
export interface SchedulePoint {
  /** Optimizer steps done before this one: 0 for the first. */
  step: number;
  /** Steps of the whole run. */
  total: number;
  /** Warm-up steps, from {@link warmupSteps}. */
  warmup: number;
  /** `learning_rate` */
  base: number;
  kwargs?: ScheduleKwargs | undefined;
}

type Factor = (point: SchedulePoint, kwargs: ScheduleKwargs) => number;

/** Part of the run after warm-up that is done. */
function progress({ step, total, warmup }: SchedulePoint): number {
  return (step - warmup) / Math.max(1, total - warmup);
}

function cosine(point: SchedulePoint, kwargs: ScheduleKwargs): number {
  return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * 2 * (kwargs.num_cycles ?? 0.5) * progress(point))));
}

const FACTORS: Record<string, Factor> = {
  linear: ({ step, total, warmup }) => Math.max(0, (total - step) / Math.max(1, total - warmup)),
  cosine,
  constant: () => 1,
  constant_with_warmup: () => 1,
  cosine_with_min_lr(point, kwargs) {
    const { min_lr, min_lr_rate } = kwargs;
    if (min_lr === undefined && min_lr_rate === undefined) {
      throw new NibbleError("optim/schedule", "cosine_with_min_lr needs its lowest rate", {
        where: "lr_scheduler_kwargs",
        remedy: "Set min_lr (the rate) or min_lr_rate (a part of learning_rate).",
      });
    }
    const lowest = min_lr !== undefined ? min_lr / point.base : min_lr_rate!;
    return Math.max(0, cosine(point, kwargs) * (1 - lowest) + lowest);
  },
  cosine_with_restarts(point, kwargs) {
    const p = progress(point);
    return p >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (((kwargs.num_cycles ?? 1) * p) % 1))));
  },
  inverse_sqrt({ step, warmup }, kwargs) {
    const timescale = kwargs.timescale ?? (warmup || 10_000);
    return 1 / Math.sqrt((step + timescale - warmup) / timescale);
  },
  polynomial({ step, total, warmup, base }, kwargs) {
    const end = kwargs.lr_end ?? 1e-7;
    if (step > total) return end / base;
    const left = 1 - (step - warmup) / (total - warmup);
    return ((base - end) * left ** (kwargs.power ?? 1) + end) / base;
  },
};

/** Names that {@link learningRate} takes. */
export const SCHEDULES: readonly string[] = Object.keys(FACTORS);

/**
 * The learning rate of one step, in units of `base`'s. Warm-up rises linearly from 0 (all but `constant`).
 *
 * @throws NibbleError `optim/schedule` for an unknown name or a missing `kwargs` entry
 * @example
 * ```ts
 * import { learningRate } from "./schedules.ts";
 * const lr = (step: number) => learningRate("linear", { step, total: 10, warmup: 2, base: 1 });
 * if (lr(0) !== 0 || lr(1) !== 0.5 || lr(2) !== 1 || lr(10) !== 0) throw new Error("up in two, down in eight");
 * ```
 */
export function learningRate(name: string, point: SchedulePoint): number {
  const factor = Object.hasOwn(FACTORS, name) ? FACTORS[name] : undefined;
  if (!factor) {
    throw new NibbleError("optim/schedule", `Unknown schedule '${name}'`, {
      where: "lr_scheduler_type",
      remedy: `Use one of: ${SCHEDULES.join(", ")}.`,
    });
  }
  if (name !== "constant" && point.step < point.warmup) {
    return point.base * (point.step / Math.max(1, point.warmup));
  }
  return point.base * factor(point, point.kwargs ?? {});
}

/**
 * Warm-up in steps: `warmup_steps` when above 0 (below 1 it is a part of the run, as in Transformers 5), else
 * `warmup_ratio` of the run, rounded up.
 *
 * @param settings `total` steps of the run
 */
export function warmupSteps(
  settings: { warmup_steps?: number | undefined; warmup_ratio?: number | undefined; total: number },
): number {
  const { warmup_steps = 0, warmup_ratio = 0, total } = settings;
  if (warmup_steps >= 1) return Math.trunc(warmup_steps);
  return Math.ceil(total * (warmup_steps > 0 ? warmup_steps : warmup_ratio));
}
