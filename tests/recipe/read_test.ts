import assert from "node:assert/strict";
import type { NibbleError } from "../../lib/errors.ts";
import { explainRecipe, parseRecipe, readRecipe, recipeOf, writeRecipe } from "../../lib/recipe/mod.ts";
import { defaultSettings } from "../../lib/train/settings.ts";

const HEAD = "model_name_or_path: a/b\ndataset_name: c/d\n";
const read = (text: string, ...overrides: string[]) =>
  parseRecipe(HEAD + text, { file: "my.yaml", overrides });

/** Asserts that reading fails with this code and these words. */
function refuses(run: () => unknown, code: string, ...words: (string | RegExp)[]): void {
  assert.throws(run, (error: NibbleError) => {
    assert.equal(error.code, `recipe/${code}`, error.message);
    for (const word of words) assert.ok(error.message.match(word), `${word} is not in: ${error.message}`);
    return true;
  });
}

Deno.test("read: defaults, recipe, command line, in this order", () => {
  const { settings, provenance } = read("lora_r: 8\nuse_peft: true\nlora_alpha: 64\n", "--lora_r=4");
  assert.deepEqual(settings, {
    ...defaultSettings("sft"),
    model_name_or_path: "a/b",
    dataset_name: "c/d",
    use_peft: true,
    lora_alpha: 64,
    lora_r: 4,
  });
  assert.deepEqual(provenance.get("lora_r"), { from: "command line" });
  assert.deepEqual(provenance.get("lora_alpha"), { from: "recipe", file: "my.yaml", line: 5 });
  assert.deepEqual(provenance.get("lora_dropout"), { from: "default" });
  assert.deepEqual([...provenance.keys()].sort(), Object.keys(settings).sort());
});

Deno.test("read: old names are mapped, with a notice and in the provenance", () => {
  const text = "max_seq_length: 2048\nevaluation_strategy: epoch\ndtype: bfloat16\ntext_column: body\n";
  const { settings, provenance, notices } = read(text);
  assert.equal(settings.max_length, 2048);
  assert.equal(settings.eval_strategy, "epoch");
  assert.equal(settings.torch_dtype, "bfloat16");
  assert.equal(settings.dataset_text_field, "body");
  assert.deepEqual(provenance.get("max_length"), {
    from: "recipe",
    file: "my.yaml",
    line: 3,
    as: "max_seq_length",
  });
  assert.ok(notices.includes("my.yaml:3: max_seq_length is read as max_length"), notices.join("\n"));
});

Deno.test("read: names of transformers 5 and TRL 1.x", () => {
  const text = `model_name_or_path: a/b
datasets:
  - path: c/d
    name: default
    split: train
    columns: [messages]
    fraction: 0.5
test_split_size: 0.1
warmup_steps: 0.1
use_flash_attention_2: true
truncation_side: right
activation_checkpointing: true
streaming: true
train_sampling_strategy: random
packing: true
packing_strategy: bfd_split
`;
  const { settings, provenance, ignored } = parseRecipe(text);
  assert.deepEqual(settings.dataset_mixture, {
    datasets: [{ id: "c/d", config: "default", split: "train", columns: ["messages"], weight: 0.5 }],
    seed: 0,
    test_split_size: 0.1,
    rule: "trl",
  });
  assert.deepEqual([settings.warmup_ratio, settings.warmup_steps], [0.1, 0]);
  assert.equal(provenance.get("warmup_ratio")?.as, "warmup_steps");
  assert.equal(settings.truncation_mode, "keep_start");
  assert.deepEqual([settings.gradient_checkpointing, settings.dataset_streaming], [true, true]);
  assert.equal(settings.packing_strategy, "bfd_split");
  assert.deepEqual(ignored.map(({ key }) => key), ["use_flash_attention_2", "train_sampling_strategy"]);
  assert.equal(read("nibble_task: dpo\ntruncation_side: left\n").settings.truncation_mode, "keep_end");
  refuses(() => read("test_split_size: 0.1\n"), "unknown-key", "test_split_size", "my.yaml:3");
});

Deno.test("read: the same setting under two names", () => {
  assert.equal(read("max_length: 512\nmax_seq_length: 512\n").settings.max_length, 512);
  refuses(
    () => read("max_length: 512\nmax_seq_length: 2048\n"),
    "conflict",
    "max_seq_length",
    "my.yaml:3",
    "my.yaml:4",
  );
  refuses(() => read("", "--max_length=1024", "--max_seq_length=512"), "conflict", "command line");
  // The command line wins over the file under any of the names.
  assert.equal(read("max_seq_length: 2048\n", "--max_length=512").settings.max_length, 512);
  assert.equal(read("max_length: 2048\n", "--max_seq_length=512").settings.max_length, 512);
});

Deno.test("read: the last of equal options wins", () => {
  assert.equal(read("", "--lora_r=4", "--lora_r=8").settings.lora_r, 8);
});

Deno.test("read: unknown keys, all at once, with line and nearest name", () => {
  refuses(
    () => read("\nlearnign_rate: 1e-4\nlora_r: 8\nlora_alhpa: 3\nqqqqqqqq: 1\n"),
    "unknown-key",
    "learnign_rate (did you mean learning_rate?)".replaceAll(/[()?]/g, "\\$&"),
    /lora_alhpa \(did you mean lora_alpha\?\), qqqqqqqq\n/,
    "my.yaml:4, my.yaml:6, my.yaml:7",
  );
});

