/**
 * Where a run goes on from, and whether it may.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { loadState } from "./checkpoint.ts";
import { listCheckpoints } from "./checkpoint_folder.ts";
import { canResume, type CheckpointState, isFinished, readCheckpoint } from "./checkpoint_state.ts";
import { checkSameRun, type Fingerprint } from "./fingerprint.ts";
import { type LoopState, newLoopState } from "./loop.ts";
import type { RunParts } from "./output.ts";
import type { TrainSettings } from "./settings.ts";
import { newTrainerState, readTrainerState, type TrainerState } from "./state.ts";

/**
 * The checkpoint to go on from: as the key says, or the newest that is not finished and whose run is not. Those of a
 * finished run are only taken by name, or with `true`: the same command trains anew, and does not do nothing.
 */
export function resumeFolder(s: TrainSettings): string | undefined {
  const wish = s.resume_from_checkpoint;
  if (wish === "false") return undefined;
  if (wish && wish !== "true") return wish;
  // those of save_only_model are results, and nothing to go on from
  const all = listCheckpoints(s.output_dir).map(({ path }) => path).filter(canResume);
  if (wish === "true") {
    if (all.length > 0) return all.at(-1);
    throw new NibbleError("train/no-checkpoint", "There is no checkpoint to resume from", {
      where: s.output_dir,
      remedy: "Leave resume_from_checkpoint out to start afresh.",
    });
  }
  const newest = all.findLast((path) => !isFinished(path));
  if (newest === undefined) return undefined;
  const { global_step, max_steps } = readTrainerState(newest);
  return global_step < max_steps ? newest : undefined;
}

/** A line for the log where a finished run lies in the folder and this one starts afresh. */
export function freshNote(s: TrainSettings): string | undefined {
  const wish = s.resume_from_checkpoint;
  const last = listCheckpoints(s.output_dir).findLast(({ path }) => canResume(path))?.path;
  if (wish || last === undefined) return undefined;
  return `note        the finished run in ${s.output_dir} is not continued, this one starts afresh; ` +
    `to go on from its last checkpoint: --resume_from_checkpoint=${last}`;
}

/**
 * Reads a checkpoint and compares its run with this one, before a weight is loaded.
 *
 * @throws NibbleError `train/resume-mismatch`, `train/no-checkpoint`, `train/damaged-checkpoint`
 */
export function checkResume(folder: string, s: TrainSettings, now: Fingerprint): CheckpointState {
  const saved = readCheckpoint(folder);
  const named = Boolean(s.resume_from_checkpoint); // an empty one names none
  checkSameRun(saved.fingerprint, now, { folder, step: saved.state.step, named });
  return saved;
}

/** The state that a run begins with: a new one, or that of a checkpoint, whose tensors are put back. */
export function beginRun(
  from: string | undefined,
  { setUp: { optimizer, pages }, reporter }: Pick<RunParts, "setUp" | "reporter">,
  known: Partial<TrainerState> & { max_steps: number },
): { state: LoopState; trainer: TrainerState } {
  if (from === undefined) return { state: newLoopState(), trainer: newTrainerState(known) };
  const state = loadState(from, optimizer, pages.tensors);
  const before = readTrainerState(from), { max_steps } = known;
  const longer = before.max_steps === max_steps
    ? ""
    : `; it was a run of ${before.max_steps}, the learning rate goes on by the schedule of ${max_steps}`;
  reporter.note(`resumed     ${from} at step ${state.step} of ${max_steps}${longer}`);
  return { state, trainer: { ...before, ...known } };
}
