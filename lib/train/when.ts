/**
 * When a run logs, evaluates and saves.
 * @module
 */
import type { TrainSettings } from "./settings.ts";

/** When things happen in a run; steps count from 1. */
export interface Timing {
  /** Steps between logs, evaluations and checkpoints, shares of the run made whole. */
  logging_steps: number;
  eval_steps: number;
  save_steps: number;
  logAt: (step: number) => boolean;
  evalAt: (step: number) => boolean;
  saveAt: (step: number) => boolean;
}

/**
 * When to log, evaluate and save, as Trainer does; a number of steps below 1 is a share of the run, rounded up. The
 * last step is saved whatever `save_steps` is, and an epoch that `max_steps` cuts short counts as one.
 *
 * The evaluation after the last step is the run's final one, unless it decides which checkpoint is the best. Of
 * `save_strategy: best` only the evaluations know when to save.
 */
export function timing(s: TrainSettings, maxSteps: number, stepsPerEpoch: number): Timing {
  const steps = (n: number) => n < 1 ? Math.ceil(maxSteps * n) : Math.round(n);
  const last = (step: number) => step === maxSteps;
  const when = (strategy: string, n: number) => (step: number) =>
    strategy === "steps"
      ? step % n === 0
      : strategy === "epoch" && (step % stepsPerEpoch === 0 || last(step));
  const logging_steps = steps(s.logging_steps);
  const eval_steps = steps(s.eval_steps ?? s.logging_steps);
  const save_steps = steps(s.save_steps);
  const log = when(s.logging_strategy, logging_steps);
  const due = when(s.eval_strategy, eval_steps);
  const evaluate = (step: number) =>
    due(step) && (s.eval_strategy === "epoch" ? step / stepsPerEpoch : step) >= s.eval_delay;
  const decides = (s.load_best_model_at_end || s.save_strategy === "best") && s.eval_strategy !== "no";
  const save = when(s.save_strategy, save_steps);
  return {
    logging_steps,
    eval_steps,
    save_steps,
    logAt: (step) => log(step) || (s.logging_first_step && step === 1),
    evalAt: (step) => last(step) ? decides : evaluate(step),
    saveAt: (step) => save(step) || (s.save_strategy === "steps" && last(step)),
  };
}
