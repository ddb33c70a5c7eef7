import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { datasetFiles, fetchDataset, pickTable, splitTables } from "../../lib/hub/mod.ts";
import { cacheOf, startHub, withHome } from "./fake_hub.ts";

const QUICK = { retryDelay: 1 };
const code = (expected: string, text = /./) => (error: unknown) => {
  assert.ok(error instanceof NibbleError, String(error));
  assert.equal(error.code, expected);
  assert.match(error.message, text);
  return true;
};
const tables = (files: string[], readme = "") =>
  splitTables(files, readme).map((t) => [t.config, Object.fromEntries(t.splits)]);

Deno.test("splits by the head of README.md, as the handbook's data sets have it", () => {
  const readme = `---
license: mit
configs:
- config_name: default
  data_files:
  - split: train_sft
    path: data/train_sft-*
  - split: test_sft
    path: [data/test_sft-*]
- config_name: raw
  data_dir: raw
---
# words`;
  const files = [
    "data/train_sft-00000-of-00002-a3ecf92756993583.parquet",
    "data/train_sft-00001-of-00002-0a1804bcb6ae68c6.parquet",
    "data/test_sft-00000-of-00001-f7dfac4afe5b93f4.parquet",
    "data/unused.parquet",
    "raw/train.jsonl",
    "raw/test.jsonl",
  ];
  assert.deepEqual(tables(files, readme), [
    ["default", { train_sft: files.slice(0, 2), test_sft: [files[2]] }],
    ["raw", { train: ["raw/train.jsonl"], test: ["raw/test.jsonl"] }],
  ]);
});

Deno.test("splits by file names, by folders, and without either", () => {
  assert.deepEqual(
    tables(["data/train_prefs-00000-of-00001.parquet", "data/test_prefs-00000-of-00001.parquet"]),
    [
      ["default", {
        test_prefs: ["data/test_prefs-00000-of-00001.parquet"],
        train_prefs: ["data/train_prefs-00000-of-00001.parquet"],
      }],
    ],
  );
  assert.deepEqual(
    tables(["default/train/0000.parquet", "default/train/0001.parquet", "fr/test/0000.parquet"]),
    [
      ["default", { train: ["default/train/0000.parquet", "default/train/0001.parquet"] }],
      ["fr", { test: ["fr/test/0000.parquet"] }],
    ],
  );
  assert.deepEqual(tables(["b.jsonl", "a.jsonl", "dataset_info.json", "notes.txt"]), [
    ["default", { train: ["a.jsonl", "b.jsonl"] }],
  ]);
  assert.deepEqual(tables(["my_dev.jsonl", "my-training.jsonl"]), [
    ["default", { train: ["my-training.jsonl"], validation: ["my_dev.jsonl"] }],
  ]);
});

Deno.test("train.jsonl is the split train, also beside preferences_train.jsonl", () => {
  const files = ["preferences_test.jsonl", "preferences_train.jsonl", "test.jsonl", "train.jsonl"];
  assert.deepEqual(tables(files), [["default", {
    preferences_test: ["preferences_test.jsonl"],
    preferences_train: ["preferences_train.jsonl"],
    test: ["test.jsonl"],
    train: ["train.jsonl"],
  }]]);
});

Deno.test("pickTable: the named one, default, or the only one", () => {
  const [a, b] = [{ config: "a", splits: new Map() }, { config: "default", splits: new Map() }];
  assert.equal(pickTable([a, b]), b);
  assert.equal(pickTable([a, b], "a"), a);
  assert.equal(pickTable([a]), a);
  assert.equal(pickTable([a], "default"), a);
  assert.equal(pickTable([a], "b"), undefined);
  assert.equal(pickTable([a, { ...a, config: "c" }]), undefined);
});

Deno.test("a Hub data set: the splits asked for, then from the cache; another split completes it", async () => {
  const files = {
    "README.md":
      "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n" +
      "  - split: test\n    path: data/test-*\n---\n",
    "data/train-00000-of-00002.parquet": "PAR1a",
    "data/train-00001-of-00002.parquet": "PAR1b",
    "data/test-00000-of-00001.parquet": "PAR1c",
    "script.py": "print()",
  };
  const repo = {
    kind: "dataset" as const,
    files,
    lfs: Object.keys(files).filter((f) => f.endsWith("parquet")),
  };
  await using hub = startHub({ "org/chat": repo });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    const folder = await fetchDataset("org/chat", { ...QUICK, splits: ["train"] });
    assert.equal(folder, join(cacheOf(home, "org/chat", "datasets"), "snapshots", hub.commit("org/chat")));
    assert.deepEqual(datasetFiles(folder, { split: "train" }).map((f) => Deno.readTextFileSync(f)), [
      "PAR1a",
      "PAR1b",
    ]);
    assert.throws(() => datasetFiles(folder, { split: "test" }), code("hub/no-split"));
    hub.seen.length = 0;
    assert.equal(await fetchDataset("org/chat", { ...QUICK, splits: ["train"] }), folder);
    assert.equal(hub.seen.length, 0);
    assert.equal(await fetchDataset("org/chat", { ...QUICK, splits: ["test"] }), folder);
    assert.equal(hub.seen.filter((s) => s.host === "cdn").length, 1);
    assert.equal(datasetFiles(folder, { split: "test" }).length, 1);
    await assert.rejects(
      fetchDataset("org/chat", { ...QUICK, splits: ["dev"] }),
      code("hub/no-split", /train, test/),
    );
    const config = fetchDataset("org/chat", { ...QUICK, config: "fr" });
    await assert.rejects(config, code("hub/no-config", /there are default/));
    Deno.env.set("HF_HUB_OFFLINE", "1");
    assert.equal(await fetchDataset("org/chat", { ...QUICK, splits: ["train", "test"] }), folder);
  });
});

Deno.test("without Parquet or JSON of its own, the Hub's conversion is taken", async () => {
  const repo = {
    kind: "dataset" as const,
    files: { "README.md": "# csv", "table.csv": "a,b" },
    revisions: { "refs/convert/parquet": { "default/train/0000.parquet": "PAR1" } },
  };
  await using hub = startHub({ "org/csv": repo, "org/none": { kind: "dataset", files: { "a.csv": "" } } });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const folder = await fetchDataset("org/csv", QUICK);
    assert.equal(Deno.readTextFileSync(datasetFiles(folder)[0]!), "PAR1");
    hub.seen.length = 0;
    assert.equal(await fetchDataset("org/csv", QUICK), folder);
    assert.equal(hub.seen.length, 0);
    await assert.rejects(fetchDataset("org/none", QUICK), code("hub/no-revision", /convert/));
  });
});

Deno.test("local files and folders, relative to the recipe too; what is nowhere is named with its places", async () => {
  await withHome({ HF_ENDPOINT: "http://127.0.0.1:9" }, async (home) => {
    Deno.mkdirSync(join(home, "data"));
    Deno.writeTextFileSync(join(home, "data", "train.jsonl"), "{}");
    const file = await fetchDataset("data/train.jsonl", { base: home });
    assert.deepEqual(datasetFiles(file, { split: "whatever" }), [join(home, "data", "train.jsonl")]);
    assert.deepEqual(datasetFiles(join(home, "data")), [file]);
    assert.throws(() => datasetFiles(join(home, "data"), { split: "test" }), code("hub/no-split", /train/));
    await assert.rejects(fetchDataset("data/dev.jsonl", { base: home }), code("hub/not-found", /dev\.jsonl/));
    await assert.rejects(fetchDataset("org/chat", QUICK), code("hub/not-found", /127\.0\.0\.1:9/));
  });
});
