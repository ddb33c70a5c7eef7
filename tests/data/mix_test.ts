import assert from "node:assert/strict";
import fc from "fast-check";
import {
  type LoadSplit,
  mixDatasets,
  mixDatasetsLegacy,
  permutation,
  type Row,
  shuffleRows,
  trainTestSplit,
} from "../../lib/data/mod.ts";

const hundred = (id: string): Row[] =>
  Array.from({ length: 100 }, (_, i) => ({ text: `${id}${i}`, extra: i }));
const load: LoadSplit = (id, { split }) => Promise.resolve(hundred(`${id}/${split}/`));

Deno.test("trainTestSplit: the golden permutation, test rows first", () => {
  const rows = [...Array(10).keys()];
  assert.deepEqual(trainTestSplit(rows, 0.2, 42), { test: [5, 6], train: [0, 7, 3, 2, 4, 9, 1, 8] });
  assert.deepEqual(trainTestSplit(rows, 3, 0), { test: [4, 6, 2], train: [7, 3, 5, 9, 0, 8, 1] });
  assert.equal(trainTestSplit(rows, 0.21, 0).test.length, 3, "a share is rounded up");
});

Deno.test("trainTestSplit: nothing lost, nothing twice, any sizes", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 300 }),
      fc.double({ min: 0.01, max: 0.99, noNaN: true }),
      (n, share) => {
        fc.pre(Math.ceil(share * n) < n);
        const { train, test } = trainTestSplit([...Array(n).keys()], share, 1);
        assert.equal(test.length, Math.ceil(share * n));
        assert.deepEqual([...train, ...test].sort((a, b) => a - b), [...Array(n).keys()]);
      },
    ),
  );
});

Deno.test("trainTestSplit: impossible sizes are refused", () => {
  for (const size of [0, -1, 10, 1.5, NaN]) {
    assert.throws(
      () => trainTestSplit([...Array(10).keys()], size, 0),
      { code: "data/bad-split" },
      String(size),
    );
  }
});

Deno.test("mixDatasets: upstream's fixture, weights .5/.3/.2 of 100 and test .1 make 90 + 10", async () => {
  const datasets = [["a", 0.5], ["b", 0.3], ["c", 0.2]].map(([id, weight]) => ({
    id: String(id),
    weight: Number(weight),
  }));
  const { train, test } = await mixDatasets({ datasets, test_split_size: 0.1 }, load);
  assert.deepEqual([train.length, test?.length], [90, 10]);
  const count = (id: string) => [...train, ...test!].filter((row) => String(row.text).startsWith(id)).length;
  assert.deepEqual(["a", "b", "c"].map(count), [50, 30, 20]);
});

Deno.test("mixDatasets: shuffle, take, concatenate, shuffle, split, each with the mixture's seed", async () => {
  const mixture = { datasets: [{ id: "a", weight: 0.5 }, { id: "b", weight: null, split: "test" }], seed: 7 };
  const a = hundred("a/train/"), b = hundred("b/test/");
  const poured = [...Array.from(permutation(100, 7), (i) => a[i]).slice(0, 50), ...b];
  const mixed = Array.from(permutation(150, 7), (i) => poured[i]);
  assert.deepEqual(await mixDatasets(mixture, load), { train: mixed });
  const order = permutation(150, 7);
  const split = await mixDatasets({ ...mixture, test_split_size: 5 }, load);
  assert.deepEqual(split.test, Array.from(order.subarray(0, 5), (i) => mixed[i]));
  assert.deepEqual(split.train, Array.from(order.subarray(5), (i) => mixed[i]));
});

Deno.test("mixDatasets: an absent weight is 1, which shuffles before concatenating", async () => {
  const once = shuffleRows(hundred("a/train/"), 0);
  assert.deepEqual(await mixDatasets({ datasets: [{ id: "a" }] }, load), { train: shuffleRows(once, 0) });
});

