import assert from "node:assert/strict";
import type { NibbleError } from "../../lib/errors.ts";
import { parseRecipe } from "../../lib/recipe/mod.ts";

const MODEL = "model_name_or_path: a/b\n";
const DATA = "dataset_name: c/d\n";
const MIXER = "dataset_mixer: {c/d: 1.0}\n";

/** Code, recipe, and words of the message. */
const REFUSED: [code: string, text: string, ...words: RegExp[]][] = [
  ["needs-peft", `${MODEL}${DATA}load_in_4bit: true\n`, /purely 4-bit/, /where: my.yaml:3/, /use_peft: true/],
  [
    "reference-with-peft",
    `${MODEL}${DATA}use_peft: true\nref_model: a/b\nnibble_task: dpo\n`,
    /my.yaml:4/,
    /Remove/,
  ],
  [
    "lengths",
    `${MODEL}${DATA}nibble_task: orpo\nmax_length: 200\n`,
    /512 leaves answers no room/,
    /my.yaml:4/,
  ],
  ["loss", `${MODEL}${DATA}nibble_task: dpo\nloss_type: kto\n`, /no loss of dpo/, /my.yaml:4/, /kto_pair/],
  ["loss", `${MODEL}${DATA}nibble_task: kto\nloss_type: ipo\n`, /no loss of kto/, /Use kto/],
  ["schedule", `${MODEL}${DATA}lr_scheduler_type: cosine_with_min_lr\n`, /min_lr_rate/, /my.yaml:3/],
  ["schedule", `${MODEL}${DATA}lr_scheduler_type: warmup_stable_decay\n`, /num_decay_steps/, /my.yaml:3/],
  [
    "schedule",
    `${MODEL}${DATA}lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {min_lr: 1e-6}\n`,
    /no argument 'min_lr'.*my.yaml:4.*It takes power, lr_end/s,
  ],
  [
    "optim-args",
    `${MODEL}${DATA}optim: sgd\noptim_args: momentum\n`,
    /'momentum' is not name=value/,
    /my.yaml:4/,
  ],
  [
    "optim-args",
    `${MODEL}${DATA}optim: sgd\noptim_args: beta=1\n`,
    /momentum, dampening, nesterov/,
    /my.yaml:4/,
  ],
  [
    "optim-args",
    `${MODEL}${DATA}optim_args: rank=8\n`,
    /adamw_torch takes no argument 'rank'/,
    /It takes none/,
  ],
  ["output-dir", `${MODEL}${DATA}output_dir: ""\n`, /current folder/, /my.yaml:3/, /Name a folder/],
  ["not-built", `${MODEL}${DATA}dataset_kwargs: {skip_prepare_dataset: true}\n`, /tokens/],
  [
    "no-model",
    `${DATA}nibble_model_config: {model_type: llama}\n`,
    /lends its tokenizer/,
    /my.yaml:2/,
  ],
  ["best-model", `${MODEL}${DATA}save_strategy: best\n`, /nothing tells/, /my.yaml:3/, /eval_strategy/],
  [
    "two-templates",
    `${MODEL}${DATA}chat_template: a\nchat_template_path: b\n`,
    /both give/,
    /my.yaml:4/,
    /Keep one/,
  ],
  ["best-model", `${MODEL}${DATA}load_best_model_at_end: true\n`, /eval_strategy: no/, /my.yaml:3/],
  [
    "best-model",
    `${MODEL}${DATA}load_best_model_at_end: true\neval_strategy: epoch\n`,
    /eval_strategy: epoch and save_strategy: steps/,
  ],
  [
    "best-model",
    `${MODEL}${DATA}load_best_model_at_end: true\neval_strategy: steps\neval_steps: 40\nsave_steps: 100\n`,
    /save_steps: 100, no multiple of 40 steps/,
  ],
  [
    "best-model",
    `${MODEL}${DATA}load_best_model_at_end: true\neval_strategy: steps\neval_steps: 0.1\nsave_steps: 100\n`,
    /no multiple of 0.1/,
  ],
  ["two-datasets", `${MODEL}${DATA}${MIXER}`, /my.yaml:3; my.yaml:2/],
  ["configs", `${MODEL}${MIXER}dataset_configs: [a, b]\n`, /dataset_mixer names 1, dataset_configs 2/],
  ["bad-split", `${MODEL}${MIXER}dataset_splits: [validation]\n`, /"validation" says neither train nor test/],
  ["no-train-rows", `${MODEL}${MIXER}dataset_splits: [test]\n`, /No split to train on/],
  ["no-test-rows", `${MODEL}${MIXER}dataset_splits: [train]\ndo_eval: true\n`, /my.yaml:3/],
  [
    "no-test-rows",
    `${MODEL}eval_strategy: epoch\ndataset_mixture: {datasets: [{id: c/d}]}\n`,
    /test_split_size/,
  ],
];

