/**
 * How far two forms of a model are apart: logits and loss on the same text.
 * @module
 */
import { logits, type Model } from "../model/model.ts";

/** What a model says of a text. */
export interface Probe {
  /** `[T, V]`. */
  logits: Float32Array;
  /** Mean negative log-likelihood of each next token. */
  loss: number;
  tokens: number;
}

/** The difference of two {@link Probe}s of the same text. */
export interface Drift {
  /** Largest difference of a logit, and the largest logit there is. */
  logit: number;
  largest: number;
  /** Mean over the positions of KL(before, after), in nats. */
  divergence: number;
  /** Loss before and after. */
  loss: readonly [before: number, after: number];
  /** Share of positions whose likeliest token is the same. */
  agreement: number;
  tokens: number;
}

/** A text that is no one's training data in particular: what {@link probe} runs on unless told otherwise. */
export const PROBE_TEXT =
  "The harbour was quiet when the last ferry came in. Two men in oilskins made it fast, and a girl of about " +
  "twelve carried a crate of lemons down the gangway, counting the steps aloud. Nobody had told her that the " +
  "market closed at noon on Saturdays. She set the crate on the wall, sat down beside it, and began to do sums: " +
  "forty lemons at three pence each would have paid for the ticket and left enough for bread.\n\n" +
  "Question: How much would she have earned?\nAnswer: 40 x 3 = 120 pence.\n";

/** Logits and loss of a text's tokens, at most as many as the model has positions. */
export async function probe(model: Model, ids: readonly number[]): Promise<Probe> {
  const kept = ids.slice(0, model.positions);
  const all = await logits(model, kept);
  const vocabulary = all.length / kept.length;
  let sum = 0;
  for (let t = 0; t + 1 < kept.length; t++) {
    const row = all.subarray(t * vocabulary, (t + 1) * vocabulary);
    sum += logSum(row) - row[kept[t + 1]!]!;
  }
  return { logits: all, loss: sum / Math.max(1, kept.length - 1), tokens: kept.length };
}

/** Compares what two models say of the same tokens. */
export function drift(before: Probe, after: Probe): Drift {
  const { logits: p, tokens } = before, { logits: q } = after;
  const vocabulary = p.length / tokens;
  let logit = 0, largest = 0, divergence = 0, same = 0;
  for (let t = 0; t < tokens; t++) {
    const [a, b] = [p, q].map((x) => x.subarray(t * vocabulary, (t + 1) * vocabulary)) as [
      Float32Array,
      Float32Array,
    ];
    const za = logSum(a), zb = logSum(b);
    let bestA = 0, bestB = 0;
    for (let v = 0; v < vocabulary; v++) {
      logit = Math.max(logit, Math.abs(a[v]! - b[v]!));
      largest = Math.max(largest, Math.abs(a[v]!));
      divergence += Math.exp(a[v]! - za) * (a[v]! - za - b[v]! + zb);
      if (a[v]! > a[bestA]!) bestA = v;
      if (b[v]! > b[bestB]!) bestB = v;
    }
    if (bestA === bestB) same++;
  }
  return {
    ...{ logit, largest, tokens },
    divergence: divergence / tokens,
    loss: [before.loss, after.loss],
    agreement: same / tokens,
  };
}

/** A drift as a line of text. */
export function driftLine(
  { logit, largest, divergence, loss: [before, after], agreement, tokens }: Drift,
): string {
  return `logits differ by ${logit.toPrecision(2)} at most (the largest is ${largest.toFixed(1)}), KL ${
    divergence.toExponential(1)
  }, same likeliest token at ${(100 * agreement).toFixed(0)} % of ${tokens} positions; loss ${
    before.toFixed(4)
  } -> ${after.toFixed(4)} (${after >= before ? "+" : ""}${(after - before).toFixed(4)})`;
}

function logSum(row: Float32Array): number {
  let top = -Infinity;
  for (let i = 0; i < row.length; i++) top = Math.max(top, row[i]!);
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i]! - top);
  return top + Math.log(sum);
}
