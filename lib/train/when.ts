/**
 * When a run logs, evaluates and saves, and where it goes on from.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { newestCheckpoint } from "./checkpoint_folder.ts";
import type { TrainSettings } from "./settings.ts";
import { readTrainerState } from "./state.ts";

/** When to log, evaluate and save; a number of steps below 1 is a share of the run. */
export function every(s: TrainSettings, maxSteps: number, stepsPerEpoch: number) {
  const steps = (n: number) => n < 1 ? Math.ceil(maxSteps * n) : Math.round(n);
  const when = (strategy: string, n: number) => (step: number) =>
    strategy === "steps" ? step % steps(n) === 0 : strategy === "epoch" ? step % stepsPerEpoch === 0 : false;
  const log = when(s.logging_strategy, s.logging_steps);
  const evalWhen = when(s.eval_strategy, s.eval_steps ?? s.logging_steps);
  return {
    logAt: (step: number) => log(step) || (s.logging_first_step && step === 1),
    // the last step is followed by the final evaluation
    evalAt: (step: number) => step < maxSteps && evalWhen(step),
    saveAt: when(s.save_strategy, s.save_steps),
  };
}

/** The checkpoint to go on from: as the key says, or the newest that is not finished. */
export function resumeFolder(s: TrainSettings): string | undefined {
  const wish = s.resume_from_checkpoint;
  if (wish === "false") return undefined;
  const newest = newestCheckpoint(s.output_dir);
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
