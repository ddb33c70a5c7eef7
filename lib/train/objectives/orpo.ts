/**
 * Odds-ratio preference optimization: the likelihood of the chosen answer and the odds of both, without a reference.
 * @module
 */
import type { PairBatch } from "../../data/mod.ts";
import { forward, modelInput } from "../../model/model.ts";
import { sequenceLogProbs } from "../../tensor/ops/log_probs.ts";
import { type Objective, PER_STEP } from "../objective.ts";
import { answerTokens, describePairs, PAIR_METRICS, pairCounts, preferenceLoss } from "./preference_loss.ts";

/**
 * ORPO's objective (Hong et al. 2024, arXiv 2403.07691, eq. 6): the mean negative log-likelihood of the chosen
 * sequences' tokens, prompts included as in TRL, minus `beta` times the mean over the pairs of
 * `log sigmoid(log odds(chosen) - log odds(rejected))`, with odds of the mean log-probability a token.
 */
export function orpo({ beta }: { beta: number }): Objective {
  return {
    unit: "pairs",
    metrics: [
      { name: "loss", per: PER_STEP },
      ...PAIR_METRICS,
      { name: "nll_loss", per: "sequence_tokens" },
      { name: "log_odds_ratio", per: "pairs" },
      { name: "log_odds_chosen", per: "pairs" },
    ],
    counts(batch) {
      const counts = pairCounts(batch);
      return { ...counts, sequence_tokens: counts.chosen_tokens + promptLabels(batch as PairBatch).count };
    },
    loss(model, batch, pass) {
      const pairs = batch.batch / 2;
      const { labels, sequence } = promptLabels(batch as PairBatch);
      const hidden = forward(model, modelInput(batch), pass);
      const tokens = answerTokens(batch);
      return preferenceLoss("orpo", {
        sums: sequenceLogProbs(hidden, model.head, labels, sequence, 3 * pairs),
        items: Float32Array.from(
          Array.from({ length: pairs }, (_, i) => [tokens[i]!, tokens[pairs + i]!, 0, 0]).flat(),
        ),
        figures: 12,
        params: { beta, nll: pass.totals.pairs! / pass.totals.sequence_tokens! },
      });
    },
    describe: describePairs,
  };
}

/**
 * The batch's labels together with those of the chosen prompts, and where each counts: sequences 2p and 2p + 1 are
 * prompt and answer of the chosen row p, sequence 2P + p the rejected answer.
 */
function promptLabels(batch: PairBatch): { labels: Int32Array; sequence: Uint32Array; count: number } {
  const { ids, segments, time, batch: rows } = batch;
  const labels = batch.labels.slice(), sequence = new Uint32Array(labels.length);
  const pairs = rows / 2;
  let count = 0;
  for (let i = 0; i < labels.length; i++) {
    const row = Math.floor(i / time);
    sequence[i] = row < pairs ? 2 * row + 1 : pairs + row;
    const inside = (i + 1) % time !== 0 && segments[i] !== 0 && segments[i + 1] === segments[i];
    if (row >= pairs || labels[i] !== -100 || !inside) continue;
    labels[i] = ids[i + 1]!;
    sequence[i] = 2 * row;
    count++;
  }
  return { labels, sequence, count };
}
