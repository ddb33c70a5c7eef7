/**
 * Supervised fine-tuning and continued pre-training: the next token's negative log-likelihood.
 * @module
 */
import { forward, modelInput } from "../../model/model.ts";
import { linearCrossEntropy } from "../../tensor/ops/cross_entropy.ts";
import { type Objective, PER_STEP } from "../objective.ts";

/** Mean cross-entropy over the trained tokens of the whole accumulation window, as Transformers since 4.46. */
export const sft: Objective = {
  unit: "tokens",
  metrics: [{ name: "loss", per: PER_STEP }, { name: "mean_token_accuracy", per: "tokens" }],
  counts: ({ trainedTokens }) => ({ tokens: trainedTokens }),
  loss(model, batch, pass) {
    const hidden = forward(model, modelInput(batch), pass);
    return linearCrossEntropy(hidden, model.head, batch.labels).stats;
  },
  describe: ({ loss, mean_token_accuracy, num_tokens }) =>
    `loss ${loss.toFixed(4)}, perplexity ${Math.exp(loss).toFixed(2)}, ` +
    `${(100 * mean_token_accuracy).toFixed(1)} % of ${num_tokens} tokens right`,
};
