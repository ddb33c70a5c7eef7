import assert from "node:assert/strict";
import { fromFileUrl, join } from "@std/path";
import * as nibble from "../mod.ts";
import { readAdapter } from "../lib/formats/mod.ts";
import { sharedMap } from "../lib/quant/quantized_tensor.ts";
import { gpuTest } from "./gpu_helper.ts";

// the map of double quantization is made once a device and stays: not a leak of the first test that needs it
await nibble.device();
sharedMap();

const TINY = fromFileUrl(new URL("../assets/models/tiny", import.meta.url));
const DATA = fromFileUrl(new URL("../assets/data/quickstart", import.meta.url));
const ALL = { r: 4, lora_alpha: 8, target_modules: "all-linear" } as const;

/** The model's logits for a few tokens. */
const probe = (model: nibble.Model) => nibble.logits(model, [5, 300, 77, 1024]);
const distance = (a: Float32Array, b: Float32Array) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));

/** Gives B numbers, so that the adapter says something. */
function stir(adapter: nibble.LoraAdapter): void {
  for (const { b } of adapter.layers.values()) {
    b.write(Float32Array.from({ length: b.size }, (_, i) => Math.sin(i) / 9));
  }
}

gpuTest("an adapter: nothing at first, saved, loaded, switched, merged", async () => {
  const folder = await Deno.makeTempDir();
  const tokenizer = await nibble.loadTokenizer(TINY);
  const model = await nibble.loadModel(TINY, { maxPositions: 64 });
  const base = await probe(model);
  const adapter = nibble.addLora(model, ALL);
  assert.equal(adapter.parameterCount, adapter.pages!.count);
  assert.equal(distance(await probe(model), base), 0, "B is zero");
  stir(adapter);
  const moved = await probe(model);
  assert.ok(distance(moved, base) > 0.1);
  await nibble.saveAdapter(adapter, join(folder, "adapter"), { tokenizer });
  await nibble.mergeAdapter(model, adapter, join(folder, "merged"), { dtype: "F32", tokenizer });
  adapter.dispose();
  assert.equal(distance(await probe(model), base), 0, "taken off");

  for (const is_trainable of [false, true]) {
    const loaded = nibble.loadAdapter(model, join(folder, "adapter"), { is_trainable });
    assert.equal(distance(await probe(model), moved), 0);
    assert.equal(loaded.pages !== undefined, is_trainable);
    loaded.enabled = false;
    assert.equal(distance(await probe(model), base), 0);
    loaded.dispose();
  }
  model.dispose();

  const merged = await nibble.loadModel(join(folder, "merged"), { maxPositions: 64 });
  // W + s B A is rounded once more, and the order of sums differs: a few hundred roundings of logits of about 10
  assert.ok(distance(await probe(merged), moved) < 1e-3);
  assert.throws(
    () => nibble.loadAdapter(merged, join(folder, "adapter")),
    (e: nibble.NibbleError) => e.code === "lora/base-mismatch",
  );
  merged.dispose();
  const again = await nibble.loadTokenizer(join(folder, "adapter"));
  assert.deepEqual(again.encode("Praise: the ring"), tokenizer.encode("Praise: the ring"));
  await Deno.remove(folder, { recursive: true });
});

gpuTest("4 bits: a string or settings, and the adapter records which", async () => {
  const folder = await Deno.makeTempDir();
  const nf4 = await nibble.loadModel(TINY, { quantization: "nf4", maxPositions: 64 });
  const fp4 = await nibble.loadModel(TINY, { quantization: { quantType: "fp4", doubleQuant: false } });
  assert.equal(nf4.summary.denseLayers, 0);
  assert.ok(nf4.summary.bitsPerParameter < 4.2 && fp4.summary.bitsPerParameter === 4.5);
  const adapter = nibble.addLora(nf4, ALL);
  await nibble.saveAdapter(adapter, folder);
  const { config } = readAdapter(folder);
  assert.equal(config.base_model_name_or_path, TINY);
  assert.equal(config.nibble?.base_quantization, "nf4+double");
  adapter.dispose();
  nf4.dispose();
  fp4.dispose();
  await Deno.remove(folder, { recursive: true });
});

gpuTest("generate streams the text that it returns, from text or messages, and stops when told", async () => {
  const model = await nibble.loadModel(TINY, { quantization: "nf4" });
  const tokenizer = await nibble.loadTokenizer(TINY);
  const pieces: string[] = [];
  const onText = (piece: string) => void pieces.push(piece);
  const result = await nibble.generate(model, tokenizer, "To be", { max_new_tokens: 12, onText });
  assert.equal(pieces.join(""), result.text);
  assert.equal(result.text, tokenizer.decode(result.ids, { skipSpecialTokens: true }));
  assert.equal(result.promptTokens, tokenizer.encode("To be").length);
  const stop = new AbortController();
  const cut = await nibble.generate(model, tokenizer, [{ role: "user", content: "Praise: the ring" }], {
    max_new_tokens: 50,
    eos_token_id: [],
    onToken: () => stop.abort(),
    signal: stop.signal,
  });
  assert.deepEqual([cut.reason, cut.ids.length], ["aborted", 1]);
  model.dispose();
});

const RECIPE = {
  model_name_or_path: TINY,
  dataset_name: DATA,
  load_in_4bit: true,
  use_peft: true,
  lora_r: 4,
  assistant_only_loss: true,
  per_device_train_batch_size: 2,
  max_length: 64,
  max_steps: 1,
  max_train_samples: 8,
};

// a budget opens another device, so the count of live buffers begins anew
Deno.test("planMemory takes an object with a recipe's keys and refuses what cannot fit", async () => {
  const plan = await nibble.planMemory(RECIPE);
  assert.ok(plan.memory.peakBytes > 1e6 && plan.largestBinding > 0);
  assert.deepEqual([plan.maxSteps, plan.sequences], [1, 8]);
  await assert.rejects(
    nibble.planMemory({ ...RECIPE, nibble_memory_budget_gb: 0.001 }),
    (e: nibble.NibbleError) => e.code === "gpu/budget",
  );
  await nibble.device({}); // without that budget again
  await assert.rejects(
    nibble.planMemory({ ...RECIPE, lora_rr: 4 } as nibble.RecipeLike),
    (e: nibble.NibbleError) => e.code === "recipe/unknown-key",
  );
});
