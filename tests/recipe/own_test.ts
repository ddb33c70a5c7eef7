/** The recipes that come with nibble. */
import assert from "node:assert/strict";
import { fromFileUrl } from "@std/path";
import { parse } from "@std/yaml";
import { KNOWN_CONFIGS } from "../../lib/model/known_configs.ts";
import { readRecipe } from "../../lib/recipe/mod.ts";

const read = (path: string) => readRecipe(fromFileUrl(new URL(`../../recipes/${path}`, import.meta.url)));
const OWN = [
  "smollm2-135m/sft/config_qlora.yaml",
  "quickstart/config.yaml",
  "quickstart/pretrain.yaml",
  "smollm2-135m/dpo/config_qlora.yaml",
  "smollm2-135m/orpo/config_qlora.yaml",
  "smollm2-135m/sft/config_lora.yaml",
  "smollm2-135m/sft/config_full.yaml",
  "smollm2-135m/cpt/config_full.yaml",
  "zephyr-7b-beta/sft/config_qlora.yaml",
];

Deno.test("recipes: all of them are tested here", () => {
  const found: string[] = [];
  const walk = (folder: string) => {
    for (
      const { name, isDirectory } of Deno.readDirSync(new URL(`../../recipes/${folder}`, import.meta.url))
    ) {
      if (isDirectory) walk(`${folder}${name}/`);
      else if (name.endsWith(".yaml")) found.push(folder + name);
    }
  };
  walk("");
  assert.deepEqual(found.sort(), OWN.toSorted());
});

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

Deno.test("recipes/smollm2-135m: DPO goes on from SFT's adapter, ORPO from the model itself", () => {
  const sft = read(OWN[0]).settings, dpo = read(OWN[3]), orpo = read(OWN[4]);
  assert.deepEqual([dpo.task, orpo.task], ["dpo", "orpo"]);
  assert.equal(dpo.settings.model_name_or_path, sft.output_dir);
  assert.equal(orpo.settings.model_name_or_path, sft.model_name_or_path);
  const { lora_r, learning_rate, optim, loss_type } = dpo.settings;
  assert.deepEqual([lora_r, learning_rate, optim, loss_type], [128, 5e-6, "paged_adamw_32bit", "sigmoid"]);
});

Deno.test("recipes/smollm2-135m: LoRA and full fine-tuning differ from QLoRA in what they are about", () => {
  const qlora = read(OWN[0]).settings;
  const differences = (path: string) => {
    const { settings } = read(path);
    return (Object.keys(settings) as (keyof typeof settings)[])
      .filter((name) => JSON.stringify(settings[name]) !== JSON.stringify(qlora[name]));
  };
  assert.deepEqual(differences("smollm2-135m/sft/config_lora.yaml").sort(), [
    ...["load_in_4bit", "output_dir", "torch_dtype", "use_bnb_nested_quant"],
  ]);
  const full = differences("smollm2-135m/sft/config_full.yaml");
  for (const name of ["use_peft", "load_in_4bit", "learning_rate", "optim"] as const) {
    assert.ok(full.includes(name), name);
  }
  for (const name of ["dataset_name", "max_length", "max_steps", "seed"] as const) {
    assert.ok(!full.includes(name), name);
  }
});

Deno.test("recipes: continued pre-training on plain text, and the shapes of a 7B model", () => {
  const { settings: cpt, task } = read("smollm2-135m/cpt/config_full.yaml");
  assert.deepEqual([task, cpt.use_peft, cpt.packing_strategy], ["cpt", false, "wrapped"]);
  const { settings } = read("zephyr-7b-beta/sft/config_qlora.yaml");
  assert.deepEqual([settings.lora_r, settings.max_length, settings.per_device_train_batch_size], [
    16,
    512,
    1,
  ]);
  assert.deepEqual([settings.use_bnb_nested_quant, settings.gradient_checkpointing], [true, true]);
  assert.equal(settings.lora_target_modules?.length, 7);
  const { hidden_size, num_hidden_layers } = KNOWN_CONFIGS[settings.model_name_or_path!]!;
  assert.deepEqual([hidden_size, num_hidden_layers], [4096, 32]);
});
