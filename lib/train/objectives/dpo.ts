/**
 * Direct preference optimization and its relatives: answers are held against a frozen reference.
 * @module
 */
import type { PairBatch } from "../../data/mod.ts";
import { PER_STEP } from "../objective.ts";
import { DPO_LOSSES } from "./losses.ts";
import {
  answerTokens,
  describePairs,
  PAIR_METRICS,
  pairCounts,
  preferenceLoss,
  type ReferenceObjective,
  rowLogProbs,
  scoresOf,
} from "./preference_loss.ts";

/** Settings of {@link dpo}, under TRL's names. */
export interface DpoSettings {
  loss_type: string;
  beta: number;
  label_smoothing: number;
  discopop_tau: number;
  /** Weight of the chosen answers' negative log-likelihood a token, or null: none. */
  rpo_alpha: number | null;
  /** Take the reference's log-probabilities as 0. */
  reference_free: boolean;
}

/**
 * DPO's objective: mean over the pairs of the window of `loss(c - c0, r - r0)`, with c and r the log-probabilities
 * of the answers' tokens summed, c0 and r0 the reference's. `ipo` takes them a token.
 */
export function dpo(s: DpoSettings): ReferenceObjective {
  const loss = (DPO_LOSSES as readonly string[]).indexOf(s.loss_type);
  const params = {
    beta: s.beta,
    // with a certain preference exo_pair has an infinite cost; TRL puts this in its place
    smoothing: s.loss_type === "exo_pair" ? s.label_smoothing || 1e-3 : s.label_smoothing,
    tau: s.discopop_tau,
  };
  return {
    unit: "pairs",
    metrics: [
      { name: "loss", per: PER_STEP },
      ...PAIR_METRICS,
      // the kernel always sums it; what is counted by nothing is not logged
      { name: "nll_loss", per: s.rpo_alpha === null ? "nothing" : "chosen_tokens" },
    ],
    counts: pairCounts,
    loss(model, batch, pass) {
      const { pairs = 0, chosen_tokens = 0 } = pass.totals;
      const { items, scores } = batch as PairBatch;
      const [chosen, rejected] = scoresOf(
        items,
        s.reference_free ? { ...scores, values: undefined } : scores,
      );
      const tokens = answerTokens(batch);
      return preferenceLoss("dpo", {
        sums: rowLogProbs(model, batch, pass),
        items: Float32Array.from(
          items.flatMap((_, i) => [chosen![i]!, rejected![i]!, tokens[i]!, tokens[items.length + i]!]),
        ),
        figures: 10,
        params: { ...params, nll: (s.rpo_alpha ?? 0) * pairs / chosen_tokens },
        loss,
      });
    },
    score: (model, batch) => [rowLogProbs(model, batch, {})],
    describe: describePairs,
  };
}
