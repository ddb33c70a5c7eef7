/**
 * Log-probabilities of whole answers: linear, log-softmax and sum over each sequence in one operation that never
 * holds all logits.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/log_probs.wgsl" with { type: "text" };
import { grid1d, rowLanes, rowRanges } from "../grid.ts";
import { record, recording } from "../tape.ts";
import { empty, emptyRows, indices, shapeError, type Tensor, tensor, zeros } from "../tensor.ts";
import { headChunks, labelledRows, rowsOf } from "./cross_entropy.ts";
import { gatherRows } from "./embedding.ts";
import { productInto } from "./linear.ts";
import { matmulInto } from "./matmul_kernel.ts";

const kernel = defineKernel("log_probs", source);

/**
 * For each sequence the sum of `log softmax(x wᵀ)[label]` over its rows with a label, and the sum over the same rows
 * of the mean logit (which has no gradient).
 *
 * Rows without a label are dropped before the product, and logits exist for one chunk of rows at a time. With a
 * frozen head the gradient of every row's log-probability is computed there and then, and scaled by its sequence's
 * gradient in the backward; a head that trains needs that scale first, so its logits are computed again.
 *
 * @param x `[rows, C]`
 * @param w `[V, C]`
 * @param labels `[rows]` on the host, -100 ignored
 * @param sequence `[rows]` on the host: the sequence of each row with a label, in ascending order
 * @param sequences S, one more than the largest of them
 * @returns `[S, 2]`; a sequence without a label has zeros
 * @throws NibbleError `tensor/label`, `tensor/no-labels`, `tensor/shape`
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { scope, tensor } from "../tensor.ts";
 * import { sequenceLogProbs } from "./log_probs.ts";
 * await openGpu();
 * // every token equally likely: log(1/4) for each label
 * const y = scope(() => {
 *   const x = tensor([1, 2, 3], [3, 1]), w = tensor([0, 0, 0, 0], [4, 1]);
 *   return sequenceLogProbs(x, w, Int32Array.of(2, -100, 0), Uint32Array.of(0, 1, 1), 2);
 * });
 * const [first, , second] = await y.data();
 * if (Math.abs(first! + Math.log(4)) > 1e-6 || first !== second) throw new Error(`${first}, ${second}`);
 * y.dispose();
 * ```
 */
export function sequenceLogProbs(
  x: Tensor,
  w: Tensor,
  labels: Int32Array,
  sequence: Uint32Array,
  sequences: number,
): Tensor {
  const index = labelledRows(labels, w.rows);
  const starts = startsOf(index, sequence, sequences);
  const kept = index.length === x.rows ? x : gatherRows(x, Uint32Array.from(index));
  const onDevice = {
    labels: indices(Uint32Array.from(index, (i) => labels[i]!), x.rows),
    sequence: indices(Uint32Array.from(index, (i) => sequence[i]!), x.rows),
    stats: emptyRows(index.length, 2, x.rows),
  };
  const wantW = recording() && w.requiresGrad;
  const dx = recording() && kept.requiresGrad && !wantW
    ? emptyRows(index.length, x.columns, x.rows)
    : undefined;
  const run = (gradient: boolean, use: (logits: Tensor, first: number, last: number) => void) =>
    headChunks(kept, w, x.rows, (logits, first, last) => {
      gpu().kernels.launch(kernel, {
        entry: "rows",
        consts: { LANES: rowLanes(3 * w.rows), GRADIENT: Number(gradient) },
        params: { rows: last - first, columns: w.rows, first, row: 0 },
        bind: { logits: logits.range, labels: onDevice.labels.range, stats: onDevice.stats.range },
        groups: [last - first],
      });
      use(logits, first, last);
    });
  run(dx !== undefined, (logits, first, last) => {
    if (dx) matmulInto({ layout: "nn", x: logits, w, y: rowsOf(dx, first, last) });
  });

  const y = empty([sequences, 2]);
  gpu().kernels.launch(kernel, {
    entry: "totals",
    params: { rows: sequences, columns: 0, first: 0, row: 0 },
    bind: { stats: onDevice.stats.range, starts: tensor(starts, [starts.length]).range, y: y.range },
    groups: [sequences],
  });
  return record("sequenceLogProbs", y, [kept, w], (dy) => {
    if (!wantW) {
      scaleRows(dx!, 0, onDevice.sequence, dy);
      return [dx!.view(dx!.shape)];
    }
    const dxAgain = kept.requiresGrad ? emptyRows(index.length, x.columns, x.rows) : undefined;
    const dw = w.grad ?? zeros(w.shape);
    run(true, (logits, first, last) => {
      scaleRows(logits, first, onDevice.sequence, dy);
      if (dxAgain) matmulInto({ layout: "nn", x: logits, w, y: rowsOf(dxAgain, first, last) });
      productInto("tn", logits, rowsOf(kept, first, last), dw);
    });
    return [dxAgain, dw === w.grad ? undefined : dw];
  });
}

/** Rows of x, of which the first stands for row `first`, times the gradient of their sequence; in place. */
function scaleRows(x: Tensor, first: number, sequence: Tensor, d: Tensor): void {
  for (const [from, to] of rowRanges(x.rows, [4 * x.columns])) {
    const { groups, row } = grid1d(Math.ceil((to - from) * x.columns / 64), 64);
    gpu().kernels.launch(kernel, {
      entry: "scale_rows",
      params: { rows: to - from, columns: x.columns, first: first + from, row },
      bind: { x: x.rowRange(from, to), sequence: sequence.range, d: d.range },
      groups,
    });
  }
}

/** Where each sequence begins among the kept rows, and where the last ends. */
function startsOf(
  index: readonly number[],
  sequence: Uint32Array,
  sequences: number,
): Uint32Array<ArrayBuffer> {
  const starts = new Uint32Array(sequences + 1);
  index.forEach((row, i) => {
    const s = sequence[row]!;
    if (s >= sequences || (i > 0 && s < sequence[index[i - 1]!]!)) {
      throw shapeError(
        "sequenceLogProbs",
        `row ${row} is of sequence ${s}, out of order or beyond ${sequences}`,
      );
    }
    starts[s + 1]!++;
  });
  for (let s = 0; s < sequences; s++) starts[s + 1]! += starts[s]!;
  return starts;
}
