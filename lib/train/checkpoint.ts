/**
 * Checkpoints: everything that a run needs to go on with the same bits.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { openSafetensors, writeSafetensors, writeWhole } from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import type { Optimizer } from "../optim/mod.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { LoopState } from "./loop.ts";

const OPTIMIZER = "optimizer.safetensors";
const STATE = "nibble_state.json";

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
): Promise<void> {
  const all = [...parameters, ...optimizer.stateTensors()];
  const bytes = await gpu().stream.read(
    all.map(([, t]) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
  );
  writeSafetensors(
    join(folder, OPTIMIZER),
    all.map(([name, t], i) => ({
      name,
      dtype: "F32" as const,
      shape: t.shape,
      data: new Float32Array(bytes[i]!),
    })),
  );
  const text = JSON.stringify({ version: 1, state, fingerprint }, null, 2) + "\n";
  writeWhole(join(folder, STATE), (put) => put(new TextEncoder().encode(text)));
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
      remedy: "Give a checkpoint-N folder that nibble wrote, or resume_from_checkpoint=false.",
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
  const source = openSafetensors(join(folder, OPTIMIZER));
  try {
    for (const [name, t] of [...parameters, ...optimizer.stateTensors()]) t.write(source.readF32(name));
  } finally {
    source.close();
  }
  return saved.state;
}
