/**
 * Learning-rate schedules by Transformers' names (`lr_scheduler_type`), as plain functions of the step.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** `lr_scheduler_kwargs`. */
export interface ScheduleKwargs {
  /** cosine, cosine_with_min_lr, warmup_stable_decay: default 0.5; cosine_with_restarts: default 1. */
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
  /** warmup_stable_decay: steps in which the rate falls, at the end. */
  num_decay_steps?: number;
  /** warmup_stable_decay: steps at the full rate; default what warm-up and decay leave. */
  num_stable_steps?: number;
  /** warmup_stable_decay: the lowest rate as a part of the base, default 0. */
  min_lr_ratio?: number;
  /** warmup_stable_decay: linear, cosine (default) or 1-sqrt. */
  decay_type?: string;
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

/** The falling part of `warmup_stable_decay`, from 1 to 0 as its share done goes from 0 to 1. */
const DECAYS: Record<string, (done: number, cycles: number) => number> = {
  linear: (done) => 1 - done,
  cosine: (done, cycles) => 0.5 * (1 + Math.cos(2 * Math.PI * cycles * done)),
  "1-sqrt": (done) => 1 - Math.sqrt(done),
};

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
  warmup_stable_decay({ step, total, warmup }, kwargs) {
    const { num_decay_steps: decay, min_lr_ratio: lowest = 0, num_cycles = 0.5 } = kwargs;
    if (decay === undefined) {
      throw new NibbleError("optim/schedule", "warmup_stable_decay needs num_decay_steps", {
        where: "lr_scheduler_kwargs",
        remedy: "Set num_decay_steps, the steps in which the rate falls at the end.",
      });
    }
    const stable = kwargs.num_stable_steps ?? Math.max(0, total - warmup - decay);
    const into = step - warmup - stable;
    if (into < 0) return 1;
    if (into >= decay) return lowest;
    const shape = DECAYS[kwargs.decay_type ?? "cosine"];
    if (!shape) {
      throw new NibbleError("optim/schedule", `Unknown decay_type '${kwargs.decay_type}'`, {
        where: "lr_scheduler_kwargs",
        remedy: `Use one of: ${Object.keys(DECAYS).join(", ")}.`,
      });
    }
    return Math.max(0, shape(into / Math.max(1, decay), num_cycles) * (1 - lowest) + lowest);
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
 * Refuses a schedule that cannot run, before it does.
 *
 * @throws NibbleError `optim/schedule` for an unknown name or a missing entry of `kwargs`
 */
export function checkSchedule(name: string, kwargs?: ScheduleKwargs): void {
  learningRate(name, { step: 1, total: 4, warmup: 1, base: 1, kwargs });
}

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
