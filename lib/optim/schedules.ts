/**
 * Learning-rate schedules by Transformers' names (`lr_scheduler_type`), as plain functions of the step.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { nearest } from "../nearest.ts";

/** `lr_scheduler_kwargs`. */
export interface ScheduleKwargs {
  /** The cosines and warmup_stable_decay: waves, default 0.5; cosine_with_restarts: times, default 1. */
  num_cycles?: number;
  /** cosine_with_min_lr, cosine_warmup_with_min_lr: the lowest rate itself. */
  min_lr?: number;
  /** The same two: the lowest rate as a part of the base. */
  min_lr_rate?: number;
  /** cosine_warmup_with_min_lr: where warm-up begins, as a part of the base; default one step of it. */
  warmup_lr_rate?: number;
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
  /** warmup_stable_decay: `linear` (default), `cosine` or `1-sqrt`. */
  warmup_type?: string;
  /** warmup_stable_decay: `linear`, `cosine` (default) or `1-sqrt`. */
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

interface Schedule {
  /** The rate as a part of the base. */
  factor: (point: SchedulePoint, kwargs: ScheduleKwargs) => number;
  /** `linear`: from 0 to the base in the warm-up steps, before `factor` counts. */
  warmUp: "linear" | "none" | "its own";
  /** What it takes; undefined: anything, and none of it counts. */
  kwargs?: readonly (keyof ScheduleKwargs)[];
  /** Its last demands on kwargs: what is wrong with them, and what to do. */
  check?: (kwargs: ScheduleKwargs, base: number) => readonly [what: string, remedy: string] | undefined;
}

/** Part of the run after warm-up that is done, counted from `shift` steps earlier. */
function progress({ step, total, warmup }: SchedulePoint, shift = 0): number {
  return (step + shift - warmup) / Math.max(1, total - warmup);
}

const wave = (cycles: number, done: number) => 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * done));
const lift = (factor: number, lowest: number) => Math.max(0, factor * (1 - lowest) + lowest);
const lowestOf = ({ min_lr, min_lr_rate }: ScheduleKwargs, base: number) =>
  min_lr !== undefined ? min_lr / base : min_lr_rate!;

/** Rising from 0 to 1 in the warm-up of `warmup_stable_decay`, and, mirrored, falling at its end. */
const SLOPES: Readonly<
  Record<string, { up: (done: number) => number; down: (done: number, cycles: number) => number }>
> = {
  linear: { up: (done) => done, down: (done) => 1 - done },
  cosine: { up: (done) => 0.5 * (1 - Math.cos(Math.PI * done)), down: (done, cycles) => wave(cycles, done) },
  "1-sqrt": { up: (done) => 1 - Math.sqrt(1 - done), down: (done) => 1 - Math.sqrt(done) },
};

function checkLowest({ min_lr, min_lr_rate }: ScheduleKwargs) {
  if (min_lr !== undefined && min_lr_rate !== undefined) {
    return ["min_lr and min_lr_rate are both given", "Keep one of them."] as const;
  }
  if (min_lr !== undefined || min_lr_rate !== undefined) return undefined;
  return [
    "the lowest rate is missing",
    "Set min_lr_rate, a part of learning_rate, or min_lr, the rate.",
  ] as const;
}

