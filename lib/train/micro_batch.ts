/**
 * Forward and backward of one micro-batch.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import type { Model } from "../model/model.ts";
import { addInto, mul } from "../tensor/ops/pointwise.ts";
import { differentiate } from "../tensor/tape.ts";
import { scope, type Tensor, tensor } from "../tensor/tensor.ts";
import type { LoopOptions } from "./loop.ts";
import { type Counts, type Pass, PER_STEP } from "./objective.ts";

type PassOptions = Pick<LoopOptions, "model" | "checkpointing" | "dropoutSeed" | "noise">;

/** What one micro-batch's forward pass is given. */
export function passOf(o: PassOptions, batch: Batch, totals: Counts, seed: number): Pass {
  const seeded = (base: number) => (base ^ Math.imul(seed, 0x9e3779b1)) >>> 0;
  return {
    totals,
    checkpointing: o.checkpointing,
    dropoutSeed: o.dropoutSeed === undefined ? undefined : seeded(o.dropoutSeed),
    noise: o.noise &&
      { magnitude: noiseMagnitude(o.noise.alpha, batch, o.model), seed: seeded(o.noise.seed) },
  };
}

/** Forward and backward of one micro-batch; its gradients are sums over units, scaled in the optimizer. */
export function trainBatch(
  { objective, model }: Pick<LoopOptions, "objective" | "model">,
  batch: Batch,
  pass: Pass,
  sums: Tensor,
): void {
  scope(() => {
    const { output } = differentiate(() => objective.loss(model, batch, pass), undefined);
    const weights = objective.metrics.map(({ per }) =>
      per === PER_STEP ? 1 / pass.totals[objective.unit]! : 1
    );
    addInto(sums, mul(output, tensor(weights, [1, weights.length])));
  });
}

/**
 * NEFTune's `alpha / sqrt(L * d)` (Jain et al. 2023): L is the length to which Transformers would pad this batch, its
 * longest row, without nibble's rounding up to a multiple of 8.
 */
function noiseMagnitude(alpha: number, { segments, batch, time }: Batch, model: Model): number {
  let longest = 0;
  for (let row = 0; row < batch; row++) {
    const end = segments.subarray(row * time, (row + 1) * time).findLastIndex((segment) => segment !== 0) + 1;
    longest = Math.max(longest, end);
  }
  return alpha / Math.sqrt(longest * model.config.hidden_size);
}
