import assert from "node:assert/strict";
import { join } from "@std/path";
import { fetchDataset, fetchModel } from "../../lib/hub/mod.ts";
import { type FakeRepo, startHub, withHome } from "./fake_hub.ts";

const MODEL: FakeRepo = {
  kind: "model",
  lfs: ["model.safetensors"],
  files: {
    "config.json": "{}",
    "tokenizer.json": "{ }",
    "model.safetensors": "weights",
    "pytorch_model.bin": "no",
  },
};
const DATA: FakeRepo = { kind: "dataset", files: { "train.jsonl": '{"a":1}', "test.jsonl": '{"a":2}' } };

/** Runs Python in the environment of the test; standard output, trimmed. */
async function python(code: string): Promise<string> {
  const out = await new Deno.Command("python3", { args: ["-c", code], stderr: "piped" }).output();
  assert.ok(out.success, new TextDecoder().decode(out.stderr));
  return new TextDecoder().decode(out.stdout).trim();
}
const found = await python("import huggingface_hub").then(() => true, () => false);
const suffix = found ? "" : " (skipped: no huggingface_hub in this Python)";

Deno.test({
  name: `what Python's huggingface_hub fetched serves nibble, without a request${suffix}`,
  ignore: !found,
  async fn() {
    await using hub = startHub({ "org/tiny": MODEL, "org/chat": DATA });
    await withHome({ HF_ENDPOINT: hub.url }, async () => {
      const fetched = await python(`
from huggingface_hub import snapshot_download
print(snapshot_download("org/tiny", ignore_patterns=["*.bin"]))
print(snapshot_download("org/chat", repo_type="dataset"))`);
      hub.seen.length = 0;
      assert.equal(`${await fetchModel("org/tiny")}\n${await fetchDataset("org/chat")}`, fetched);
      assert.equal(hub.seen.length, 0);
    });
  },
});

Deno.test({
  name: `what nibble fetched serves Python's huggingface_hub, offline${suffix}`,
  ignore: !found,
  async fn() {
    await using hub = startHub({ "org/tiny": MODEL, "org/chat": DATA });
    await withHome({ HF_ENDPOINT: hub.url }, async () => {
      const [model, data] = [await fetchModel("org/tiny"), await fetchDataset("org/chat")];
      Deno.env.set("HF_HUB_OFFLINE", "1");
      const seen = await python(`
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
print(hf_hub_download("org/tiny", "model.safetensors"))
print(snapshot_download("org/chat", repo_type="dataset"))
info = scan_cache_dir()
print(sorted(r.repo_id for r in info.repos), len(info.warnings))`);
      assert.equal(seen, `${join(model, "model.safetensors")}\n${data}\n['org/chat', 'org/tiny'] 0`);
    });
  },
});