Deno.test("mixDatasets: by TRL's rule weights are parts of the mixture, and the first rows are taken in order", async () => {
  const rule = "trl" as const;
  const texts = (rows: Row[]) => rows.map(({ text }) => text);
  const first = (id: string, n: number) => texts(hundred(`${id}/train/`).slice(0, n));
  const mix = async (weights: (number | null)[], more = {}) =>
    await mixDatasets(
      { datasets: weights.map((weight, i) => ({ id: "ab"[i]!, weight })), rule, ...more },
      load,
    );
  // 100 rows are three quarters of at most 133 1/3: a third of them are of b
  assert.deepEqual(texts((await mix([3, 1])).train), [...first("a", 100), ...first("b", 33)]);
  // 100 rows are 8/9 of 112.5; the others are 12.5 of them, and Python rounds that to the even number
  assert.deepEqual(texts((await mix([0.8, 0.1])).train), [...first("a", 100), ...first("b", 12)]);
  assert.deepEqual(texts((await mix([null, null])).train), [...first("a", 100), ...first("b", 100)]);
  const whole = [...hundred("a/train/"), ...hundred("b/train/")];
  assert.deepEqual(await mix([null, null], { test_split_size: 0.1, seed: 3 }), trainTestSplit(whole, 0.1, 3));
});

Deno.test("mixDatasets: columns are kept, missing and different ones are errors", async () => {
  const { train } = await mixDatasets({ datasets: [{ id: "a", columns: ["text"] }] }, load);
  assert.deepEqual(Object.keys(train[0]), ["text"]);
  await assert.rejects(mixDatasets({ datasets: [{ id: "a", columns: ["messages"] }] }, load), {
    code: "data/missing-column",
    where: "a:train",
    remedy: "The columns are: text, extra.",
  });
  await assert.rejects(
    mixDatasets({ datasets: [{ id: "a" }, { id: "b", config: "x", columns: ["text"] }] }, load),
    { code: "data/different-columns", where: "b[x]:train" },
  );
});

Deno.test("mixDatasets: bad mixtures are refused", async () => {
  await assert.rejects(mixDatasets({ datasets: [] }, load), { code: "data/bad-mixture" });
  for (const weight of [-0.1, 1.5, NaN]) {
    await assert.rejects(mixDatasets({ datasets: [{ id: "a", weight }] }, load), { code: "data/bad-weight" });
  }
  await assert.rejects(mixDatasets({ datasets: [{ id: "a", weight: 0.001 }] }, load), { code: "data/empty" });
});

Deno.test("mixDatasetsLegacy: training parts from the front, unshuffled, test splits whole, seed 42 at the end", async () => {
  const dataset_mixer = { a: 0.5, b: 0.3, c: 0.2 };
  const columns = ["text"];
  const text = (rows: Row[]) => rows.map(({ text }) => ({ text }));
  const { train, test } = await mixDatasetsLegacy({ dataset_mixer, columns }, load);
  const parts = [
    ...hundred("a/train/").slice(0, 50),
    ...hundred("b/train/").slice(0, 30),
    ...hundred("c/train/").slice(0, 20),
  ];
  assert.deepEqual(train, shuffleRows(text(parts), 42));
  assert.equal(test?.length, 300);
  const plain = await mixDatasetsLegacy(
    { dataset_mixer, columns, dataset_splits: ["train"], shuffle: false },
    load,
  );
  assert.deepEqual(plain, { train: text(parts) });
});

Deno.test("mixDatasetsLegacy: split names, configurations and shares are checked", async () => {
  const mix = (extra: object, mixer: Record<string, number> = { a: 1 }) =>
    mixDatasetsLegacy({ dataset_mixer: mixer, columns: ["text"], ...extra }, load);
  await assert.rejects(mix({ dataset_splits: ["validation"] }), {
    code: "data/bad-mixture",
    where: "dataset_splits",
  });
  await assert.rejects(mix({ dataset_configs: ["x", "y"] }), {
    code: "data/bad-mixture",
    where: "dataset_configs",
  });
  await assert.rejects(mix({}, { a: -1 }), { code: "data/bad-weight" });
  await assert.rejects(mix({ dataset_splits: ["train"] }, { a: 0.001 }), { code: "data/empty" });
  const configs: unknown[] = [];
  await mixDatasetsLegacy({
    dataset_mixer: { a: 1, b: 1 },
    dataset_configs: ["x", null],
    dataset_splits: ["train"],
  }, (id, o) => {
    configs.push([id, o.config]);
    return load(id, o);
  });
  assert.deepEqual(configs, [["a", "x"], ["b", undefined]]);
});
