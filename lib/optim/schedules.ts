/**
 * Learning-rate schedules, as Transformers defines them.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** Where a step stands in its run. */
export interface Schedule {
  /** Optimizer step, from 0. */
  step: number;
  /** Steps in all. */
  total: number;
  /** Steps in which the rate rises from 0. */
  warmup: number;
  /** Peak learning rate. */
  base: number;
  /** `lr_scheduler_kwargs`. */
  kwargs?: Record<string, unknown> | null | undefined;
}

type Shape = (s: Schedule, progress: number, arg: (name: string, fallback: number) => number) => number;

const cosine = (progress: number, cycles: number) => Math.max(0, 0.5 * (1 + Math.cos(Math.PI * 2 * cycles * progress)));

/** Multiplier after warm-up; `progress` runs from 0 to 1. */
const SHAPES: Record<string, Shape> = {
  linear: (_, p) => Math.max(0, 1 - p),
  cosine: (_, p, arg) => cosine(p, arg("num_cycles", 0.5)),
  cosine_with_restarts: (_, p, arg) => p >= 1 ? 0 : 0.5 * (1 + Math.cos(Math.PI * ((arg("num_cycles", 1) * p) % 1))),
  cosine_with_min_lr: (s, p, arg) => {
    const floor = arg("min_lr_rate", arg("min_lr", 0) / s.base);
    return cosine(p, arg("num_cycles", 0.5)) * (1 - floor) + floor;
  },
  polynomial: (s, p, arg) => {
    const end = arg("lr_end", 1e-7) / s.base;
    return p >= 1 ? end : (1 - end) * (1 - p) ** arg("power", 1) + end;
  },
  inverse_sqrt: (s, _, arg) => {
    const scale = arg("timescale", s.warmup || 10000);
    return 1 / Math.sqrt((s.step + scale - s.warmup) / scale);
  },
  constant_with_warmup: () => 1,
};

/**
 * The learning rate of a step: rising linearly from 0 through the warm-up (`constant` has none), then by name.
 *
 * @throws NibbleError `optim/schedule` with the list of supported names
 * @example
 * ```ts
 * import { learningRate } from "./schedules.ts";
 * const at = (step: number) => learningRate("cosine", { step, total: 10, warmup: 2, base: 1 });
 * if (at(0) !== 0 || at(1) !== 0.5 || at(2) !== 1 || Math.abs(at(6) - 0.5) > 1e-12) throw new Error("cosine");
 * ```
 */
export function learningRate(name: string, s: Schedule): number {
  if (name === "constant") return s.base;
  const shape = SHAPES[name];
  if (!shape) {
    throw new NibbleError("optim/schedule", `The schedule '${name}' is not supported`, {
      where: "lr_scheduler_type",
      remedy: `Supported: constant, ${Object.keys(SHAPES).join(", ")}.`,
    });
  }
  if (s.step < s.warmup) return s.base * s.step / Math.max(1, s.warmup);
  const progress = (s.step - s.warmup) / Math.max(1, s.total - s.warmup);
  const arg = (key: string, fallback: number) => {
    const value = s.kwargs?.[key];
    return typeof value === "number" ? value : fallback;
  };
  return s.base * shape(s, progress, arg);
}

/** Warm-up steps: `warmup_steps` where given, else the share `warmup_ratio` of the run, rounded up. */
export function warmupSteps(s: { warmup_steps: number; warmup_ratio: number; total: number }): number {
  return s.warmup_steps > 0 ? s.warmup_steps : Math.ceil(s.total * s.warmup_ratio);
}
