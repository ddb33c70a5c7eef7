/**
 * SFT and then DPO through a Hub that makes trouble: a gated model, a server that is busy, bodies that break off, large
 * files on another host; the adapter is uploaded, and the second run starts from it. Nothing of nibble is replaced.
 */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { readAdapter } from "../../lib/formats/mod.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { readRecipe, writeRecipe } from "../../lib/recipe/mod.ts";
import { train } from "../../lib/train/run.ts";
import { reposOf } from "../recipe/handbook_hub.ts";
import { failsWith, type FakeHub, names, startHub, truncated, withHome } from "./fake_hub.ts";

await openGpu();

const COMMON = `max_length: 48
per_device_train_batch_size: 2
max_steps: 3
logging_steps: 1
use_peft: true
lora_r: 4
lora_target_modules: all-linear
push_to_hub: true
`;
const SFT = `model_name_or_path: gated/mistral-tiny
dataset_mixer: {"org/chats": 1.0}
dataset_splits: [train_sft, test_sft]
do_eval: true
load_in_4bit: true
bnb_4bit_quant_type: nf4
use_bnb_nested_quant: true
learning_rate: 1.0e-2
hub_model_id: sft
nibble_task: sft
${COMMON}`;
const DPO = `model_name_or_path: writer/sft
dataset_mixer: {"org/pairs": 1.0}
dataset_splits: [train_prefs, test_prefs]
beta: 0.1
load_in_4bit: true
optim: adamw_torch
hub_model_id: dpo
nibble_task: dpo
max_prompt_length: 16
${COMMON}`;

/** Trains as \`train.ts\` does, from a recipe file. */
async function run(folder: string, text: string, name: string) {
  const path = join(folder, `${name}.yaml`);
  Deno.writeTextFileSync(path, `${text}output_dir: ${join(folder, name)}\n`);
  const { settings } = readRecipe(path);
  const notes: string[] = [];
  const reporter = { step() {}, log() {}, note: (line: string) => void notes.push(line), done() {} };
  const result = await train(settings, { reporter, recipeText: writeRecipe(settings), base: folder });
  return { ...result, notes };
}

/** The first request of each kind meets trouble. */
function makeTrouble(hub: FakeHub): string[] {
  const met: string[] = [];
  const once = (name: string) => !met.includes(name) && met.push(name) > 0;
  hub.trouble = (seen, body) => {
    if (/\/tree\//.test(seen.path) && once("a busy server")) return new Response("", { status: 503 });
    if (/train_sft.*jsonl/.test(seen.path) && once("too many requests")) {
      return new Response("", { status: 429, headers: { "retry-after": "0" } });
    }
    if (seen.host === "cdn" && seen.path.includes("model.safetensors") && once("a body that breaks off")) {
      return truncated(body, 2000);
    }
    if (/\/commit\//.test(seen.path) && once("a commit that fails")) return new Response("", { status: 500 });
    return undefined;
  };
  return met;
}

Deno.test("SFT in 4 bits, upload, and DPO from what was uploaded, through a Hub with troubles of every kind", async () => {
  const sft = readRecipe(recipeFile(SFT)).settings, dpo = readRecipe(recipeFile(DPO)).settings;
  const repos = { ...reposOf(sft), ...reposOf({ ...dpo, model_name_or_path: "org/mistral-unused" }) };
  Object.assign(repos["gated/mistral-tiny"]!, { gated: true, token: "hf_writer" });
  await using hub = startHub(repos);
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    await assert.rejects(
      run(home, SFT.replace("push_to_hub: true", "push_to_hub: false"), "nobody"),
      failsWith("hub/gated", `${hub.url}/gated/mistral-tiny`, "HF_TOKEN"),
    );
    Deno.env.set("HF_TOKEN", "hf_reader");
    await assert.rejects(
      run(home, SFT.replace("push_to_hub: true", "push_to_hub: false"), "reader"),
      failsWith("hub/gated", "accept the conditions", "not enough"),
    );
    Deno.env.set("HF_TOKEN", "hf_writer");
    const met = makeTrouble(hub);
    const first = await run(home, SFT, "sft");
    assert.deepEqual(met.sort(), [
      "a body that breaks off",
      "a busy server",
      "a commit that fails",
      "too many requests",
    ]);
    assert.ok(first.after!.eval_loss < first.before!.eval_loss);
    assert.match(first.notes.join("\n"), /14 linear layers quantized \(.*%, 4\.\d+ bits each\)/);
    const ranges = hub.seen.filter((s) => s.host === "cdn" && s.range !== null);
    assert.deepEqual(ranges.map((s) => s.range), ["bytes=2000-"], "the broken body is gone on with");
    assert.ok(hub.seen.filter((s) => s.host === "cdn").every((s) => s.authorization === null));
    const sent = hub.repos["writer/sft"]!.files["adapter_model.safetensors"] as Uint8Array;
    assert.equal(sent.toHex(), Deno.readFileSync(join(home, "sft", "adapter_model.safetensors")).toHex());

    const second = await run(home, DPO, "dpo");
    assert.ok(
      Math.abs(second.logs[0]!.loss - Math.LN2) < 1e-4,
      `DPO starts at ln 2, not at ${second.logs[0]!.loss}`,
    );
    assert.match(second.notes.join("\n"), /writer\/sft merged in/);
    const uploaded = names(join(home, "dpo")).filter((n) => /^(adapter|README)/.test(n));
    for (const file of uploaded) assert.ok(file in hub.repos["writer/dpo"]!.files, file);
    // both name the model at the bottom, its revision, its content and its form; the second also the first (R10)
    const [below, above] = ["sft", "dpo"].map((name) => readAdapter(join(home, name)).config);
    for (const { base_model_name_or_path, revision, nibble } of [below!, above!]) {
      assert.deepEqual([base_model_name_or_path, revision], ["gated/mistral-tiny", "main"]);
      assert.match(nibble!.base_hash!, /^sha256-sampled:/);
    }
    const forms = [below!, above!].map(({ nibble }) => nibble!.base_quantization);
    assert.deepEqual(forms, ["nf4+double", "nf4"], "as each recipe says");
    assert.equal(below!.nibble!.parents, undefined);
    assert.deepEqual(above!.nibble!.parents!.map((p) => [p.adapter, p.base, p.base_revision, p.base_hash]), [
      ["writer/sft", "gated/mistral-tiny", "main", below!.nibble!.base_hash],
    ]);
    assert.notEqual(
      above!.nibble!.base_hash,
      below!.nibble!.base_hash,
      "the base with an adapter in it is another",
    );
  });
});

/** A recipe's text in a file that lives as long as the tests. */
function recipeFile(text: string): string {
  const path = Deno.makeTempFileSync({ suffix: ".yaml" });
  Deno.writeTextFileSync(path, text);
  return path;
}
