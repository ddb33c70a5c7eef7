/** The recipes that come with nibble. */
import assert from "node:assert/strict";
import { fromFileUrl } from "@std/path";
import { parse } from "@std/yaml";
import { readRecipe } from "../../lib/recipe/mod.ts";

const read = (path: string) => readRecipe(fromFileUrl(new URL(`../../recipes/${path}`, import.meta.url)));
const OWN = ["smollm2-135m/sft/config_qlora.yaml", "quickstart/config.yaml", "quickstart/pretrain.yaml"];

for (const path of OWN) {
  Deno.test(`recipes/${path}: no key is idle, old or unexplained`, () => {
    const recipe = read(path);
    assert.deepEqual(recipe.notices, []);
    assert.deepEqual(recipe.ignored, []);
    const text = Deno.readTextFileSync(recipe.file!);
    for (const key of Object.keys(parse(text) as Record<string, unknown>)) {
      if (key === "nibble_sample_prompts") continue; // the line above the list says what it is
      assert.match(text, new RegExp(`^${key}:.* # \\w`, "m"), `${key} has no comment`);
    }
  });
}

Deno.test("recipes/smollm2-135m: QLoRA with double quantization", () => {
  const { settings, task } = read(OWN[0]);
  assert.equal(task, "sft");
  assert.deepEqual([settings.load_in_4bit, settings.use_peft, settings.use_bnb_nested_quant], [
    true,
    true,
    true,
  ]);
  assert.deepEqual([settings.lora_r, settings.lora_alpha, settings.lora_target_modules], [
    16,
    32,
    "all-linear",
  ]);
  assert.deepEqual([settings.max_length, settings.learning_rate, settings.logging_steps], [128, 1e-3, 1]);
  assert.deepEqual([settings.eval_on_start, settings.do_eval, settings.assistant_only_loss], [
    true,
    true,
    true,
  ]);
});

Deno.test("recipes/quickstart: QLoRA, and training from nothing", () => {
  assert.deepEqual([read(OWN[1]).task, read(OWN[1]).settings.load_in_4bit], ["sft", true]);
  const { settings, task } = read(OWN[2]);
  assert.deepEqual([task, settings.use_peft, settings.load_in_4bit], ["cpt", false, false]);
  const { hidden_size, num_attention_heads } = settings.nibble_model_config as Record<string, number>;
  assert.equal(hidden_size % num_attention_heads, 0);
});
