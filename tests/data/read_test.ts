import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { join } from "@std/path";
import { findFiles, nameRow, originOf, readRows, streamRows } from "../../lib/data/mod.ts";
import { fixture, jsonl, withFolder } from "./helpers.ts";

const row = (n: number) => ({ text: `row ${n} é🙂` });

for (const codec of ["none", "snappy", "gzip", "zstd", "brotli"]) {
  Deno.test(`readRows: Parquet written by pyarrow (${codec})`, async () => {
    const rows = await readRows(fixture(`chat-${codec}.parquet`));
    assert.deepEqual(
      rows,
      [0, 1, 2, 3, 4].map((i) => ({
        messages: [
          { role: "user", content: `Question ${i}? naïve 🙂` },
          { role: "assistant", content: `Answer ${i}.` },
        ],
        n: i,
        score: i / 4,
        source: i === 3 ? null : "made",
        ok: i % 2 === 0,
      })),
    );
    assert.equal(nameRow(rows[3], 99), `chat-${codec}.parquet:4`);
  });
}

Deno.test("readRows: a Parquet file that cannot be read is named", async () => {
  await assert.rejects(readRows(fixture("chat-lz4.parquet")), {
    code: "data/parquet",
    where: fixture("chat-lz4.parquet"),
  });
  const whole = Deno.readFileSync(fixture("chat-none.parquet"));
  await withFolder({ "cut.parquet": whole.subarray(0, whole.length - 9) }, async (folder) => {
    await assert.rejects(readRows(join(folder, "cut.parquet")), { code: "data/parquet" });
  });
});

Deno.test("readRows: JSON Lines, with blank lines, a BOM, CRLF, and no last newline", async () => {
  const text = `\uFEFF${JSON.stringify(row(1))}\r\n\r\n${JSON.stringify(row(2))}`;
  await withFolder({ "a.jsonl": text, "b.ndjson": text, "c.jsonl.gz": gzipSync(text) }, async (folder) => {
    for (const name of ["a.jsonl", "b.ndjson", "c.jsonl.gz"]) {
      const rows = await readRows(join(folder, name));
      assert.deepEqual(rows, [row(1), row(2)]);
      assert.equal(originOf(rows[1])?.row, 3, "the line, blank ones counted");
    }
  });
});

Deno.test("readRows: a line longer than a read, and characters across reads", async () => {
  const long = { text: "é🙂".repeat(100_000) };
  await withFolder({ "a.jsonl": jsonl(long, long) }, async (folder) => {
    assert.deepEqual(await readRows(join(folder, "a.jsonl")), [long, long]);
  });
});

Deno.test("readRows: a JSON array, an object that holds one, and JSON Lines under .json", async () => {
  const files = {
    "array.json": JSON.stringify([row(1), row(2)], null, 2),
    "data.json": JSON.stringify({ version: "1", data: [row(1), row(2)] }),
    "lines.json": jsonl(row(1), row(2)),
  };
  await withFolder(files, async (folder) => {
    for (const name of Object.keys(files)) {
      assert.deepEqual(await readRows(join(folder, name)), [row(1), row(2)], name);
    }
  });
  await withFolder({ "one.json": JSON.stringify(row(1)) }, async (folder) => {
    assert.deepEqual(await readRows(join(folder, "one.json")), [row(1)]);
  });
});

Deno.test("readRows: errors name the file and the line", async () => {
  const files = {
    "bad.jsonl": jsonl(row(1)) + "\n{'text': 1}\n",
    "list.jsonl": jsonl(row(1), [1]),
    "half.json": '[{"text": "a"},',
    "numbers.json": "[1, 2]",
  };
  await withFolder(files, async (folder) => {
    const at = (name: string) => join(folder, name);
    await assert.rejects(readRows(at("bad.jsonl")), {
      code: "data/json-line",
      where: `${at("bad.jsonl")}:3`,
    });
    await assert.rejects(readRows(at("list.jsonl")), {
      code: "data/not-an-object",
      where: `${at("list.jsonl")}:2`,
    });
    await assert.rejects(readRows(at("half.json")), { code: "data/json", where: at("half.json") });
    await assert.rejects(readRows(at("numbers.json")), { code: "data/not-an-object" });
    await assert.rejects(readRows(at("nothing.jsonl")), { code: "data/no-such-path" });
  });
});

Deno.test("streamRows: stops reading when its reader stops", async () => {
  await withFolder({ "a.jsonl": jsonl(row(1), row(2)) + "not json" }, async (folder) => {
    for await (const first of streamRows(join(folder, "a.jsonl"))) {
      assert.deepEqual(first, row(1));
      break;
    }
  });
});

