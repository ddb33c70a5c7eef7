/**
 * When a run logs, evaluates and saves, and where it goes on from.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { listCheckpoints } from "./checkpoint_folder.ts";
import { canResume } from "./checkpoint_state.ts";
import type { TrainSettings } from "./settings.ts";
import { readTrainerState } from "./state.ts";

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

/** The checkpoint to go on from: as the key says, or the newest that is not finished. */
export function resumeFolder(s: TrainSettings): string | undefined {
  const wish = s.resume_from_checkpoint;
  if (wish === "false") return undefined;
  // those of save_only_model are results, and nothing to go on from
  const newest = listCheckpoints(s.output_dir).findLast(({ path }) => canResume(path))?.path;
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