const TABLE: Readonly<Record<string, Schedule>> = {
  linear: {
    warmUp: "linear",
    kwargs: [],
    factor: ({ step, total, warmup }) => Math.max(0, (total - step) / Math.max(1, total - warmup)),
  },
  cosine: {
    warmUp: "linear",
    kwargs: ["num_cycles"],
    factor: (point, { num_cycles = 0.5 }) => Math.max(0, wave(num_cycles, progress(point))),
  },
  cosine_with_restarts: {
    warmUp: "linear",
    kwargs: ["num_cycles"],
    factor(point, { num_cycles = 1 }) {
      const done = progress(point);
      return done >= 1 ? 0 : Math.max(0, wave(0.5, (num_cycles * done) % 1));
    },
  },
  cosine_with_min_lr: {
    warmUp: "linear",
    kwargs: ["num_cycles", "min_lr", "min_lr_rate"],
    check: checkLowest,
    factor: (point, kwargs) =>
      lift(wave(kwargs.num_cycles ?? 0.5, progress(point)), lowestOf(kwargs, point.base)),
  },
  cosine_warmup_with_min_lr: {
    warmUp: "its own",
    kwargs: ["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"],
    check: checkLowest,
    factor(point, kwargs) {
      const { step, warmup } = point, { warmup_lr_rate: first } = kwargs;
      if (step >= warmup) {
        return lift(wave(kwargs.num_cycles ?? 0.5, progress(point, 1)), lowestOf(kwargs, point.base));
      }
      return first === undefined
        ? (step + 1) / Math.max(1, warmup)
        : first + (1 - first) * step / Math.max(1, warmup - 1);
    },
  },
  polynomial: {
    warmUp: "linear",
    kwargs: ["power", "lr_end"],
    check: ({ lr_end = 1e-7 }, base) =>
      base > lr_end
        ? undefined
        : [`lr_end ${lr_end} is not below learning_rate ${base}`, "Set a smaller lr_end."],
    factor({ step, total, warmup, base }, { lr_end = 1e-7, power = 1 }) {
      if (step > total) return lr_end / base;
      const left = 1 - (step - warmup) / Math.max(1, total - warmup);
      return ((base - lr_end) * left ** power + lr_end) / base;
    },
  },
  constant: { warmUp: "none", factor: () => 1 },
  constant_with_warmup: { warmUp: "linear", factor: () => 1 },
  inverse_sqrt: {
    warmUp: "linear",
    kwargs: ["timescale"],
    factor: ({ step, warmup }, { timescale = warmup || 10_000 }) =>
      1 / Math.sqrt((step + timescale - warmup) / timescale),
  },
  warmup_stable_decay: {
    warmUp: "its own",
    kwargs: [
      "num_decay_steps",
      "num_stable_steps",
      "warmup_type",
      "decay_type",
      "min_lr_ratio",
      "num_cycles",
    ],
    check({ num_decay_steps, warmup_type = "linear", decay_type = "cosine" }) {
      if (num_decay_steps === undefined) {
        return [
          "num_decay_steps is missing",
          "Set num_decay_steps, the steps in which the rate falls at the end.",
        ];
      }
      const unknown = [warmup_type, decay_type].find((type) => !Object.hasOwn(SLOPES, type));
      return unknown === undefined
        ? undefined
        : [`there is no slope '${unknown}'`, `Use one of: ${Object.keys(SLOPES).join(", ")}.`];
    },
    factor({ step, total, warmup }, kwargs) {
      const { warmup_type = "linear", decay_type = "cosine", min_lr_ratio = 0, num_cycles = 0.5 } = kwargs;
      const fall = kwargs.num_decay_steps!;
      if (step < warmup) return lift(SLOPES[warmup_type]!.up(step / Math.max(1, warmup)), min_lr_ratio);
      const into = step - warmup - (kwargs.num_stable_steps ?? total - warmup - fall);
      if (into < 0) return 1;
      if (into >= fall) return min_lr_ratio;
      return lift(SLOPES[decay_type]!.down(into / Math.max(1, fall), num_cycles), min_lr_ratio);
    },
  },
};

/** Transformers' schedules that follow the evaluation instead of the step. */
const FOLLOWING = ["reduce_lr_on_plateau", "greedy"];

/** Names that {@link learningRate} takes. */
export const SCHEDULES: readonly string[] = Object.keys(TABLE);

/**
 * Refuses what no run could follow: an unknown name, one that follows the evaluation, arguments that the schedule does
 * not take, or lacks. Transformers refuses the same.
 *
 * @param base `learning_rate`
 * @throws NibbleError `optim/schedule`
 * @example
 * ```ts
 * import { checkSchedule } from "./schedules.ts";
 * checkSchedule("cosine_with_min_lr", 2e-5, { min_lr_rate: 0.1 });
 * ```
 */
export function checkSchedule(name: string, base: number, kwargs: ScheduleKwargs = {}): void {
  const refuse = (what: string, remedy: string, where = "lr_scheduler_kwargs"): never => {
    throw new NibbleError("optim/schedule", what, { where, remedy });
  };
  const schedule = Object.hasOwn(TABLE, name) ? TABLE[name]! : undefined;
  if (!schedule) {
    const all = `Use one of: ${SCHEDULES.join(", ")}.`;
    if (FOLLOWING.includes(name)) {
      return refuse(
        `Schedule '${name}' follows the evaluation, which is not built`,
        all,
        "lr_scheduler_type",
      );
    }
    const near = nearest(name, SCHEDULES);
    return refuse(
      `Unknown schedule '${name}'`,
      near ? `Did you mean ${near}? ${all}` : all,
      "lr_scheduler_type",
    );
  }
  const { kwargs: takes, check } = schedule;
  const foreign = takes && Object.keys(kwargs).find((key) => !takes.some((known) => known === key));
  if (foreign !== undefined) {
    refuse(
      `${name} takes no argument '${foreign}'`,
      takes!.length ? `It takes ${takes!.join(", ")}.` : "It takes none.",
    );
  }
  const wrong = check?.(kwargs, base);
  if (wrong) refuse(`${name}: ${wrong[0]}`, wrong[1]);
}

/**
 * The learning rate of one step, in units of `base`'s. Warm-up rises linearly from 0 (all but `constant` and two that
 * have their own).
 *
 * @throws NibbleError `optim/schedule` as {@link checkSchedule}
 * @example
 * ```ts
 * import { learningRate } from "./schedules.ts";
 * const lr = (step: number) => learningRate("linear", { step, total: 10, warmup: 2, base: 1 });
 * if (lr(0) !== 0 || lr(1) !== 0.5 || lr(2) !== 1 || lr(10) !== 0) throw new Error("up in two, down in eight");
 * ```
 */
export function learningRate(name: string, point: SchedulePoint): number {
  const { step, warmup, base, kwargs = {} } = point;
  checkSchedule(name, base, kwargs);
  const { warmUp, factor } = TABLE[name]!;
  return base * (warmUp === "linear" && step < warmup ? step / Math.max(1, warmup) : factor(point, kwargs));
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
