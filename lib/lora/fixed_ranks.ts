/**
 * Ranks of an adapter that do not train: they hold what corrects the quantization and belong to the base. Adam's first
 * steps are as large for them as for the others and undo the correction: after 40 steps of SmolLM2-135M's recipe more
 * than half of what it was worth was lost where it trained, next to nothing where it stayed.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { mul } from "../tensor/ops/pointwise.ts";
import { keep, type Tensor, tensor } from "../tensor/tensor.ts";
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

/** 0 for the fixed ranks, 1 for the others, `[r]`; undefined where all train. Its owner disposes it. */
export function trainsMask(fixed: number, r: number): Tensor | undefined {
  if (fixed === 0) return undefined;
  return keep(tensor(Float32Array.from({ length: r }, (_, k) => k < fixed ? 0 : 1), [r], "f32", "adapter"));
}

/** `[M, r]` with zeros for the ranks that do not train, so that what is summed over it leaves them alone. */
export function ofTraining(t: Tensor, trains: Tensor | undefined): Tensor {
  return trains ? mul(t, trains) : t;
}
