/**
 * Rows to a batch: one rectangle of tokens, padded by position.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { IGNORE_INDEX, type Packed } from "./pack.ts";

/** A batch of B rows, each T long, row after row. */
export interface Batch {
  /** Token ids (B*T). */
  ids: Uint32Array;
  /** Next token to predict, or -100 (B*T). */
  labels: Int32Array;
  /** Position within the document (B*T). */
  positions: Uint32Array;
  /** Document within the row, from 1; 0 is padding (B*T). */
  segments: Uint32Array;
  /** B. */
  batch: number;
  /** T. */
  time: number;
  /** Labels that are not -100: what the loss is divided by. */
  trainedTokens: number;
  /** Tokens that are not padding. */
  realTokens: number;
}

/** Settings of {@link collate}. */
export interface CollateOptions {
  /** Round the length up to a multiple of this (`pad_to_multiple_of`). Default 8. */
  multipleOf?: number;
  /** Pad to at least this length, so that batches have one shape. Default: the longest row. */
  minLength?: number;
}

/**
 * Pads rows on the right to the longest, rounded up. Padding is marked by segment 0 and label -100, never by its id:
 * a pad token that is also EOS takes no EOS out of the loss (R3).
 *
 * @example
 * ```ts
 * import { collate, packExamples } from "./mod.ts";
 * const examples = [[7, 8, 2], [9, 2]].map((ids, i) => ({ ids, trained: ids.map((_, t) => t > 0), row: i + 1 }));
 * const batch = collate(packExamples(examples, 16, "none"), 2);
 * if (batch.batch !== 2 || batch.time !== 8 || batch.trainedTokens !== 3) throw new Error("B, T, targets");
 * if (batch.labels.subarray(8, 11).join() !== "2,-100,-100") throw new Error("eos is trained, padding is not");
 * ```
 */
export function collate(rows: readonly Packed[], padId: number, options: CollateOptions = {}): Batch {
  const { multipleOf = 8, minLength = 1 } = options;
  if (rows.length === 0) {
    throw new NibbleError("data/empty-batch", "A batch needs at least one row", {
      remedy: "Check the batch size.",
    });
  }
  const longest = rows.reduce((n, row) => Math.max(n, row.ids.length), minLength);
  const time = Math.ceil(longest / multipleOf) * multipleOf;
  const size = rows.length * time;
  const batch: Batch = {
    ids: new Uint32Array(size).fill(padId),
    labels: new Int32Array(size).fill(IGNORE_INDEX),
    positions: new Uint32Array(size),
    segments: new Uint32Array(size),
    batch: rows.length,
    time,
    trainedTokens: 0,
    realTokens: 0,
  };
  rows.forEach((row, b) => {
    for (const key of ["ids", "labels", "positions", "segments"] as const) batch[key].set(row[key], b * time);
    for (const segment of row.segments) if (segment !== 0) batch.realTokens++;
    for (const label of row.labels) if (label !== IGNORE_INDEX) batch.trainedTokens++;
  });
  return batch;
}
