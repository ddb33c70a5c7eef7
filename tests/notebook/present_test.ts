import assert from "node:assert/strict";
import * as nibble from "../../mod.ts";
import { presented, presentTensor } from "../../lib/notebook/present.ts";
import { bundleOf } from "../../lib/notebook/show.ts";
import { showTokens, tokensBundle } from "../../lib/notebook/tokens.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { quantize, quantizeOracle } from "../../lib/quant/mod.ts";
import { sharedMap } from "../../lib/quant/quantized_tensor.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest } from "../gpu_helper.ts";

// the map of double quantization is made once a device and stays: not a leak of the first test that needs it
await openGpu();
sharedMap();

const DISPLAY = Symbol.for("Jupyter.display");
const MODEL = new URL("../../assets/models/tiny", import.meta.url).pathname;
const DATA = new URL("../../assets/data/quickstart", import.meta.url).pathname;
const RECIPE = new URL("../../recipes/quickstart/config.yaml", import.meta.url).pathname;

Deno.test("tables, escaped in HTML and one line a row in text", async () => {
  const bundle = await bundleOf([{ a: 1, b: "<i>\nx" }, { a: 0.123456, b: "" }]);
  assert.equal(bundle["text/plain"], "a       b\n1       <i> / x\n0.1235");
  assert.ok((bundle["text/html"] as string).includes("&lt;i&gt;\nx</td>"));
  assert.deepEqual(await bundleOf([{ a: 1 }, { b: 1 }]), { "text/plain": "[ { a: 1 }, { b: 1 } ]" });
  assert.deepEqual(Object.keys(await bundleOf("<svgx>")), ["text/plain"]);
  assert.deepEqual(Object.keys(await bundleOf("<svg width='1'></svg>")), ["image/svg+xml", "text/plain"]);
  const own = { [DISPLAY]: () => ({ "text/plain": "mine" }) };
  assert.deepEqual(await bundleOf(own), { "text/plain": "mine" });
  assert.deepEqual(await bundleOf(null), { "text/plain": "null" });
});

gpuTest("tensors show shape, type, bytes and first numbers, by the key that Jupyter looks for", async () => {
  const values = Float32Array.from({ length: 900 }, (_, i) => i / 4);
  using t = tensor(values, [9, 100]);
  const own = (t as unknown as Record<symbol, () => Promise<Record<string, string>>>)[DISPLAY]!;
  const bundle = await own.call(t);
  const lines = bundle["text/plain"]!.split("\n");
  assert.equal(lines[0], "Tensor f32 [9, 100], 3.52 KiB");
  assert.equal(lines[1]!.trim().replace(/ +/g, " "), "0 0.2500 0.5000 0.7500 1 1.250 1.500 1.750 ...");
  assert.equal(lines.length, 1 + 8 + 1);
  assert.match(bundle["text/html"]!, /<svg/);
  assert.equal(Deno.inspect(t), "Tensor f32 [9, 100], 3.52 KiB", "in a terminal");
  using narrow = tensor([1, 2, 3, 4, 5, 6], [3, 2]);
  const few = (await presentTensor(narrow))["text/plain"] as string;
  assert.deepEqual(few.split("\n").slice(1).map((row) => row.trim().split(/ +/)), [["1", "2"], ["3", "4"], [
    "5",
    "6",
  ]]);
  using one = tensor([0.5], [1]);
  assert.equal((await presentTensor(one))["text/plain"], "Tensor f32 [1], 4 B\n   0.5000");
  one.dispose();
  assert.equal((await presentTensor(one))["text/plain"], "Tensor f32 [1], 4 B, given back");
});

gpuTest("a quantized tensor shows its bits, and the picture holds the codes of the oracle", async () => {
  const values = Float32Array.from({ length: 9 * 96 }, (_, i) => Math.sin(i));
  using t = tensor(values, [9, 96]);
  using q = quantize(t, { doubleQuant: false });
  const { "text/plain": text, "text/html": html } = await bundleOf(q) as Record<string, string>;
  assert.match(
    text!,
    /^QuantizedTensor nf4 \[9, 96\], 488 B\nblock size {2}scales .*\n64 {10}32 bits {2}4.519/,
  );
  const { packed, quantMap } = quantizeOracle(values, [9, 96]);
  const first = [...packed.subarray(0, 16)].flatMap((byte) => [byte >> 4, byte & 15]).map((c) =>
    quantMap[c]!
  );
  assert.ok(html!.includes("<svg") && first.some((v) => v < 0));
  assert.equal(Deno.inspect(q), "QuantizedTensor nf4 [9, 96], 488 B");
});

