/**
 * Supervised fine-tuning and continued pre-training: the next token's negative log-likelihood.
 * @module
 */
import { balanceOf, forward, modelInput } from "../../model/model.ts";
import { linearCrossEntropy } from "../../tensor/ops/cross_entropy.ts";
import { recording } from "../../tensor/tape.ts";
import { type Objective, PER_STEP } from "../objective.ts";

/** Mean cross-entropy over the trained tokens of the whole accumulation window, as Transformers since 4.46. */
export const sft: Objective = {
  unit: "tokens",
  metrics: [{ name: "loss", per: PER_STEP }, { name: "mean_token_accuracy", per: "tokens" }],
  counts: ({ trainedTokens }) => ({ tokens: trainedTokens }),
  loss(model, batch, pass) {
    const input = modelInput(batch);
    // every micro-batch of a step adds its load-balancing loss to the step's mean; an evaluation takes their mean
    const balance = balanceOf(model, input, recording() ? pass.totals.tokens! : batch.trainedTokens);
    const { stats } = linearCrossEntropy(
      forward(model, input, { ...pass, balance }),
      model.head,
      batch.labels,
    );
    balance?.addTo(stats);
    return stats;
  },
  describe: ({ loss, mean_token_accuracy, num_tokens }) =>
    `loss ${loss.toFixed(4)}, perplexity ${Math.exp(loss).toFixed(2)}, ` +
    `${(100 * mean_token_accuracy).toFixed(1)} % of ${num_tokens} tokens right`,
};
