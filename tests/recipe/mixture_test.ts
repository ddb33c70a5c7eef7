import assert from "node:assert/strict";
import { readMixer, readMixture } from "../../lib/recipe/mixture.ts";

Deno.test("mixture: the handbook's defaults are filled in", () => {
  assert.deepEqual(readMixture({ datasets: [{ id: "a/b" }] }, "x"), {
    datasets: [{ id: "a/b", config: null, split: "train", columns: null, weight: 1 }],
    seed: 0,
    test_split_size: null,
  });
});

Deno.test("mixture: everything given", () => {
  const entry = { id: "a/b", config: "default", split: "train_sft", columns: ["messages"], weight: 0.25 };
  const mixture = { datasets: [entry], seed: 7, test_split_size: 0.05 };
  assert.deepEqual(readMixture(mixture, "x"), mixture);
  assert.equal(readMixture({ ...mixture, test_split_size: 1000 }, "x").test_split_size, 1000);
});

Deno.test("mixture: by TRL's rule shares are parts of the whole, for all or for none", () => {
  const read = (...weights: unknown[]) =>
    readMixture({ datasets: weights.map((weight) => ({ id: "a/b", weight })), rule: "trl" }, "x");
  assert.deepEqual(read(3, 1).datasets.map(({ weight }) => weight), [3, 1]);
  assert.deepEqual([read(undefined, null).datasets.map(({ weight }) => weight), read(1).rule], [
    [null, null],
    "trl",
  ]);
  assert.throws(() => read(0.5, null), /every data set its share/);
  assert.throws(() => read(0), /fraction must be a number above 0/);
  assert.equal(readMixture({ datasets: [{ id: "a/b" }], rule: "handbook" }, "x").rule, undefined);
});

const BAD: [value: unknown, message: RegExp][] = [
  ["a/b", /dataset_mixture must be a mapping/],
  [{ datasets: "a/b" }, /datasets must be a list/],
  [{ datasets: [] }, /datasets must be a list/],
  [{ datasets: ["a/b"] }, /a data set must be a mapping\n.*x, dataset_mixture, data set 1/],
  [{ datasets: [{ split: "train" }] }, /id must name the data set/],
  [{ datasets: [{ id: "a", weigth: 1 }] }, /Unknown key weigth[\s\S]*Did you mean weight\?/],
  [{ datasets: [{ id: "a", weight: -0.5 }] }, /share from 0 to 1/],
  [{ datasets: [{ id: "a", weight: 2 }] }, /share from 0 to 1/],
  [{ datasets: [{ id: "a" }, { id: "b", columns: "messages" }] }, /data set 2/],
  [{ datasets: [{ id: "a", columns: ["text"] }, { id: "b", columns: ["messages"] }] }, /same columns/],
  [{ datasets: [{ id: "a" }], test_split_size: 1.5 }, /test_split_size/],
  [{ datasets: [{ id: "a" }], test_split_size: 0 }, /test_split_size/],
  [{ datasets: [{ id: "a" }], seed: "x" }, /seed/],
  [{ datasets: [{ id: "a" }], rule: "axolotl" }, /rule must be one of handbook, trl/],
];

for (const [value, message] of BAD) {
  Deno.test(`mixture refuses ${JSON.stringify(value)}`, () => {
    assert.throws(() => readMixture(value, "x"), message);
  });
}

Deno.test("mixer: shares, and what is none", () => {
  assert.deepEqual(readMixer({ "a/b": 1, "c/d": "0.5" }, "x"), { "a/b": 1, "c/d": 0.5 });
  assert.throws(() => readMixer({ "a/b": -1 }, "x"), /the share of a\/b must be a share from 0 to 1, got -1/);
  assert.throws(() => readMixer({ "a/b": null }, "x"), /share/);
  assert.throws(() => readMixer({}, "x"), /names no data set/);
  assert.throws(() => readMixer(["a/b"], "x"), /mapping/);
});
