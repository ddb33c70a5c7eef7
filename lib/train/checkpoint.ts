/**
 * Checkpoints: everything that a run needs to go on with the same bits.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { isFile, openSafetensors, type TensorSource, writeSafetensors, writeText } from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import type { Optimizer, SavedState } from "../optim/mod.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { STATE } from "./checkpoint_folder.ts";
import type { RunKernels } from "./kernels.ts";
import type { LoopState } from "./loop.ts";

const OPTIMIZER = "optimizer.safetensors";
const PARAMETERS = "parameters.safetensors";

/** Files of a checkpoint that serve resuming and are no part of the model. */
export const STATE_FILES: readonly string[] = [OPTIMIZER, PARAMETERS, STATE];

/** Whether a checkpoint holds all that going on needs; one of `save_only_model` does not. */
export function canResume(folder: string): boolean {
  return isFile(join(folder, STATE)) && isFile(join(folder, OPTIMIZER));
}

/** The trained parameters of a checkpoint by name, in f32 (and the optimizer's state beside them). */
export function openParameters(folder: string): TensorSource {
  return openSafetensors(join(folder, canResume(folder) ? OPTIMIZER : PARAMETERS));
}

/** What must agree between a checkpoint and the run that resumes it. */
export interface Fingerprint {
  /** Trained parameters and their shapes. */
  parameters: string;
  /** Rows, batch size, accumulation, seed: the order of data. */
  data: string;
  optim: string;
}

/** Writes the optimizer's state, the trained parameters in f32 and the loop's state. The dropout of a step and the
 * order of rows follow from seed and step, so the step number is their whole state. */
export async function saveState(
  folder: string,
  state: LoopState,
  optimizer: Optimizer,
  parameters: ReadonlyMap<string, Tensor>,
  fingerprint: Fingerprint,
  kernels: RunKernels,
): Promise<void> {
  const saved = await optimizer.saveState();
  await writeTensors(join(folder, OPTIMIZER), parameters, saved);
  const text = JSON.stringify({ version: 1, written: Date.now(), state, fingerprint, kernels }, null, 2) +
    "\n";
  writeText(join(folder, STATE), text);
}

/** Writes the trained parameters alone, in f32, whatever dtype the model is saved in. */
export async function saveParameters(folder: string, parameters: ReadonlyMap<string, Tensor>): Promise<void> {
  await writeTensors(join(folder, PARAMETERS), parameters);
}

async function writeTensors(
  path: string,
  parameters: ReadonlyMap<string, Tensor>,
  state: readonly SavedState[] = [],
): Promise<void> {
  const bytes = await gpu().stream.read(
    [...parameters.values()].map((t) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
  );
  writeSafetensors(path, [
    ...[...parameters].map(([name, t], i) => ({
      ...{ name, dtype: "F32" as const, shape: t.shape, data: new Float32Array(bytes[i]!) },
    })),
    ...state.map(({ name, dtype, shape, data }) => ({ name, dtype, shape, data: joined(data) })),
  ]);
}

/** Pieces one after the other. */
function joined(pieces: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer> {
  if (pieces.length === 1) return pieces[0]!;
  const whole = new Uint8Array(pieces.reduce((n, piece) => n + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/**
 * Restores what {@link saveState} wrote.
 *
 * @throws NibbleError `train/resume-mismatch` naming what differs
 */
export function loadState(
  folder: string,
  optimizer: Optimizer,
  parameters: ReadonlyMap<string, Tensor>,
  fingerprint: Fingerprint,
): LoopState {
  let saved: { state: LoopState; fingerprint: Fingerprint };
  try {
    saved = JSON.parse(Deno.readTextFileSync(join(folder, STATE)));
  } catch (cause) {
    throw new NibbleError("train/no-checkpoint", `There is no readable ${STATE}`, {
      where: folder,
      remedy: "Give a checkpoint-N folder that nibble wrote without save_only_model, or " +
        "resume_from_checkpoint=false.",
      cause,
    });
  }
  for (const key of ["parameters", "data", "optim"] as const) {
    if (saved.fingerprint[key] !== fingerprint[key]) {
      throw new NibbleError("train/resume-mismatch", `The checkpoint was made with other ${key}`, {
        where: `${folder}: ${saved.fingerprint[key]}; now ${fingerprint[key]}`,
        remedy:
          "Resume with the recipe it was made with, or start afresh with --resume_from_checkpoint=false.",
      });
    }
  }
  const source = openParameters(folder);
  try {
    for (const [name, t] of parameters) t.write(source.readF32(name));
    optimizer.loadState((name) => source.readBytes(name));
  } finally {
    source.close();
  }
  return saved.state;
}
