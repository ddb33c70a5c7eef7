// What bench/peers.ts lets a peer be timed by: a product in f32 passes, one that is short of a term, empty or NaN does
// not.
import assert from "node:assert/strict";
import { expectedProduct, expectedProduct4, worst } from "../../bench/peers/oracle.ts";
import { codes4 } from "../../bench/peers/task.ts";
import { numbers, operands, type Product } from "../../bench/shapes.ts";

/** Elements `at` of y, summed in f32 over all but the last `short` terms. */
function inF32({ layout, M, N, K }: Product, at: readonly number[], short = 0): number[] {
  const shapes = operands({ name: "", layout, M, N, K });
  const x = numbers(M * K, 1), w = numbers(N * K, 2);
  return at.map((i) => {
    const m = Math.floor(i / N), n = i % N;
    let sum = 0;
    for (let k = 0; k < K - short; k++) {
      const a = x[layout === "tn" ? k * shapes.x[1] + m : m * shapes.x[1] + k]!;
      const b = w[layout === "nt" ? n * shapes.w[1] + k : k * shapes.w[1] + n]!;
      sum = Math.fround(sum + Math.fround(a * b));
    }
    return sum;
  });
}

Deno.test("peers: values of a product are told from those of another", () => {
  for (const layout of ["nt", "nn", "tn"] as const) {
    const product = { name: "", layout, M: 24, N: 40, K: 96 };
    const expected = expectedProduct(product), { at } = expected;
    assert.ok(at[0] === 0 && at.at(-1) === 24 * 40 - 1);
    assert.ok(worst(expected, inF32(product, at)) <= 1);
    assert.ok(worst(expected, inF32(product, at, 1)) > 1, `${layout}: one term short`);
    const nothing: number[] = at.map(() => 0);
    assert.ok(worst(expected, nothing) > 1);
    assert.ok(!(worst(expected, [...inF32(product, at).slice(1), NaN]) <= 1));
  }
});

Deno.test("peers: 4-bit codes are read low half first", () => {
  const product = { name: "", layout: "nt", M: 3, N: 5, K: 64 } as const;
  const expected = expectedProduct4(product), { codes, scales } = codes4(product), x = numbers(3 * 64, 1);
  const found = (low: number) =>
    expected.at.map((i) => {
      const m = Math.floor(i / 5), n = i % 5;
      let sum = 0;
      for (let k = 0; k < 64; k++) {
        const byte = codes[(n * 64 + k) >> 1]!, code = (k + low) % 2 ? byte >> 4 : byte & 15;
        sum += x[m * 64 + k]! * (code - 8) * scales[(n * 64 + k) >> 5]!;
      }
      return sum;
    });
  assert.ok(worst(expected, found(0)) <= 1);
  assert.ok(worst(expected, found(1)) > 1);
});
