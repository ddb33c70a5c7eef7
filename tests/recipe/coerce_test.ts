import assert from "node:assert/strict";
import { coerce, describe, show, toBool } from "../../lib/recipe/coerce.ts";
import type { NibbleError } from "../../lib/errors.ts";
import { type SettingName, settingOf } from "../../lib/train/settings.ts";

const source = { where: "config.yaml:3" };
const GOOD: [name: SettingName, given: unknown, value: unknown][] = [
  ["learning_rate", "1e-6", 1e-6], // PyYAML leaves 1e-6 as text
  ["learning_rate", "5.0e-7", 5e-7],
  ["learning_rate", 0, 0],
  ["max_length", "1_000", 1000], // YAML 1.1
  ["max_length", 2048, 2048],
  ["max_length", null, null],
  ["lora_r", "8", 8],
  ["lora_r", 16.0, 16],
  ["save_steps", 0.5, 0.5],
  ["packing", "yes", true],
  ["packing", "Off", false],
  ["packing", 1, true],
  ["eval_strategy", false, "no"], // PyYAML reads an unquoted no as false
  ["save_strategy", "no", "no"],
  ["eval_strategy", "Epoch", "epoch"],
  ["torch_dtype", null, null],
  ["torch_dtype", "bf16", "bfloat16"],
  ["report_to", "wandb", ["wandb"]],
  ["report_to", ["tensorboard", "wandb"], ["tensorboard", "wandb"]],
  ["lora_target_modules", "all-linear", "all-linear"],
  ["lora_target_modules", ["all-linear"], "all-linear"],
  ["lora_target_modules", "q_proj", ["q_proj"]],
  ["lora_target_modules", ["q_proj"], ["q_proj"]],
  ["lora_target_modules", ".*\\.(q|v)_proj", ".*\\.(q|v)_proj"],
  ["lora_target_modules", ["q_proj", "v_proj"], ["q_proj", "v_proj"]],
  ["optim", "adamw_torch_fused", "adamw_torch"],
  ["optim", "adamw_8bit", "adamw_bnb_8bit"],
  ["optim", "paged_adamw", "paged_adamw_32bit"],
  ["packing_strategy", "ffd", "bfd"],
  ["loss_type", ["ipo"], "ipo"],
  ["debug", "underflow_overflow", "underflow_overflow"],
  ["debug", ["underflow_overflow"], "underflow_overflow"], // Transformers takes a list too
  ["debug", "", ""],
  ["model_revision", "main", "main"],
  ["resume_from_checkpoint", true, "true"],
  ["lr_scheduler_kwargs", { min_lr_rate: 0.1 }, { min_lr_rate: 0.1 }],
  ["dataset_mixer", { "a/b": 0.5, "c/d": "1.0" }, { "a/b": 0.5, "c/d": 1 }],
];

for (const [name, given, value] of GOOD) {
  Deno.test(`coerce ${name}: ${show(given)}`, () => assert.deepEqual(coerce(name, given, source), value));
}

const BAD: [name: SettingName, given: unknown, message: RegExp][] = [
  ["learning_rate", "fast", /learning_rate must be a number, at least 0, got fast/],
  ["learning_rate", -1e-4, /at least 0, got -1e-4/],
  ["learning_rate", true, /a number/],
  ["learning_rate", null, /Give a value, or remove the line: the default is 2e-5/],
  ["learning_rate", "", /a number/],
  ["learning_rate", NaN, /a number/],
  ["lora_r", 0, /a whole number, at least 1, got 0/],
  ["lora_r", 8.5, /a whole number/],
  ["lora_r", [8], /a whole number/],
  ["lora_dropout", 1, /below 1/],
  ["warmup_ratio", 1.5, /at most 1/],
  ["adam_epsilon", 0, /above 0/],
  ["bnb_4bit_blocksize", 100, /one of 32, 64/],
  ["packing", "maybe", /true or false/],
  ["packing", 2, /true or false/],
  ["optim", "lomo", /one of adamw_torch, adamw_bnb_8bit, paged_adamw_32bit, paged_adamw_8bit, rmsprop/],
  ["optim", "paged_adam_8bit", /Did you mean paged_adamw_8bit\?/],
  ["lr_scheduler_type", "cosin", /Did you mean cosine\?/],
  ["lr_scheduler_type", "reduce_lr_on_plateau", /one of linear, cosine/],
  ["loss_type", ["sigmoid", "ipo"], /one of nll/],
  ["debug", "overflow", /one of underflow_overflow/],
  ["model_name_or_path", ["a"], /text/],
  ["report_to", { a: 1 }, /a list/],
  ["lr_scheduler_kwargs", "min_lr=1", /a mapping/],
  ["lr_scheduler_kwargs", [1], /a mapping/],
];

for (const [name, given, message] of BAD) {
  Deno.test(`coerce refuses ${name}: ${show(given)}`, () => {
    assert.throws(() => coerce(name, given, source), (error: NibbleError) => {
      assert.equal(error.code, "recipe/bad-value");
      assert.equal(error.where, "config.yaml:3");
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("coerce: text keeps what was written, not what YAML made of it", () => {
  assert.equal(coerce("model_revision", 1234500000, { ...source, raw: "12345e5" }), "12345e5");
  assert.equal(coerce("run_name", 1, { ...source, raw: "1.0" }), "1.0");
  assert.equal(coerce("run_name", true, source), "true");
});

Deno.test("toBool: undefined for what is no boolean", () => {
  assert.equal(toBool("TRUE"), true);
  assert.equal(toBool("n"), false);
  assert.equal(toBool("2"), undefined);
  assert.equal(toBool("recipe.yaml"), undefined);
});

Deno.test("describe and show are readable", () => {
  assert.equal(describe(settingOf("lora_dropout")), "a number, at least 0, below 1");
  assert.equal(describe(settingOf("eval_strategy")), "one of no, steps, epoch");
  assert.equal(describe(settingOf("max_length")), "a whole number, at least 2, or null");
  assert.equal(show(2e-5), "2e-5");
  assert.equal(show("two words"), '"two words"');
  assert.equal(show("null"), '"null"');
  assert.equal(show("8"), '"8"');
});
