/**
 * Ranks of an adapter that do not train: they hold what corrects the quantization and belong to the base. Adam's first
 * steps are as large for them as for the others and undo the correction: after 40 steps of SmolLM2-135M's recipe more
 * than half of what it was worth was lost where it trained. Nor does dropout fall on what they read, as it does not on
 * what the base reads.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { mul } from "../tensor/ops/pointwise.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import type { Init } from "./config.ts";

/**
 * How many of `r` ranks a correction takes, the first ones: as many as `qera_rank_N` says, by default half.
 *
 * @throws NibbleError `lora/init` where none would be left to train, or none to correct
 * @example
 * ```ts
 * import { fixedRanks } from "./fixed_ranks.ts";
 * if (fixedRanks({ kind: "qera", ranks: undefined }, 16) !== 8) throw new Error("half of them");
 * ```
 */
export function fixedRanks(init: Init, r: number): number {
  if (init.kind !== "qera") return 0;
  const ranks = init.ranks ?? Math.floor(r / 2);
  if (ranks > 0 && ranks < r) return ranks;
  throw new NibbleError(
    "lora/init",
    `A correction of rank ${ranks} leaves ${r - ranks} of lora_r ${r} to train`,
    {
      where: "init_lora_weights",
      remedy:
        "lora_r counts both: set it to the correction's rank and the rank to train, lora_alpha along with it.",
    },
  );
}

/** Which ranks train, and which hold a correction: ones for those, `[r]`, zeros for the others. */
export interface RankMasks {
  readonly train: Tensor;
  readonly stay: Tensor;
}

/** The masks of an adapter with `fixed` ranks, made by `make`; undefined where all train. */
export function rankMasks(fixed: number, r: number, make: (t: Tensor) => Tensor): RankMasks | undefined {
  if (fixed === 0) return undefined;
  const mask = (ones: (k: number) => boolean) =>
    make(tensor(Float32Array.from({ length: r }, (_, k) => ones(k) ? 1 : 0), [r], "f32", "adapter"));
  return { train: mask((k) => k >= fixed), stay: mask((k) => k < fixed) };
}

/** `[M, r]` with zeros for the ranks that stay, so that what is summed over it leaves them alone. */
export function ofTraining(t: Tensor, masks: RankMasks | undefined): Tensor {
  return masks ? mul(t, masks.train) : t;
}