Deno.test("read: a wrong value names file, line and key as written", () => {
  refuses(
    () => read("use_peft: true\nmax_seq_length: long\n"),
    "bad-value",
    /where: my.yaml:4, max_seq_length/,
  );
  refuses(() => read("", "--lora_r=many"), "bad-value", /where: --lora_r/);
  refuses(() => read("dataset_mixer: {c/d: 7}\n"), "bad-mixture", "my.yaml:3");
});

Deno.test("read: text that YAML took for a number", () => {
  assert.equal(read("model_revision: 0123456 # a commit\n").settings.model_revision, "0123456");
  assert.equal(read("model_revision: 12345e7\n").settings.model_revision, "12345e7");
});

Deno.test("read: what is no recipe", () => {
  refuses(() => parseRecipe("- a\n- b\n"), "bad-yaml", /key: value/);
  refuses(() => parseRecipe(""), "bad-yaml", /empty/, /key: value/, /to do: .*recipes\//);
  refuses(() => readRecipe("recipes"), "unreadable", /is a folder/);
  refuses(() => parseRecipe('a: 1\nb: "open\n', { file: "my.yaml" }), "bad-yaml", /my.yaml:\d/);
  refuses(() => read("lora_r: 8\nlora_r: 16\n"), "bad-yaml", /my.yaml:4/);
  refuses(() => readRecipe("no/such/recipe.yaml"), "unreadable", /no such recipe/, "no/such/recipe.yaml");
});

Deno.test("read: model and data must be named, unless that is waived", () => {
  refuses(() => parseRecipe("dataset_name: a\n"), "no-model", "model_name_or_path");
  refuses(() => parseRecipe("model_name_or_path: a\n"), "no-dataset", "dataset_name");
  assert.equal(recipeOf({}, { complete: false }).settings.learning_rate, 2e-5);
});

Deno.test("read: words that are no options", () => {
  refuses(() => read("", "lora_r=8"), "stray-argument", "lora_r=8");
});

Deno.test("read: the older dialect keeps the ways of its scripts", () => {
  const text = "model_name_or_path: a/b\ndataset_mixer:\n  c/d: 0.5\ndataset_splits: [train_sft, test_sft]\n";
  const recipe = parseRecipe(text);
  assert.equal(recipe.dialect, "legacy");
  assert.deepEqual([recipe.settings.packing, recipe.settings.packing_strategy], [true, "wrapped"]);
  assert.equal(recipe.provenance.get("packing")?.why, "older dialect");
  assert.ok(recipe.notices.some((notice) => notice.startsWith("packing: true is assumed")));
  const off = parseRecipe(text, { overrides: ["--no_packing"] });
  assert.equal(off.settings.packing, false);
  assert.ok(!off.notices.some((notice) => notice.startsWith("packing:")));
  assert.equal(read("").dialect, "main");
  assert.equal(read("").settings.packing, false);
});

Deno.test("read: data named on the command line replaces the file's, whatever the dialect", () => {
  const text =
    "model_name_or_path: a/b\ndataset_mixture:\n  datasets:\n    - id: c/d\n  test_split_size: 10\n";
  const recipe = parseRecipe(text, { file: "my.yaml", overrides: ["--dataset_name=e/f"] });
  assert.equal(recipe.settings.dataset_name, "e/f");
  assert.equal(recipe.settings.dataset_mixture, null);
  assert.ok(recipe.notices.includes("my.yaml:2: dataset_mixture gives way to --dataset_name"));
});

Deno.test("read: keys without effect are told once, by reason", () => {
  const { notices, ignored } = read("bf16: true\nfp16: false\nhub_strategy: end\nlora_r: 8\n");
  assert.deepEqual(ignored.map(({ key, origin }) => [key, origin.line]), [["bf16", 3], ["fp16", 4]]);
  const told = notices.filter((notice) => notice.startsWith("No effect here"));
  assert.equal(told.length, 3);
  assert.ok(told.some((notice) => /bf16, fp16 \(WebGPU/.test(notice)), told.join("\n"));
  assert.ok(
    told.some((notice) => /hub_strategy \(only with push_to_hub: true\)/.test(notice)),
    told.join("\n"),
  );
  assert.ok(told.some((notice) => /lora_r \(only with use_peft: true\)/.test(notice)), told.join("\n"));
});

Deno.test("read: a secret is never repeated", () => {
  const recipe = read("push_to_hub: true\nhub_token: hf_secret\n");
  assert.equal(recipe.settings.hub_token, "hf_secret", "the upload needs it");
  const shown = [...recipe.notices, ...recipe.ignored.map((k) => JSON.stringify(k))].join();
  for (const text of [shown, explainRecipe(recipe), writeRecipe(recipe.settings)]) {
    assert.ok(!text.includes("hf_secret"), text);
  }
  assert.match(explainRecipe(recipe), /hub_token +\(kept secret\)/);
});

Deno.test("read: what is not built is refused unless it is switched off", () => {
  refuses(() => read("dataloader_drop_last: true\n"), "not-built", "dataloader_drop_last", "my.yaml:3");
  refuses(() => read("", "--load_in_8bit"), "not-built", "load_in_4bit");
  for (const off of ["dataloader_drop_last: false", "load_in_8bit: false", "label_smoothing_factor: 0.0"]) {
    read(off);
  }
});

Deno.test("read: from an object, as in a notebook", () => {
  const { settings, file } = recipeOf({
    model_name_or_path: "a/b",
    dataset_name: "c/d",
    learning_rate: "1e-3",
  });
  assert.equal(settings.learning_rate, 1e-3);
  assert.equal(file, undefined);
  refuses(() => recipeOf({ lora_rr: 8 }), "unknown-key", /where: recipe/);
});

Deno.test("read: two recipes share no state", () => {
  read("").settings.report_to.push("x");
  assert.deepEqual(read("").settings.report_to, []);
});