gpuTest("models, adapters, recipes and plans show themselves, and what made them is as it was", async () => {
  const model = await nibble.loadModel(MODEL, { quantization: "nf4" });
  const shown = await bundleOf(model) as Record<string, string>;
  assert.match(
    shown["text/plain"]!,
    /^llama of 5 blocks, 128 wide, 4 heads over 2, 1,\d{3},\d{3} parameters\n/,
  );
  assert.match(shown["text/html"]!, /model\.layers\.\*\.self_attn\.q_proj<\/td>.*nf4, 4\.1\d\d bits/);
  const adapter = nibble.addLora(model, { r: 4, lora_alpha: 8, target_modules: ["q_proj"] });
  assert.match(
    Deno.inspect(adapter),
    /^LoRA of rank 4 on 5 layers, 5,120 parameters\n.*\n2\.000 \(alpha 8\)/,
  );
  adapter.enabled = false;
  assert.match(Deno.inspect(adapter), /switched off/);
  assert.ok(
    !Object.keys(adapter).includes("toString") && JSON.stringify(Object.keys(model)).includes("config"),
  );
  adapter.dispose();
  model.dispose();

  const recipe = nibble.readRecipe(RECIPE, ["--lora_r=3"]);
  const table = (await bundleOf(recipe))["text/html"] as string;
  assert.match(table, /lora_r<\/td>.*?>3<\/td>.*?command line/);
  assert.match(Deno.inspect(recipe), /lora_r +3 +command line/);
});

gpuTest("a plan shows its bytes by kind, a finished run its losses and samples", async () => {
  const output_dir = Deno.makeTempDirSync({ prefix: "nibble-run-" });
  const settings = {
    ...{ model_name_or_path: MODEL, dataset_name: DATA, output_dir, use_peft: true, lora_r: 2 },
    ...{ max_length: 32, per_device_train_batch_size: 1, max_steps: 2, save_strategy: "no" },
    ...{ max_eval_samples: 1, eval_on_start: true, nibble_sample_prompts: ["Praise: the <i>"] },
  };
  const plan = await nibble.planMemory(settings);
  const rows = (await bundleOf(plan))["text/html"] as string;
  assert.match(rows, /^<p><b>2 steps over \d+ sequences of at most 32 tokens<\/b><\/p><table>/);
  for (const kind of ["base", "adapter", "gradient", "optimizer", "activation", "together"]) {
    assert.match(rows, new RegExp(`>${kind}</td><td [^>]*>[\\d.]+ [KM]iB</td>`));
  }
  assert.match(Deno.inspect(plan), /together +[\d.]+ MiB +at the peak/);

  const reporter = { note() {}, step() {}, log() {}, done() {} };
  const result = await nibble.train(settings, { reporter });
  Deno.removeSync(output_dir, { recursive: true });
  const run = (await bundleOf(result))["text/html"] as string;
  assert.match(run, /^<p><b>2 of 2 steps, \d+ s, [\d.]+ MiB of device memory at the peak: /);
  assert.match(run, />before<\/td><td [^>]*>\d\.\d{4}</);
  assert.match(run, />after<\/td><td [^>]*>\d\.\d{4}</);
  assert.match(run, /Praise: the &lt;i&gt;/, "what a data set says is text");
});

Deno.test("a presentation is not listed, copied or compared", () => {
  const thing = presented({ a: 1 }, ({ a }) => ({ title: `a is ${a}` }));
  assert.deepEqual({ ...thing }, { a: 1 });
  assert.deepEqual(thing, { a: 1 });
  assert.equal(Deno.inspect(thing), "a is 1");
});

Deno.test("tokens are told apart by more than colour, and their text is escaped", async () => {
  const tokenizer = await nibble.loadTokenizer(MODEL);
  const messages = [{ role: "user", content: "<b>" }, { role: "assistant", content: "I pray" }];
  const example = nibble.encodeChat(tokenizer, messages, { assistantOnly: true, row: 1 });
  const bundle = tokensBundle(tokenizer, example) as Record<string, string>;
  const spans = bundle["text/html"]!.match(/<span [^>]*>/g)!;
  assert.equal(spans.length, example.ids.length);
  assert.deepEqual(spans.map((s) => s.includes("underline")), example.trained);
  assert.ok(!bundle["text/html"]!.includes("<b>") && bundle["text/html"]!.includes("↵"));
  assert.match(bundle["text/plain"]!, /⟦.*pray.*⟧[\s\S]*\[\d+ tokens, \d+ trained/);
  const weights = tokensBundle(tokenizer, { ids: example.ids, weights: example.ids.map((_, i) => i) });
  assert.match(weights["text/html"] as string, /rgba\(0,114,178,0\.75\)/);
  const { log } = console;
  console.log = () => {};
  await showTokens(tokenizer, example).finally(() => console.log = log);
});
