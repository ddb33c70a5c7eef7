/**
 * Checkpoints: everything that a run needs to go on with the same bits.
 * @module
 */
import { join } from "@std/path";
import { openSafetensors, type TensorSource, writeSafetensors, writeText } from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import type { Optimizer, SavedState } from "../optim/mod.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { STATE } from "./checkpoint_folder.ts";
import {
  canResume,
  type CheckpointState,
  damaged,
  guarded,
  openState,
  OPTIMIZER,
  readCheckpoint,
} from "./checkpoint_state.ts";
import type { Fingerprint } from "./fingerprint.ts";
import type { RunKernels } from "./kernels.ts";
import type { LoopState } from "./loop.ts";

const PARAMETERS = "parameters.safetensors";

/** Files of a checkpoint that serve resuming and are no part of the model. */
export const STATE_FILES: readonly string[] = [OPTIMIZER, PARAMETERS, STATE];

/** The trained parameters of a checkpoint by name, in f32 (and the optimizer's state beside them). */
export function openParameters(folder: string): TensorSource {
  return openSafetensors(join(folder, canResume(folder) ? OPTIMIZER : PARAMETERS));
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
  const about: CheckpointState = { version: 2, written: Date.now(), state, fingerprint, kernels };
  writeText(join(folder, STATE), JSON.stringify(about, null, 2) + "\n");
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
 * @throws NibbleError `train/damaged-checkpoint` where something is missing, cut short or not finite
 */
export function loadState(
  folder: string,
  optimizer: Optimizer,
  parameters: ReadonlyMap<string, Tensor>,
): LoopState {
  const { state } = readCheckpoint(folder);
  const source = openState(folder);
  try {
    guarded(folder, () => {
      for (const [name, t] of parameters) {
        const values = source.readF32(name);
        if (values.length !== t.size) throw damaged(folder, `${name} has ${values.length} numbers`);
        // trained on, it would spoil every step, and sound checkpoints would make room for its own
        if (!values.every(Number.isFinite)) throw damaged(folder, `${name} has numbers that are not finite`);
        t.write(values);
      }
      optimizer.loadState((name) => {
        const bytes = source.readBytes(name);
        const plain = source.tensors.get(name)?.dtype === "F32" && name !== "metrics";
        if (plain && new Float32Array(bytes.buffer).some(Number.isNaN)) {
          throw damaged(folder, `${name} has NaN`);
        }
        return bytes;
      });
    });
  } finally {
    source.close();
  }
  return state;
}
