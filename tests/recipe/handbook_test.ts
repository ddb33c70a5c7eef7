/**
 * The alignment-handbook's recipes, read as they are. They lie beside the checkout, in ../shared/handbook;
 * where that folder is absent the tests are skipped and say so.
 */
import assert from "node:assert/strict";
import { parse } from "@std/yaml";
import { fromFileUrl } from "@std/path";
import { readRecipe, type Recipe, writeRecipe } from "../../lib/recipe/mod.ts";
import { isKnown } from "../../lib/recipe/names.ts";
import { parseRecipe } from "../../lib/recipe/mod.ts";
import {
  datasetPlan,
  defaultSettings,
  type SettingName,
  type TrainSettings,
} from "../../lib/train/settings.ts";

const shared = new URL("../../../shared/", import.meta.url);
const handbook = new URL("handbook/", shared);
const absent = !exists(handbook);

function exists(url: URL): boolean {
  try {
    Deno.statSync(url);
    return true;
  } catch {
    return false;
  }
}

function* recipesUnder(folder: URL): Generator<URL> {
  for (const entry of Deno.readDirSync(folder)) {
    if (entry.isDirectory) yield* recipesUnder(new URL(`${entry.name}/`, folder));
    else if (entry.name.endsWith(".yaml")) yield new URL(entry.name, folder);
  }
}

function test(name: string, fn: () => void, ignore = absent): void {
  Deno.test({ name: ignore ? `${name} (skipped: no ../shared)` : name, ignore, fn });
}

/** What differs from the task's defaults. */
function changed({ settings, task, dialect }: Recipe): Partial<TrainSettings> {
  const defaults = defaultSettings(task, dialect);
  const names = Object.keys(settings) as SettingName[];
  const entries = names.filter((name) => JSON.stringify(settings[name]) !== JSON.stringify(defaults[name]));
  return Object.fromEntries(entries.map((name) => [name, settings[name]]));
}

const read = (path: string, ...overrides: string[]) =>
  readRecipe(fromFileUrl(new URL(path, handbook)), overrides);
const LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

test("handbook: every recipe is read, and no key of it is lost", () => {
  const files = [...recipesUnder(handbook)];
  assert.equal(files.length, 22);
  for (const file of files) {
    const path = fromFileUrl(file);
    const recipe = readRecipe(path);
    const folder = path.split(/[\\/]/).at(-2);
    assert.equal(recipe.task, folder, path);
    const given = parse(Deno.readTextFileSync(file)) as Record<string, unknown>;
    const used = new Map([...recipe.provenance].map(([name, origin]) => [origin.as ?? name, origin]));
    const ignored = new Set(recipe.ignored.map(({ key }) => key));
    const lines = Deno.readTextFileSync(file).split("\n");
    for (const key of Object.keys(given)) {
      if (ignored.has(key)) continue;
      const origin = used.get(key);
      assert.equal(origin?.from, "recipe", `${path}: ${key}`);
      assert.ok(lines[origin!.line! - 1].startsWith(`${key}:`), `${path}: line of ${key}`);
    }
    assert.deepEqual(parseRecipe(writeRecipe(recipe.settings)).settings, recipe.settings, path);
    assert.ok(datasetPlan(recipe.settings).parts.length > 0);
  }
});

test("handbook: zephyr-7b-beta/sft/config_qlora.yaml in full", () => {
  const recipe = read("zephyr-7b-beta/sft/config_qlora.yaml");
  const { chat_template, ...rest } = changed(recipe);
  assert.equal(chat_template?.length, 410);
  assert.ok(chat_template?.startsWith("{% for message in messages %}\n{% if message['role'] == 'user' %}\n"));
  const part = { id: "HuggingFaceH4/ultrachat_200k", config: "default", columns: ["messages"], weight: 1 };
  assert.deepEqual(rest, {
    model_name_or_path: "mistralai/Mistral-7B-v0.1",
    torch_dtype: "bfloat16",
    load_in_4bit: true,
    use_peft: true,
    lora_alpha: 16,
    lora_target_modules: LINEAR,
    dataset_mixture: {
      datasets: [{ ...part, split: "train_sft" }, { ...part, split: "test_sft" }],
      seed: 0,
      test_split_size: 1000,
    },
    do_eval: true,
    eval_strategy: "epoch",
    gradient_accumulation_steps: 2,
    gradient_checkpointing: true,
    hub_model_id: "zephyr-7b-sft-qlora",
    learning_rate: 2e-4,
    logging_steps: 5,
    lr_scheduler_type: "cosine",
    max_length: 2048,
    num_train_epochs: 1,
    output_dir: "data/zephyr-7b-sft-qlora",
    per_device_train_batch_size: 4,
    push_to_hub: true,
    report_to: ["tensorboard"],
    save_steps: 100,
    save_total_limit: 1,
    warmup_ratio: 0.1,
  });
  // Equal to their defaults, and yet what the recipe relies on.
  const { settings } = recipe;
  assert.deepEqual([settings.lora_r, settings.lora_dropout, settings.seed], [16, 0.05, 42]);
  assert.deepEqual([settings.bnb_4bit_quant_type, settings.use_bnb_nested_quant], ["nf4", false]);
  assert.deepEqual([settings.per_device_eval_batch_size, settings.max_steps], [8, -1]);
  assert.deepEqual([recipe.task, recipe.dialect, settings.packing], ["sft", "main", false]);
  assert.deepEqual(recipe.ignored.map(({ key }) => key), [
    "attn_implementation",
    "dataset_num_proc",
    "bf16",
    "gradient_checkpointing_kwargs",
    "log_level",
    "overwrite_output_dir",
  ]);
});

