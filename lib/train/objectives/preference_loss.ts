/**
 * What the objectives over preferences share: the loss kernel, and the sums of log-probabilities under it.
 * @module
 */
import type { Batch } from "../../data/mod.ts";
import { defineKernel, gpu } from "../../gpu/mod.ts";
import { forward, type ForwardOptions, type Model, modelInput } from "../../model/model.ts";
import source from "../../../wgsl/preference_loss.wgsl" with { type: "text" };
import { sequenceLogProbs } from "../../tensor/ops/log_probs.ts";
import { record } from "../../tensor/tape.ts";
import { empty, type Tensor, tensor } from "../../tensor/tensor.ts";
import type { Objective } from "../objective.ts";

const kernel = defineKernel("preference_loss", source);

/** An objective that compares with a reference, whose scores of all rows are made before training. */
export interface ReferenceObjective extends Objective {
  /**
   * Sums of the model's own log-probabilities, in the order of {@link scoresOf}: tensors `[rows, 2]`, of which the
   * first column counts, `perItem` times the batch's items in rows.
   */
  score(model: Model, batch: Batch): Tensor[];
}

/** Whether an objective needs the reference's scores. */
export function needsReference(objective: Objective): objective is ReferenceObjective {
  return "score" in objective;
}

/** Parameters of the kernel; what is left out is 0. */
export interface LossParams {
  beta: number;
  smoothing?: number;
  tau?: number;
  nll?: number;
  desirable?: number;
  undesirable?: number;
}

/** Operands of {@link preferenceLoss}. */
export interface LossOperands {
  /** `[sequences, 2]` from `sequenceLogProbs`. */
  sums: Tensor;
  /** Four numbers an item, as the entry point reads them. */
  items: Float32Array<ArrayBuffer>;
  /** How many figures the entry point writes. */
  figures: number;
  params: LossParams;
  /** Which of the losses of `dpo`. */
  loss?: number;
  /** Sums of mismatched answers, for `kto`; no gradient. */
  others?: Tensor;
}

/** Loss and figures of a batch, `[1, figures]`; the gradient of the first is computed beside it. */
export function preferenceLoss(entry: "dpo" | "orpo" | "kto", o: LossOperands): Tensor {
  const { sums, items, figures, params, loss = 0, others } = o;
  const n = items.length / 4;
  const d = empty(sums.shape), stats = empty([1, figures]);
  gpu().kernels.launch(kernel, {
    entry,
    consts: { LOSS: loss },
    params: { n, smoothing: 0, tau: 1, nll: 0, desirable: 1, undesirable: 1, ...params },
    bind: {
      sums: sums.range,
      items: tensor(items, [n, 4]).range,
      d: d.range,
      stats: stats.range,
      ...(others ? { others: others.range } : {}),
    },
    groups: [1],
  });
  return record(`preferenceLoss.${entry}`, stats, [sums], () => [d.view(d.shape)]);
}

/** Sums of the answers' log-probabilities of every row of a batch, `[B, 2]`. */
export function rowLogProbs(model: Model, batch: Batch, options: ForwardOptions): Tensor {
  const hidden = forward(model, modelInput(batch), options);
  return sequenceLogProbs(hidden, model.head, batch.labels, rowOf(batch), batch.batch);
}

/** The row of every position. */
function rowOf({ batch, time }: Batch): Uint32Array {
  return Uint32Array.from({ length: batch * time }, (_, i) => Math.floor(i / time));
}

/** Labels of every row of a batch. */
export function answerTokens({ labels, batch, time }: Batch): number[] {
  return Array.from(
    { length: batch },
    (_, b) => labels.subarray(b * time, (b + 1) * time).reduce((n, label) => label === -100 ? n : n + 1, 0),
  );
}

/**
 * Rewards, log-probabilities and logits of both answers, in the order of the kernel's figures 1 to 8. Logits are means
 * over the answers' tokens, as in DPOTrainer; ORPOTrainer and KTOTrainer count prompts and padding in.
 */
export const PAIR_METRICS = [
  { name: "rewards/chosen", per: "pairs" },
  { name: "rewards/rejected", per: "pairs" },
  { name: "rewards/accuracies", per: "pairs" },
  { name: "rewards/margins", per: "pairs" },
  { name: "logps/chosen", per: "pairs" },
  { name: "logps/rejected", per: "pairs" },
  { name: "logits/chosen", per: "chosen_tokens" },
  { name: "logits/rejected", per: "rejected_tokens" },
] as const;

/** Pairs of a batch, and the tokens of their answers. */
export function pairCounts(batch: Batch): { pairs: number; chosen_tokens: number; rejected_tokens: number } {
  const tokens = answerTokens(batch), pairs = batch.batch / 2;
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
  return { pairs, chosen_tokens: sum(tokens.slice(0, pairs)), rejected_tokens: sum(tokens.slice(pairs)) };
}

/** A batch's scores by the reference as `[perItem][item]`; zeros while they are unknown, as in a rehearsal. */
export function scoresOf(
  items: readonly number[],
  { values, perItem }: { values: Float32Array | undefined; perItem: number },
): number[][] {
  return Array.from({ length: perItem }, (_, k) => items.map((i) => values?.[perItem * i + k] ?? 0));
}

/** Losses over pairs in words. */
export function describePairs(values: Record<string, number>): string {
  return `loss ${values.loss!.toFixed(4)}, ${(100 * values["rewards/accuracies"]!).toFixed(1)} % of pairs ` +
    `in order, margin ${values["rewards/margins"]!.toFixed(3)}`;
}
