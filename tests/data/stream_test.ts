import assert from "node:assert/strict";
import { join } from "@std/path";
import {
  type LoadSplit,
  mixDatasets,
  mixDatasetsLegacy,
  readRows,
  type Row,
  type RowStream,
  type StreamChoice,
  streamDatasets,
  tokenizeRows,
  tokenizeStream,
} from "../../lib/data/mod.ts";
import { tokenizer } from "../text/fixtures.ts";
import { fixture, jsonl, withFolder } from "./helpers.ts";

const chat = (name: string, n: number) => ({
  messages: [{ role: "user", content: `${name} ${n}` }, {
    role: "assistant",
    content: "yes ".repeat(n % 7) + "no",
  }],
  extra: n,
});
const rowsOf = (name: string, count: number) => Array.from({ length: count }, (_, n) => chat(name, n));

/** Data sets a, b and c: JSON Lines in two files, JSON, Parquet. */
async function withData(body: (root: string) => Promise<void>): Promise<void> {
  await withFolder({
    "a/train-00000-of-00002.jsonl": jsonl(...rowsOf("a", 30)),
    "a/train-00001-of-00002.jsonl": jsonl(...rowsOf("A", 11)) + "\n",
    "a/test.jsonl": jsonl(...rowsOf("at", 9)),
    "b/train.json": JSON.stringify(rowsOf("b", 17)),
    "b/test.json": JSON.stringify(rowsOf("bt", 5)),
    "c/train.parquet": Deno.readFileSync(fixture("chat-zstd.parquet")),
  }, body);
}

/** The rows of a stream in their places. */
async function inPlaces(stream: RowStream): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const [place, row] of stream.rows()) {
    assert.equal(rows[place], undefined, "a place is filled once");
    rows[place] = row;
  }
  assert.equal(rows.length, stream.count);
  return rows;
}

const CHOICES: Record<string, StreamChoice> = {
  "a mixture with shares, columns and a division": {
    mixture: {
      datasets: [
        { id: "a", split: "train", columns: ["messages"], weight: 0.5 },
        { id: "b", split: "train", columns: ["messages"], weight: 0.3 },
        { id: "c", split: "train", columns: ["messages"], weight: 1 },
        { id: "a", split: "train", columns: ["messages"], weight: 0.2 }, // again, as a part of its own
      ],
      seed: 7,
      test_split_size: 0.2,
    },
  },
  "parts of a mixture by TRL's rule": {
    mixture: {
      datasets: [{ id: "a", columns: ["messages"], weight: 2 }, {
        id: "b",
        columns: ["messages"],
        weight: 1,
      }],
      ...{ test_split_size: 4, rule: "trl" },
    },
  },
  "a mixer of the older dialect": {
    legacy: { dataset_mixer: { a: 0.4, b: 1 }, dataset_splits: ["train", "test"] },
  },
  "one data set by name": { named: { id: "a", config: undefined, train: "train", test: "test" } },
};

for (const [what, choice] of Object.entries(CHOICES)) {
  Deno.test(`stream: the rows and their order are those of reading all at once: ${what}`, async () => {
    await withData(async (root) => {
      const load: LoadSplit = (id, { split }) => readRows(join(root, id), { split });
      const want = "mixture" in choice
        ? await mixDatasets(choice.mixture, load)
        : "legacy" in choice
        ? await mixDatasetsLegacy(choice.legacy, load)
        : { train: await load("a", { split: "train" }), test: await load("a", { split: "test" }) };
      const locate = (id: string) => Promise.resolve(join(root, id));
      const got = await streamDatasets(choice, locate);
      assert.deepEqual(await inPlaces(got.train), want.train);
      assert.deepEqual(await inPlaces(got.test!), want.test);
      const some = await streamDatasets(choice, locate, { train: 5, test: 2 });
      assert.deepEqual(await inPlaces(some.train), want.train.slice(0, 5));
      assert.deepEqual(await inPlaces(some.test!), want.test!.slice(0, 2));
      const digests = [got.train, got.test!, some.train, some.test!].map((s) => s.digest);
      assert.equal(new Set(digests).size, 4, "each choice has a digest of its own");
      assert.equal((await streamDatasets(choice, locate)).train.digest, digests[0], "and always the same");
      Deno.writeTextFileSync(join(root, "a/train-00001-of-00002.jsonl"), jsonl(...rowsOf("B", 11)));
      assert.notEqual(
        (await streamDatasets(choice, locate)).train.digest,
        digests[0],
        "until a file changes",
      );
    });
  });
}

Deno.test("stream: tokens from the disk are those of rows in memory, with the same report", async () => {
  await withData(async (root) => {
    const tok = tokenizer("chatml");
    const options = { columns: {}, encode: { max_length: 24, assistant_only_loss: true } };
    const choice = CHOICES["a mixture with shares, columns and a division"]!;
    const load: LoadSplit = (id, { split }) => readRows(join(root, id), { split });
    const { train } = await streamDatasets(choice, (id) => Promise.resolve(join(root, id)));
    const want = tokenizeRows(
      tok,
      (await mixDatasets((choice as { mixture: never }).mixture, load)).train,
      options,
    );
    const cache = join(root, "cache");
    const got = await tokenizeStream(tok, train, cache, options);
    assert.deepEqual(got.store.lengths, want.store.lengths);
    for (let i = 0; i < want.store.count; i++) assert.deepEqual(got.store.at(i), want.store.at(i));
    const { dropped, answersCut, ...figures } = got.meta.report;
    const { dropped: wantDropped, answersCut: wantCut, ...wantFigures } = want.meta.report;
    assert.deepEqual(figures, wantFigures);
    const byRow = (a: { row: number }, b: { row: number }) => a.row - b.row;
    assert.deepEqual([dropped.toSorted(byRow), answersCut.toSorted(byRow)], [
      wantDropped.toSorted(byRow),
      wantCut,
    ]);
    assert.deepEqual([got.cached, (await tokenizeStream(tok, train, cache, options)).cached], [false, true]);
  });
});

Deno.test("stream: missing columns, different columns and empty sets are told as ever", async () => {
  await withData(async (root) => {
    const locate = (id: string) => Promise.resolve(join(root, id));
    const mixture = (columns: string[]) => ({
      mixture: { datasets: [{ id: "a", columns }, { id: "b", columns }] },
    });
    await assert.rejects(streamDatasets(mixture(["text"]), locate), { code: "data/missing-column" });
    await assert.rejects(
      streamDatasets({ mixture: { datasets: [{ id: "a", columns: ["messages"] }, { id: "b" }] } }, locate),
      { code: "data/different-columns" },
    );
    const tok = tokenizer("chatml");
    const { train } = await streamDatasets(mixture(["messages"]), locate);
    await assert.rejects(
      tokenizeStream(tok, train, join(root, "cache"), { columns: { task: "text" }, encode: {} }),
      { code: "data/no-columns" },
    );
    assert.deepEqual([...Deno.readDirSync(join(root, "cache"))], [], "a failure leaves nothing behind");
  });
});