for (const [code, text, ...words] of REFUSED) {
  Deno.test(`check refuses ${code}: ${text.split("\n").slice(1).join(" ").trim()}`, () => {
    assert.throws(() => parseRecipe(text, { file: "my.yaml" }), (error: NibbleError) => {
      assert.equal(error.code, `recipe/${code}`, error.message);
      for (const word of words) assert.match(error.message, word);
      return true;
    });
  });
}

/** The same, mended as the message says. */
const ACCEPTED = [
  `${MODEL}${DATA}load_in_4bit: true\nuse_peft: true\n`,
  `${MODEL}${DATA}use_peft: true\nref_model: null\nnibble_task: dpo\n`,
  `${MODEL}${DATA}ref_model: a/b\nnibble_task: dpo\n`,
  `${MODEL}${DATA}lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-6}\n`,
  `${MODEL}${DATA}lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {num_decay_steps: 9}\n`,
  `${MODEL}${DATA}optim: sgd\noptim_args: momentum=0.9, nesterov=True\n`,
  `${MODEL}${DATA}nibble_model_config: {model_type: llama}\n`,
  `${MODEL}${DATA}nibble_task: dpo\nloss_type: kto_pair\nmax_length: 200\n`,
  `${MODEL}${DATA}truncation_mode: keep_end\n`,
  `${MODEL}${DATA}load_best_model_at_end: true\neval_strategy: steps\neval_steps: 50\nsave_steps: 100\n`,
  `${MODEL}${DATA}load_best_model_at_end: true\neval_strategy: steps\neval_steps: 0.1\nsave_steps: 0.3\n`,
  `${MODEL}${MIXER}dataset_configs: [a]\n`,
  `${MODEL}${MIXER}dataset_splits: [train_sft]\n`,
  `${MODEL}eval_strategy: epoch\ndataset_mixture: {datasets: [{id: c/d}], test_split_size: 0.1}\n`,
];

for (const text of ACCEPTED) {
  Deno.test(`check accepts: ${text.split("\n").slice(1).join(" ").trim()}`, () => {
    assert.ok(parseRecipe(text).settings);
  });
}

Deno.test("check: a contradiction made on the command line says so", () => {
  const text = `${MODEL}${DATA}load_in_4bit: true\nuse_peft: true\n`;
  assert.throws(() => parseRecipe(text, { overrides: ["--no_use_peft"] }), /purely 4-bit/);
  assert.throws(() => parseRecipe(MODEL + DATA, { overrides: ["--load_in_4bit"] }), /where: command line/);
});

Deno.test("check: --load_in_4bit=false turns a QLoRA recipe into LoRA", () => {
  const text = `${MODEL}${DATA}load_in_4bit: true\nuse_peft: true\nbnb_4bit_quant_type: fp4\n`;
  const { settings, notices } = parseRecipe(text, { overrides: ["--load_in_4bit=false"] });
  assert.deepEqual([settings.load_in_4bit, settings.use_peft], [false, true]);
  assert.ok(notices.some((notice) => notice.includes("bnb_4bit_quant_type (only with load_in_4bit: true)")));
});
