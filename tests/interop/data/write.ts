/**
 * Data sets and the rows that nibble's mixtures choose from them, in their order.
 * @module
 */
import { join } from "@std/path";
import {
  type DatasetMixture,
  type LoadSplit,
  mixDatasets,
  mixDatasetsLegacy,
  readRows,
} from "../../../lib/data/mod.ts";
import { folder } from "../checks.ts";

const root = folder();
const COUNTS: Record<string, number> = { a: 100, b: 37, c: 1000 };
for (const [name, count] of Object.entries(COUNTS)) {
  for (const [split, rows] of [["train", count], ["test", Math.ceil(count / 5)]] as const) {
    const lines = Array.from(
      { length: rows },
      (_, i) => JSON.stringify({ text: `${name}/${split}/${i}`, n: i }) + "\n",
    );
    Deno.writeTextFileSync(join(root, `${name}-${split}.jsonl`), lines.join(""));
  }
}
const load: LoadSplit = (id, { split }) => readRows(join(root, `${id}-${split}.jsonl`));

const mixtures: DatasetMixture[] = [
  {
    datasets: [{ id: "a", weight: 0.5 }, { id: "b", weight: 0.3 }, { id: "c", weight: 0.2 }],
    seed: 0,
    test_split_size: 0.1,
  },
  { datasets: [{ id: "c", weight: 1 }], seed: 42, test_split_size: 100 },
  { datasets: [{ id: "a", split: "test", weight: 0.7 }, { id: "b", weight: 1 }], seed: 7 },
  {
    datasets: [{ id: "b", weight: 0.999 }, { id: "b", weight: 0.001 }],
    seed: 123456789,
    test_split_size: 0.333,
  },
].map((mixture) => ({
  ...mixture,
  datasets: mixture.datasets.map((entry) => ({ split: "train", columns: ["text"], ...entry })),
}));
const mixers = [{ a: 0.5, b: 1 }, { c: 0.123, a: 1 }];

const texts = (rows: readonly Record<string, unknown>[] | undefined) => rows?.map((row) => row.text) ?? null;
const result = {
  mixtures: await Promise.all(mixtures.map(async (mixture) => {
    const { train, test } = await mixDatasets(mixture, load);
    return { mixture, train: texts(train), test: texts(test) };
  })),
  mixers: await Promise.all(mixers.map(async (dataset_mixer) => {
    const { train, test } = await mixDatasetsLegacy({ dataset_mixer, columns: ["text"] }, load);
    return { dataset_mixer, train: texts(train), test: texts(test) };
  })),
};
Deno.writeTextFileSync(join(root, "chosen.json"), JSON.stringify(result));