/** The files found, relative to the folder; contents do not matter for finding. */
async function found(names: string[], split?: string, config?: string, card?: string): Promise<string[]> {
  let result: string[] = [];
  const files = Object.fromEntries(names.map((name) => [name, "{}\n"]));
  await withFolder(card === undefined ? files : { ...files, "README.md": card }, (folder) => {
    result = findFiles(folder, { split, config }).map((file) => file.slice(folder.length + 1));
  });
  return result;
}

Deno.test("findFiles: shards of a split, in order, and not those of a split with a longer name", async () => {
  const names = [
    "data/train-00001-of-00002.parquet",
    "data/train-00000-of-00002.parquet",
    "data/train_sft-00000-of-00001-a3ecf92756993583.parquet",
    "data/test-00000-of-00001.parquet",
    "dataset_infos.json",
  ];
  assert.deepEqual(await found(names), [
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
  ]);
  assert.deepEqual(await found(names, "train_sft"), [names[2]]);
  assert.deepEqual(await found(names, "test"), [names[3]]);
});

Deno.test("findFiles: plain names, synonyms, folders, words in names", async () => {
  assert.deepEqual(await found(["train.jsonl", "test.jsonl"], "test"), ["test.jsonl"]);
  assert.deepEqual(await found(["train.jsonl", "dev.jsonl"], "validation"), ["dev.jsonl"]);
  assert.deepEqual(await found(["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"]), [
    "train/a.jsonl",
    "train/b.jsonl",
  ]);
  assert.deepEqual(await found(["my-train-v2.jsonl", "my-test-v2.jsonl"]), ["my-train-v2.jsonl"]);
  assert.deepEqual(await found(["trainer.jsonl", "train.json"]), ["train.json"]);
});

Deno.test("findFiles: files that name no split are for training, and for nothing else", async () => {
  assert.deepEqual(await found(["shakespeare.jsonl"]), ["shakespeare.jsonl"]);
  assert.deepEqual(await found(["shakespeare.jsonl", "shakespeare-test.jsonl"]), ["shakespeare.jsonl"]);
  await assert.rejects(found(["shakespeare.jsonl"], "test"), { code: "data/no-such-split" });
});

Deno.test("findFiles: a configuration is a folder", async () => {
  const names = ["all/train-00000-of-00001.parquet", "small/train-00000-of-00001.parquet"];
  assert.deepEqual(await found(names, "train", "small"), [names[1]]);
  assert.deepEqual(await found(["train.jsonl"], "train", "default"), ["train.jsonl"]);
  await assert.rejects(found(names, "train", "large"), {
    code: "data/no-such-config",
    remedy: "Folders found: all, small.",
  });
});

Deno.test("findFiles: the card's configurations win", async () => {
  const card = `---
configs:
- config_name: SFT
  data_files:
  - split: magpie_no_think
    path: SFT/magpie_no_think-*
  - split: train
    path: ["SFT/**/x.jsonl", "SFT/b?.jsonl"]
- config_name: Mid
  data_files: mid/*.jsonl
---
# A data set
`;
  const names = [
    "SFT/magpie_no_think-00000-of-00001.jsonl",
    "SFT/deep/er/x.jsonl",
    "SFT/b1.jsonl",
    "SFT/b12.jsonl",
    "mid/q.jsonl",
  ];
  assert.deepEqual(await found(names, "magpie_no_think", "SFT", card), [names[0]]);
  assert.deepEqual(await found(names, "train", "SFT", card), ["SFT/b1.jsonl", "SFT/deep/er/x.jsonl"]);
  assert.deepEqual(await found(names, "train", "Mid", card), ["mid/q.jsonl"]);
  await assert.rejects(found(names, "train", undefined, card), {
    code: "data/no-such-config",
    remedy: "Set dataset_config to one of: SFT, Mid.",
  });
  await assert.rejects(found(names, "train", "Late", card), { code: "data/no-such-config" });
  assert.deepEqual(await found(["train.jsonl"], "train", undefined, "---\n: [\n---\n"), ["train.jsonl"]);
});

Deno.test("findFiles: errors list what there is", async () => {
  await assert.rejects(found(["train.jsonl", "valid.jsonl"], "test_sft"), {
    code: "data/no-such-split",
    remedy: "Found: train.jsonl, valid.jsonl. Set the split to one that is there.",
  });
  await assert.rejects(
    found(["data-00000-of-00001.arrow", "state.json"]),
    (e: Error & { code: string }) =>
      e.code === "data/no-data-files" && e.message.includes("data-00000-of-00001.arrow"),
  );
});
