/**
 * What a checkpoint says of its run: read, and looked through before anything is built on it.
 * @module
 */
import { dirname, join, resolve } from "@std/path";
import { NibbleError } from "../errors.ts";
import {
  isFile,
  isObject,
  openSafetensors,
  readTextIfThere,
  type TensorSource,
  writeText,
} from "../formats/mod.ts";
import { listCheckpoints, parseState, peekState, STATE } from "./checkpoint_folder.ts";
import type { Fingerprint } from "./fingerprint.ts";
import type { RunKernels } from "./kernels.ts";
import type { LoopState } from "./loop.ts";

/** The parameters in f32 and the optimizer's state. */
export const OPTIMIZER = "optimizer.safetensors";

/** `nibble_state.json`. */
export interface CheckpointState {
  version: 2;
  /** When it was written, in milliseconds since 1970. */
  written: number;
  state: LoopState;
  fingerprint: Fingerprint;
  kernels: RunKernels;
  /** Set when a run in the same folder ended, which the checkpoint is from before the end of. */
  finished?: boolean;
}

/** Whether a checkpoint holds all that going on needs; one of `save_only_model` does not. */
export function canResume(folder: string): boolean {
  return isFile(join(folder, STATE)) && isFile(join(folder, OPTIMIZER));
}

/**
 * Reads a checkpoint's state and looks into its tensors' file; no tensor is read.
 *
 * @throws NibbleError `train/no-checkpoint` where there is none, `train/old-checkpoint`, `train/damaged-checkpoint`
 */
export function readCheckpoint(folder: string): CheckpointState {
  const text = readTextIfThere(join(folder, STATE));
  if (text === undefined) {
    throw new NibbleError("train/no-checkpoint", `There is no ${STATE}`, {
      where: folder,
      remedy: "Give a checkpoint-N folder that nibble wrote without save_only_model, or " +
        "resume_from_checkpoint=false.",
    });
  }
  const saved = parseState(text);
  if (saved?.version === 1) {
    throw new NibbleError("train/old-checkpoint", "The checkpoint was made by an earlier nibble", {
      where: `${folder}: it does not record the settings of its run, which this one would have to agree with`,
      remedy:
        "Start afresh with --resume_from_checkpoint=false, or end the run with the nibble that began it.",
    });
  }
  const why = faultOf(saved);
  if (why) throw damaged(folder, `${STATE}: ${why}`);
  openState(folder).close();
  return saved as unknown as CheckpointState;
}

/** Whether the run of a checkpoint, or a later one in its folder, has ended; damage is {@link readCheckpoint}'s to tell. */
export function isFinished(folder: string): boolean {
  return peekState(folder)?.finished === true;
}

/** Notes in all checkpoints of a folder that the run has ended: the next one does not go on from them unasked. */
export function markFinished(outputDir: string): void {
  for (const { path } of listCheckpoints(outputDir)) {
    const saved = peekState(path);
    if (saved) writeText(join(path, STATE), JSON.stringify({ ...saved, finished: true }, null, 2) + "\n");
  }
}

/** Opens a checkpoint's tensors. */
export function openState(folder: string): TensorSource {
  return guarded(folder, () => openSafetensors(join(folder, OPTIMIZER)));
}

/** Does what reads a checkpoint's tensors; that their file is cut short or lacks one is an error that helps. */
export function guarded<T>(folder: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof NibbleError) || !/^(formats|optim)\//.test(cause.code)) throw cause;
    throw damaged(folder, `${OPTIMIZER}: ` + cause.message.split("\n")[0]!, cause);
  }
}

/** The error of a checkpoint that cannot be gone on from, with the one before it. */
export function damaged(folder: string, why: string, cause?: unknown): NibbleError {
  return new NibbleError("train/damaged-checkpoint", "The checkpoint is damaged", {
    where: `${folder}: ${why}`,
    remedy: `${earlier(folder)}tart afresh with --resume_from_checkpoint=false.`,
    cause,
  });
}

function earlier(folder: string): string {
  const all = listCheckpoints(dirname(resolve(folder))).filter(({ path }) => canResume(path));
  const at = all.findIndex(({ path }) => path === resolve(folder));
  const before = all[at - 1];
  return before ? `Go on from an earlier one with --resume_from_checkpoint=${before.path}, or s` : "S";
}

/** What makes it no state of a run. */
function faultOf(saved: unknown): string | undefined {
  if (!isObject(saved)) return "it is not a JSON object";
  const { state, fingerprint } = saved;
  if (!isObject(fingerprint) || !["base", "data", "max_steps"].every((key) => key in fingerprint)) {
    return "it has no fingerprint";
  }
  if (!isObject(state)) return "it has no state";
  for (const key of ["step", "numTokens"]) {
    const value = state[key];
    if (!Number.isSafeInteger(value) || (value as number) < 0) {
      return `${key} is ${JSON.stringify(value)}, and no whole number from 0 on`;
    }
  }
  const { pending } = state;
  // a sum that is not finite is null in JSON
  const sums = isObject(pending) && Array.isArray(pending.sums) &&
    pending.sums.every((sum) => sum === null || typeof sum === "number");
  const counts = isObject(pending) && isObject(pending.counts) &&
    Object.values(pending.counts).every((count) => typeof count === "number");
  return sums && counts ? undefined : "pending holds no sums and counts";
}
