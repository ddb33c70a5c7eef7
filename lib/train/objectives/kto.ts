/**
 * Kahneman-Tversky optimization: answers judged one by one, each held against the reference and against how far the
 * model has moved on the whole.
 * @module
 */
import type { Batch, JudgedBatch } from "../../data/mod.ts";
import type { ForwardOptions, Model } from "../../model/model.ts";
import { noGrad } from "../../tensor/tape.ts";
import { scope, type Tensor, zeros } from "../../tensor/tensor.ts";
import { PER_STEP } from "../objective.ts";
import {
  answerTokens,
  preferenceLoss,
  type ReferenceObjective,
  rowLogProbs,
  scoresOf,
} from "./preference_loss.ts";

/** Settings of {@link kto}, under TRL's names. */
export interface KtoSettings {
  beta: number;
  desirable_weight: number;
  undesirable_weight: number;
}

/**
 * KTO's objective (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7): mean over the answers of
 * `weight (1 - sigmoid(± beta (ratio - kl)))`, + for desirable ones. `kl` is the mean log-ratio of the micro-batch's
 * prompts with each other's answers, not below 0 and without a gradient, as in TRL.
 */
export function kto(s: KtoSettings): ReferenceObjective {
  const params = { beta: s.beta, desirable: s.desirable_weight, undesirable: s.undesirable_weight };
  return {
    unit: "answers",
    metrics: [
      { name: "loss", per: PER_STEP },
      { name: "rewards/chosen", per: "chosen" },
      { name: "rewards/rejected", per: "rejected" },
      { name: "logps/chosen", per: "chosen" },
      { name: "logps/rejected", per: "rejected" },
      { name: "logits/chosen", per: "chosen_tokens" },
      { name: "logits/rejected", per: "rejected_tokens" },
      { name: "kl", per: "batches" },
    ],
    counts(batch) {
      const tokens = answerTokens(batch);
      const counts = {
        answers: tokens.length,
        batches: 1,
        chosen: 0,
        rejected: 0,
        chosen_tokens: 0,
        rejected_tokens: 0,
      };
      (batch as JudgedBatch).desirable.forEach((good, i) => {
        counts[good ? "chosen" : "rejected"]++;
        counts[good ? "chosen_tokens" : "rejected_tokens"] += tokens[i]!;
      });
      return counts;
    },
    loss(model, batch, pass) {
      const { items, scores, desirable, mismatched } = batch as JudgedBatch;
      const [answers, others] = scoresOf(items, scores);
      const { dropoutSeed } = pass;
      const otherSums = noGrad(() => scope(() => mismatchedLogProbs(model, mismatched, { dropoutSeed })));
      return preferenceLoss("kto", {
        sums: rowLogProbs(model, batch, pass),
        items: Float32Array.from(
          items.flatMap((_, i) => [answers![i]!, Number(desirable[i]), others![i]!, 0]),
        ),
        figures: 8,
        params,
        others: otherSums,
      });
    },
    score: (model, batch) => [
      rowLogProbs(model, batch, {}),
      mismatchedLogProbs(model, (batch as JudgedBatch).mismatched, {}),
    ],
    derive: (means) =>
      "rewards/chosen" in means && "rewards/rejected" in means
        ? { "rewards/margins": means["rewards/chosen"]! - means["rewards/rejected"]! }
        : {},
    describe: (v) =>
      `loss ${v.loss!.toFixed(4)}, rewards ${v["rewards/chosen"]?.toFixed(3) ?? "–"} and ` +
      `${v["rewards/rejected"]?.toFixed(3) ?? "–"}, kl ${v.kl!.toFixed(3)}`,
  };
}

/** Sums of the mismatched answers; zeros in the odd case that cutting left none of them a token. */
function mismatchedLogProbs(model: Model, batch: Batch, options: ForwardOptions): Tensor {
  return batch.trainedTokens > 0 ? rowLogProbs(model, batch, options) : zeros([batch.batch, 2]);
}
