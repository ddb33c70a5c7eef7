import assert from "node:assert/strict";
import { join } from "@std/path";
import { contentHash } from "../../lib/formats/content_hash.ts";
import { openModel } from "../../lib/formats/model_files.ts";
import {
  type WritableTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "../../lib/formats/safetensors_write.ts";
import {
  buildGguf,
  EMBEDDING,
  fromBase64,
  golden,
  llamaMetadata,
  sharedFile,
  skippable,
  temporaryFolder,
  throwsCode,
} from "./support.ts";

const tensors = (scale = 1): WritableTensor[] =>
  ["a", "b", "c"].map((name, i) => ({
    name,
    dtype: "F32",
    shape: [50, 1000], // 200 kB: more than both samples of the hash
    data: Float32Array.from({ length: 50_000 }, (_, j) => scale * Math.sin(i + j)),
  }));

/** A folder with a config and weights. */
function model(config: object = { model_type: "llama" }) {
  const folder = temporaryFolder();
  folder.file("config.json", config);
  writeSafetensors(join(folder.path, "model.safetensors"), tensors());
  return folder;
}

Deno.test("a folder with the least that is needed", () => {
  using folder = model();
  const files = openModel(folder.path);
  assert.equal(files.path, folder.path);
  assert.deepEqual(files.config, { model_type: "llama" });
  assert.equal(files.tokenizerJson, undefined);
  assert.deepEqual([files.tokenizerConfig, files.generationConfig], [{}, {}]);
  assert.equal(files.chatTemplate, undefined);
  assert.equal(files.source.tensors.size, 3);
  files.source.close();
});

Deno.test("the chat template: own file, then processor's, then tokenizer's; a list has a default", () => {
  using folder = model();
  const template = () => {
    const files = openModel(folder.path);
    files.source.close();
    return files.chatTemplate;
  };
  const named = [{ name: "tool_use", template: "t" }, { name: "default", template: "d" }];
  folder.file("tokenizer_config.json", { chat_template: named });
  assert.equal(template(), "d");
  folder.file("tokenizer_config.json", { chat_template: [named[0]] });
  assert.equal(template(), undefined);
  folder.file("tokenizer_config.json", { chat_template: "c" });
  assert.equal(template(), "c");
  folder.file("chat_template.json", { chat_template: "p" });
  assert.equal(template(), "p");
  folder.file("chat_template.jinja", "j");
  assert.equal(template(), "j");
});

Deno.test("shards open through their index; model.safetensors wins over it, as in transformers", () => {
  using folder = temporaryFolder();
  folder.file("config.json", {});
  writeShardedSafetensors(folder.path, tensors(), { maxShardBytes: 200_000 });
  const files = openModel(folder.path);
  assert.equal(files.source.tensors.size, 3);
  files.source.close();
  writeSafetensors(join(folder.path, "model.safetensors"), tensors().slice(0, 1));
  const single = openModel(folder.path);
  assert.equal(single.source.tensors.size, 1);
  single.source.close();
});

Deno.test("a GGUF file gives the same things as a folder", () => {
  using folder = temporaryFolder();
  const file = fromBase64(golden<{ gguf: string }>("small_files.json").gguf);
  const files = openModel(folder.file("tiny.GGUF", file));
  assert.equal(files.config["hidden_size"], 32);
  assert.equal(files.chatTemplate, "{{ messages }}");
  assert.equal(files.tokenizerConfig["bos_token"], "<s>");
  assert.deepEqual(files.generationConfig, { bos_token_id: 0, eos_token_id: 1 });
  const json = files.tokenizerJson as { model: { vocab: Record<string, number> } };
  assert.equal(json.model.vocab["Ġa"], 8);
  assert.equal(files.tokenizerJson, json); // built once
  files.source.close();
});

Deno.test("a GGUF file with a tokenizer that cannot be rebuilt still gives its weights", () => {
  using folder = temporaryFolder();
  const metadata = llamaMetadata({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": { strings: ["a"] },
    "tokenizer.ggml.add_bos_token": false,
    "tokenizer.ggml.pre": "unheard-of",
  });
  const files = openModel(folder.file("m.gguf", buildGguf(metadata, EMBEDDING)));
  assert.equal(files.source.readF32("model.embed_tokens.weight").length, 256);
  throwsCode(() => files.tokenizerJson, "formats/gguf-tokenizer", "unheard-of");
  files.source.close();
});

Deno.test("what is missing is named, with what to do", () => {
  using folder = temporaryFolder();
  const open = (path = folder.path) => () => openModel(path);
  throwsCode(open(join(folder.path, "none")), "formats/missing-model", "none");
  throwsCode(open(folder.file("notes.txt", "x")), "formats/missing-model", "neither");
  throwsCode(open(), "formats/missing-file", "config.json", folder.path);
  const gguf = folder.file("m.gguf");
  throwsCode(open(), "formats/missing-file", "config.json", gguf);
  folder.file("adapter_config.json", {});
  throwsCode(open(), "formats/missing-file", "adapter", "base model");
  folder.file("config.json", "{");
  throwsCode(open(), "formats/bad-json", "config.json");
  folder.file("config.json", {});
  throwsCode(open(), "formats/missing-file", "no weights", gguf);
  folder.file("pytorch_model-00001-of-00002.bin");
  throwsCode(open(), "formats/missing-file", "pickle");
  folder.file("model-00001-of-00002.safetensors");
  throwsCode(open(), "formats/missing-file", "model.safetensors.index.json");
  folder.file("tokenizer.json", "[");
  throwsCode(open(), "formats/bad-json", "tokenizer.json");
});

const stories = sharedFile("models/stories260k");
Deno.test({
  ...skippable("stories260k opens with all its files", stories.missing, "../shared"),
  fn() {
    const files = openModel(stories.path);
    assert.equal(files.config["hidden_size"], 64);
    assert.equal(files.generationConfig["eos_token_id"], 2);
    assert.equal(files.tokenizerConfig["bos_token"], "<s>");
    assert.equal((files.tokenizerJson as { version: string }).version, "1.0");
    files.source.close();
    assert.match(contentHash(stories.path), /^sha256-sampled:[0-9a-f]{64}$/);
  },
});

Deno.test("content hash: the same for any division of the same content", () => {
  using single = model({ b: 1, a: [{ y: 1, x: 2 }], _name_or_path: "here" });
  using sharded = temporaryFolder();
  sharded.file("config.json", { transformers_version: "5", a: [{ x: 2, y: 1 }], b: 1 });
  writeShardedSafetensors(sharded.path, tensors().reverse(), { maxShardBytes: 200_000 });
  for (const whole of [true, false]) {
    assert.equal(contentHash(single.path, { whole }), contentHash(sharded.path, { whole }));
  }
  assert.notEqual(contentHash(single.path), contentHash(single.path, { whole: true }));
});

Deno.test("content hash: another config, name, shape or value is another hash", () => {
  const hashes = (config: object, list: WritableTensor[]) => {
    using folder = temporaryFolder();
    folder.file("config.json", config);
    writeSafetensors(join(folder.path, "model.safetensors"), list);
    return [contentHash(folder.path), contentHash(folder.path, { whole: true })];
  };
  const base = hashes({ a: 1 }, tensors());
  const changed = (list: WritableTensor[], at: number): WritableTensor[] => {
    const data = new Float32Array(list[0]!.data as Float32Array);
    data[at]! += 1;
    return [{ ...list[0]!, data }, ...list.slice(1)];
  };
  const variants = {
    config: hashes({ a: 2 }, tensors()),
    name: hashes({ a: 1 }, tensors().map((t) => ({ ...t, name: t.name + "x" }))),
    shape: hashes({ a: 1 }, tensors().map((t) => ({ ...t, shape: [1000, 50] }))),
    values: hashes({ a: 1 }, tensors(1.001)),
    first: hashes({ a: 1 }, changed(tensors(), 0)),
    last: hashes({ a: 1 }, changed(tensors(), 49_999)),
  };
  for (const [what, [sampled, whole]] of Object.entries(variants)) {
    assert.notEqual(sampled, base[0], what);
    assert.notEqual(whole, base[1], what);
  }
  // What the sample cannot see, the whole does: this is the price that the documentation states.
  const [sampled, whole] = hashes({ a: 1 }, changed(tensors(), 25_000));
  assert.equal(sampled, base[0]);
  assert.notEqual(whole, base[1]);
});
