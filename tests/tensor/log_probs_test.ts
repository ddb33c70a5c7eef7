/**
 * Sums of log-probabilities by sequence: against plain f64 loops, gradients against differences, masked rows, chunks.
 */
import assert from "node:assert/strict";
import { sequenceLogProbs } from "../../lib/tensor/ops/log_probs.ts";
import { mul } from "../../lib/tensor/ops/pointwise.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

const C = 4;

/** Rows of unequal sequences, every fifth and one whole sequence without a label. */
function layout(rows: number, vocabulary: number, sequences: number) {
  const sequence = Uint32Array.from({ length: rows }, (_, i) => Math.floor((i / rows) ** 1.5 * sequences));
  const labels = Int32Array.from(
    { length: rows },
    (_, i) => i % 5 === 3 || (sequence[i] === 1 && sequences > 2) ? -100 : (i * 7) % vocabulary,
  );
  return { sequence, labels };
}

/** `[S, 2]`: sums of log-probabilities and of mean logits. */
function naive(
  x: Float64Array,
  w: Float64Array,
  labels: Int32Array,
  sequence: Uint32Array,
  sequences: number,
) {
  const vocabulary = w.length / C, y = new Float64Array(2 * sequences);
  labels.forEach((label, r) => {
    if (label === -100) return;
    const z = Array.from({ length: vocabulary }, (_, v) => {
      let s = 0;
      for (let c = 0; c < C; c++) s += x[r * C + c]! * w[v * C + c]!;
      return s;
    });
    const top = Math.max(...z);
    y[2 * sequence[r]!]! += z[label]! - top - Math.log(z.reduce((a, b) => a + Math.exp(b - top), 0));
    y[2 * sequence[r]! + 1]! += z.reduce((a, b) => a + b, 0) / vocabulary;
  });
  return y;
}

// A row's log-probability is of the order of log V <= 6 and comes from sums of C products and V exponentials; a
// sequence adds up to 93 of them. Each rounding errs by EPS of what it rounds: 8 covers the constants.
const tolerance = (rows: number, vocabulary: number) => 8 * EPS * 6 * (rows + C + vocabulary / 8);

// 64 KiB bindings cut the 93 rows of 173 logits into chunks of 64 and 29
for (
  const [rows, vocabulary, sequences, maxBinding] of [
    [1, 3, 1, undefined],
    [37, 11, 5, undefined],
    [93, 173, 7, 65536],
  ] as const
) {
  for (const frozen of [true, false]) {
    const head = frozen ? "frozen" : "training";
    gpuTest(`${rows} rows of ${sequences} sequences over ${vocabulary} tokens, head ${head}`, async () => {
      const { labels, sequence } = layout(rows, vocabulary, sequences);
      // the mean logit has no gradient: its column is weighed with zero
      const column = Float32Array.from({ length: 2 * sequences }, (_, i) => i % 2 === 0 ? 1 : 0);
      const masked = (y: Float64Array) => y.map((v, i) => v * column[i]!);
      await checkGradients(
        "sequenceLogProbs",
        [{ name: "x", shape: [rows, C] }, { name: "w", shape: [vocabulary, C], frozen }],
        (x, w) => mul(sequenceLogProbs(x!, w!, labels, sequence, sequences), tensor(column, [sequences, 2])),
        (x, w) => masked(naive(x!, w!, labels, sequence, sequences)),
        tolerance(rows, vocabulary),
      );
    }, maxBinding ? { maxBinding } : undefined);
  }
}

/** Sums over 93 rows, as the device makes them, and the inputs. */
async function sums(labels: Int32Array, sequence: Uint32Array) {
  const x = randoms(93 * C, 3), w = randoms(61 * C, 4);
  const y: Tensor = scope(() =>
    sequenceLogProbs(tensor(x, [93, C]), tensor(w, [61, C]), labels, sequence, 7)
  );
  const got = await y.data();
  y.dispose();
  return { got, x: Float64Array.from(x), w: Float64Array.from(w) };
}

gpuTest("mean logits are summed too, and a sequence without labels has zeros", async () => {
  const { labels, sequence } = layout(93, 61, 7);
  const { got, x, w } = await sums(labels, sequence);
  assertClose(got, naive(x, w, labels, sequence, 7), tolerance(93, 61), "sums");
  assert.deepEqual([...got.subarray(2, 4)], [0, 0], "sequence 1 has no label");
  assert.ok(got.some((v, i) => i % 2 === 1 && Math.abs(v) > 0.01), "there are mean logits to compare");
});

gpuTest("the comparison can fail: labels one row late, a row counted to its neighbour", async () => {
  const { labels, sequence } = layout(93, 61, 7);
  const { got, x, w } = await sums(labels, sequence);
  const late = labels.map((label, i) => label === -100 ? -100 : labels[i - 1] ?? label);
  const moved = sequence.map((s, i) => i === sequence.indexOf(4) ? 3 : s);
  for (const wrong of [naive(x, w, late, sequence, 7), naive(x, w, labels, moved, 7)]) {
    const error = Math.max(...wrong.map((v, i) => Math.abs(v - got[i]!)));
    assert.ok(error > 100 * tolerance(93, 61), `only ${error}`);
  }
});

gpuTest("what cannot be scored is refused", () => {
  const run = (labels: number[], sequence: number[], sequences = 2) =>
    scope(() =>
      sequenceLogProbs(
        tensor(randoms(4 * C, 1), [4, C]),
        tensor(randoms(5 * C, 2), [5, C]),
        Int32Array.from(labels),
        Uint32Array.from(sequence),
        sequences,
      )
    );
  refused(() => run([-100, -100, -100, -100], [0, 0, 1, 1]), "tensor/no-labels", /nothing to learn/);
  refused(() => run([0, 5, 1, 1], [0, 0, 1, 1]), "tensor/label", /Label 5 at row 1/);
  refused(() => run([0, 1, 1, 1], [0, 1, 0, 1]), "tensor/shape", /row 2 is of sequence 0/);
  refused(() => run([0, 1, 1, 1], [0, 0, 1, 2]), "tensor/shape", /row 3 is of sequence 2/);
  run([0, -100, 1, 1], [0, 9, 1, 1]).dispose(); // a row without a label belongs to none
});
