/**
 * Mixture of experts (Jiang et al. 2024, "Mixtral of Experts", arXiv 2401.04088, section 2.1).
 * @module
 */
import { splitColumns } from "../tensor/ops/columns.ts";
import { add, mul } from "../tensor/ops/pointwise.ts";
import { topSoftmax } from "../tensor/ops/top_softmax.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * `y = sum over experts e of w_e expert_e(x)`, w the softmax over the `k` largest router logits, 0 for the others.
 *
 * Every expert runs over every row and a zero weight masks it out: which rows an expert would get is known on the
 * device alone, and asking for it would stop the step for a readback. The price is `experts / k` times the work of
 * the feed-forward; the numbers are those of gathering.
 *
 * @param logits `[rows, experts]`
 * @param experts each gives `[rows, C]`
 */
export function mixture(logits: Tensor, k: number, experts: readonly (() => Tensor)[]): Tensor {
  const weights = splitColumns(topSoftmax(logits, k), experts.map(() => 1)); // [rows, 1] each
  const parts = experts.map((expert, e) => mul(expert(), weights[e]!));
  return parts.reduce((sum, part) => add(sum, part));
}