test("handbook: zephyr-7b-beta/dpo/config_qlora.yaml in full", () => {
  const recipe = read("zephyr-7b-beta/dpo/config_qlora.yaml");
  assert.deepEqual(changed(recipe), {
    model_name_or_path: "alignment-handbook/zephyr-7b-sft-qlora",
    torch_dtype: "bfloat16",
    use_peft: true,
    load_in_4bit: true,
    lora_r: 128,
    lora_alpha: 128,
    lora_target_modules: LINEAR,
    dataset_mixer: { "HuggingFaceH4/ultrafeedback_binarized": 1 },
    dataset_splits: ["train_prefs", "test_prefs"],
    beta: 0.01,
    do_eval: true,
    eval_strategy: "steps",
    eval_steps: 100,
    gradient_accumulation_steps: 4,
    gradient_checkpointing: true,
    hub_model_id: "zephyr-7b-dpo-qlora",
    learning_rate: 5e-6,
    lr_scheduler_type: "cosine",
    num_train_epochs: 1,
    optim: "paged_adamw_32bit",
    output_dir: "data/zephyr-7b-dpo-qlora",
    per_device_train_batch_size: 4,
    push_to_hub: true,
    save_steps: 100,
    save_total_limit: 1,
    warmup_ratio: 0.1,
  });
  const { settings } = recipe;
  assert.deepEqual([settings.max_length, settings.max_prompt_length, settings.logging_steps], [
    1024,
    512,
    10,
  ]);
  assert.deepEqual([settings.loss_type, settings.ref_model, settings.lora_dropout], ["sigmoid", null, 0.05]);
  assert.deepEqual([recipe.task, recipe.dialect], ["dpo", "legacy"]);
  const plan = datasetPlan(settings);
  assert.deepEqual(plan.parts.map(({ split, into, weight }) => [split, into, weight]), [
    ["train_prefs", "train", 1],
    ["test_prefs", "test", 1],
  ]);
  assert.equal(plan.testSize, null);
});

test("handbook: values that need care", () => {
  assert.equal(read("constitutional-ai/dpo/config_anthropic.yaml").settings.torch_dtype, null);
  assert.equal(read("constitutional-ai/dpo/config_anthropic.yaml").settings.optim, "rmsprop");
  assert.equal(read("smollm/sft/config.yaml").settings.save_strategy, "no");
  assert.equal(read("smollm/sft/config.yaml").settings.dataset_mixture?.test_split_size, 0.05);
  assert.equal(read("smollm3/dpo/apo.yaml").settings.save_steps, 0.5);
  assert.equal(read("smollm3/dpo/apo.yaml").settings.loss_type, "apo_zero");
  assert.equal(read("smollm3/sft/sft.yaml").settings.packing_strategy, "bfd");
  assert.equal(read("smollm3/sft/sft.yaml").settings.dataset_mixture?.datasets.length, 25);
  assert.equal(read("smollm3/sft/sft.yaml").settings.chat_template?.length, 4558);
  assert.equal(read("smollm2/sft/config.yaml").settings.dataset_config, "all");
  const orpo = read("zephyr-141b-A35b/orpo/config_full.yaml").settings;
  assert.deepEqual([orpo.lr_scheduler_type, orpo.optim, orpo.warmup_steps], [
    "inverse_sqrt",
    "adamw_bnb_8bit",
    100,
  ]);
});

test("handbook: the command line turns QLoRA into LoRA and into a smaller run", () => {
  const { settings } = read(
    "zephyr-7b-beta/sft/config_qlora.yaml",
    "--load_in_4bit=false",
    "--lora_r=8",
    "--max_steps",
    "20",
    "--lora_target_modules=[q_proj,v_proj]",
  );
  assert.deepEqual([settings.load_in_4bit, settings.lora_r, settings.max_steps], [false, 8, 20]);
  assert.deepEqual(settings.lora_target_modules, ["q_proj", "v_proj"]);
});

const formats = new URL("reference/formats.md", shared);
test("handbook: every field of Trainer's and TRL's classes is known by name", () => {
  const lines = Deno.readTextFileSync(formats).split("\n");
  const classes =
    /^- \*\*(TrainingArguments|TRL (0\.9\.6|0\.19\.1|HEAD) (ModelConfig|SFTConfig|DPOConfig|ORPOConfig))/;
  const lists = lines.filter((line) => classes.test(line));
  assert.equal(lists.length, 12);
  const fields = new Set(lists.flatMap((line) => [...line.matchAll(/`(\w+)`:/g)].map((match) => match[1])));
  assert.ok(fields.size > 150);
  const missing = [...fields].filter((field) => !isKnown(field));
  assert.deepEqual(missing, []);
}, !exists(formats));
