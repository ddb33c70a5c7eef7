/**
 * The language-model head: linear, softmax and cross-entropy in one operation that never holds all logits.
 * @module
 */
import { NibbleError } from "../../errors.ts";
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/cross_entropy.wgsl" with { type: "text" };
import { rowLanes } from "../grid.ts";
import { record, recording } from "../tape.ts";
import { empty, emptyRows, indices, scope, type Tensor, zeros } from "../tensor.ts";
import { gatherRows } from "./embedding.ts";
import { productInto } from "./linear.ts";
import { matmulInto } from "./matmul_kernel.ts";
import { columnSum } from "./reduce.ts";

const kernel = defineKernel("cross_entropy", source);

/** Label of positions that take no part in the loss. */
export const IGNORED = -100;

/** Most bytes of logits at a time. */
const CHUNK_BYTES = 32 * 2 ** 20;

/** What the head returns. */
export interface HeadResult {
  /** `[1, 2]`: sum of negative log-likelihoods, and how many labels were the most likely token. */
  stats: Tensor;
  /** Labels that counted. */
  count: number;
}

/**
 * Sum of `-log softmax(x wᵀ)[label]` over the rows whose label is not -100.
 *
 * Rows without a label are dropped before the product. Logits exist for one chunk of rows at a time, and the
 * gradient is computed there and then (as in Liger kernels, arXiv 2410.10989, section 3.2), so a step holds
 * `chunk x V` floats instead of `B·T x V`. The gradient is that of the *sum*: divide by the tokens of the whole
 * accumulation window in the optimizer.
 *
 * @param x `[rows, C]`
 * @param w `[V, C]`
 * @param labels `[rows]` on the host, -100 ignored
 */
export function linearCrossEntropy(x: Tensor, w: Tensor, labels: Int32Array): HeadResult {
  const index = labelledRows(labels, w.rows);
  const kept = index.length === x.rows ? x : gatherRows(x, Uint32Array.from(index));
  const picked = indices(Uint32Array.from(index, (i) => labels[i]!), x.rows);
  const stats = emptyRows(index.length, 2, x.rows);
  const wantX = recording() && kept.requiresGrad;
  const wantW = recording() && w.requiresGrad;
  const dx = wantX ? emptyRows(index.length, x.columns, x.rows) : undefined;
  const dw = wantW ? w.grad ?? zeros(w.shape) : undefined;
  const write = dx || dw ? 1 : 0;
  headChunks(kept, w, x.rows, (logits, first, last) => {
    gpu().kernels.launch(kernel, {
      consts: { LANES: rowLanes(3 * w.rows) },
      params: { rows: last - first, vocabulary: w.rows, first, write, scale: 1 },
      bind: { logits: logits.range, labels: picked.range, stats: stats.range },
      groups: [last - first],
    });
    if (dx) matmulInto({ layout: "nn", x: logits, w, y: rowsOf(dx, first, last) });
    if (dw) productInto("tn", logits, rowsOf(kept, first, last), dw);
  });

  const total = columnSum(stats).view([1, 2]);
  record("linearCrossEntropy", total, [kept, w], () => {
    const gradient = dx?.view(dx.shape);
    dx?.dispose(); // the walk comes here once
    return [gradient, dw === w.grad ? undefined : dw];
  });
  return { stats: total, count: index.length };
}

/**
 * Rows that have a label, in ascending order.
 *
 * @throws NibbleError `tensor/label` for a label outside the vocabulary, `tensor/no-labels` when there is none
 */
export function labelledRows(labels: Int32Array, vocabulary: number): number[] {
  const index: number[] = [];
  labels.forEach((label, i) => {
    if (label === IGNORED) return;
    if (label < 0 || label >= vocabulary) {
      throw new NibbleError(
        "tensor/label",
        `Label ${label} at row ${i} is outside the vocabulary of ${vocabulary}`,
      );
    }
    index.push(i);
  });
  if (index.length === 0) {
    throw new NibbleError("tensor/no-labels", "Every label of the batch is -100: nothing to learn");
  }
  return index;
}

/**
 * Calls `use` with the logits `x wᵀ` of rows `[first, last)`, chunk after chunk, each gone before the next. There is
 * room for `most` rows, if one chunk takes them: x has another number of rows in every step.
 */
export function headChunks(
  x: Tensor,
  w: Tensor,
  most: number,
  use: (logits: Tensor, first: number, last: number) => void,
): void {
  // multiples of 64 rows start on a multiple of 256 bytes, as bindings must
  const rows = Math.max(64, Math.floor(Math.min(CHUNK_BYTES, gpu().maxBinding) / (4 * w.rows) / 64) * 64);
  // one buffer for all of them, the last and shorter one too, so that the pool keeps no second size
  const room = empty([Math.min(rows, Math.ceil(most / 64) * 64), w.rows], "f32", "scratch");
  for (let first = 0; first < x.rows; first += rows) {
    scope(() => {
      const last = Math.min(x.rows, first + rows);
      const logits = rowsOf(room, 0, last - first);
      matmulInto({ layout: "nt", x: rowsOf(x, first, last), w, y: logits });
      use(logits, first, last);
    });
  }
  room.dispose();
}

/** Rows `[first, last)` over the same bytes. */
export function rowsOf(x: Tensor, first: number, last: number): Tensor {
  if (first === 0 && last === x.rows) return x.view(x.shape);
  return x.slice(first, last);
}
