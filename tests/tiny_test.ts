/**
 * The embedded model: what it is, that it loads in f32 and in four bits, and that it writes.
 * @module
 */
import assert from "node:assert/strict";
import { openModel } from "../lib/formats/mod.ts";
import { generate } from "../lib/model/generate.ts";
import { buildModel } from "../lib/model/load.ts";
import { evaluate } from "../lib/train/evaluate.ts";
import { sft } from "../lib/train/objectives/sft.ts";
import { defaultSettings } from "../lib/train/settings.ts";
import { evalBatches } from "../lib/train/prepare.ts";
import { prepareText } from "../lib/train/prepare_text.ts";
import { readRows } from "../lib/data/mod.ts";
import { createTokenizer, encodeChatPrompt } from "../lib/text/mod.ts";
import { gpuTest } from "./gpu_helper.ts";
import { warmDevice } from "./model/tiny.ts";

await warmDevice();

const at = (name: string) => new URL(`../assets/${name}`, import.meta.url).pathname;

gpuTest("the embedded base knows Shakespeare's words, in f32 and nearly so in NF4", async () => {
  const files = openModel(at("models/tiny"));
  const tokenizer = createTokenizer(files);
  assert.equal(tokenizer.vocabSize, files.config.vocab_size);
  const s = { ...defaultSettings("cpt"), max_length: 128, per_device_eval_batch_size: 8 };
  const rows = await readRows(at("data/shakespeare/test.jsonl"));
  const side = prepareText(rows.slice(0, 8), tokenizer, s, "eval");
  const batches = evalBatches(side, s);
  const losses: number[] = [];
  for (const quantization of [undefined, { quantType: "nf4", blocksize: 64, doubleQuant: true } as const]) {
    const model = await buildModel(files.config, files.source, { quantization });
    const parameters = model.summary.parameters;
    assert.ok(parameters >= 1e6 && parameters <= 3e6, `${parameters} parameters`);
    losses.push((await evaluate(sft, model, batches)).eval_loss);
    const prompt = encodeChatPrompt(tokenizer, [{ role: "user", content: "Speak of love" }]);
    const { ids } = await generate(model, prompt, { max_new_tokens: 12 });
    assert.ok(tokenizer.decode(ids, { skipSpecialTokens: true }).length > 0);
    model.dispose();
  }
  files.source.close();
  const [plain, nf4] = losses as [number, number];
  assert.ok(plain < 0.75 * Math.log(2048), `loss ${plain}; knowing nothing would be ${Math.log(2048)}`);
  assert.ok(Math.abs(nf4 - plain) < 0.1 * plain, `NF4 ${nf4}, f32 ${plain}`);
});
