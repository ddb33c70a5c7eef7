/**
 * A check after the first real step: everything that should learn does.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { gpu } from "../gpu/mod.ts";
import { initOf } from "../lora/config.ts";
import { fixedRanks } from "../lora/fixed_ranks.ts";
import { METRICS } from "../optim/mod.ts";
import type { TrainableModel } from "./model_setup.ts";

/**
 * After a step with a learning rate B must have moved in every adapted layer: a layer that cannot learn is an error,
 * not a footnote. Ranks that hold a correction stay, and do not count.
 *
 * @throws NibbleError `train/no-gradient` naming layers
 */
export async function checkMoved({ adapter, optimizer }: TrainableModel): Promise<void> {
  if (!adapter) return;
  const layers = [...adapter.layers];
  const ranges = layers.map(([, { b }]) => ({ buffer: b.buffer, offset: b.offset, bytes: b.bytes }));
  const [metrics, ...values] = await gpu().stream.read([
    { buffer: optimizer.metrics.buffer, offset: optimizer.metrics.offset, bytes: optimizer.metrics.bytes },
    ...ranges,
  ]);
  if (new Float32Array(metrics!)[METRICS.applied] === 0) return; // the step was skipped, which the log says
  const init = initOf(adapter.config);
  const still = layers.filter(([, { b }], i) => {
    const fixed = fixedRanks(init, b.columns);
    return new Float32Array(values[i]!).every((v, k) => v === 0 || k % b.columns < fixed);
  }).map(([module]) => module);
  // an expert to which no token was sent has learned nothing yet, rightly
  const stuck = still.filter((module) => !module.includes(".experts."));
  if (stuck.length > 0) {
    throw new NibbleError("train/no-gradient", `${stuck.length} adapted layers got no gradient`, {
      where: stuck.slice(0, 3).join(", "),
    });
  }
}
