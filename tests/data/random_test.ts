import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { epochBatches, permutation, randperm, seedSequence } from "../../lib/data/mod.ts";
import { fixture } from "./helpers.ts";

interface Order {
  n: number;
  seed: number;
  head: number[];
  digest: string;
}
const GOLDEN: { permutation: Order[]; randperm: Order[]; seedSequence: { seed: number; words: number[] }[] } =
  JSON.parse(
    Deno.readTextFileSync(fixture("random.json")),
  );

function digest(order: Uint32Array): string {
  return createHash("sha256").update(new Uint8Array(order.buffer)).digest("hex").slice(0, 16);
}

Deno.test("permutation: NumPy's order, from 0 to 20,000 rows, seeds to 2^53 - 1", () => {
  for (const { n, seed, head, digest: expected } of GOLDEN.permutation) {
    const order = permutation(n, seed);
    assert.deepEqual([...order.subarray(0, 8)], head, `n ${n}, seed ${seed}`);
    assert.equal(digest(order), expected, `n ${n}, seed ${seed}`);
  }
  assert.deepEqual([...permutation(10, 42)], [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]);
  assert.deepEqual([...permutation(10, 0)], [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]);
});

Deno.test("randperm: PyTorch's order", () => {
  assert.deepEqual([...randperm(10, 42)], [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
  for (const { n, seed, head, digest: expected } of GOLDEN.randperm) {
    const order = randperm(n, seed);
    assert.deepEqual([...order.subarray(0, 8)], head, `n ${n}, seed ${seed}`);
    assert.equal(digest(order), expected, `n ${n}, seed ${seed}`);
  }
});

Deno.test("seedSequence: NumPy's words", () => {
  for (const { seed, words } of GOLDEN.seedSequence) {
    assert.deepEqual([...seedSequence(seed, words.length)], words);
  }
});

Deno.test("seeds that are no whole numbers are refused", () => {
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) {
    assert.throws(() => permutation(3, seed), { code: "data/bad-seed" });
    assert.throws(() => randperm(3, seed), { code: "data/bad-seed" });
  }
});

Deno.test("epochBatches: every row once an epoch, another order each epoch, seed + epoch as the Trainer has it", () => {
  const batches = epochBatches(10, 4, 42, 0);
  assert.deepEqual(batches, [[2, 6, 1, 8], [4, 5, 0, 9], [3, 7]]);
  assert.deepEqual(epochBatches(10, 10, 42, 1)[0], [...randperm(10, 43)]);
  assert.notDeepEqual(epochBatches(10, 4, 42, 1), batches);
  assert.deepEqual(epochBatches(10, 4, 42, 0, 0, true), batches.slice(0, 2));
});

Deno.test("epochBatches: skipping resumes exactly", () => {
  const whole = epochBatches(23, 4, 7, 3);
  for (let skip = 0; skip <= whole.length; skip++) {
    assert.deepEqual(epochBatches(23, 4, 7, 3, skip), whole.slice(skip));
    assert.deepEqual(epochBatches(23, 4, 7, 3, skip, true), whole.slice(skip, -1));
  }
  assert.throws(() => epochBatches(3, 0, 1, 0), RangeError);
});
