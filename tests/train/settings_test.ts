import assert from "node:assert/strict";
import { coerce } from "../../lib/recipe/coerce.ts";
import { ALIASES, PART_OF, VALUE_ALIASES } from "../../lib/recipe/aliases.ts";
import { findOptimizer, OPTIMIZER_ALIASES, OPTIMIZERS, SCHEDULES } from "../../lib/optim/mod.ts";
import {
  datasetPlan,
  defaultSettings,
  IGNORED_KEYS,
  isSetting,
  noEffect,
  OLD_DIALECT,
  SETTING_GROUPS,
  type SettingName,
  settingOf,
  SETTINGS,
  type Task,
  UNBUILT_KEYS,
} from "../../lib/train/settings.ts";

const NAMES = Object.keys(SETTINGS) as SettingName[];
const TASKS: Task[] = ["sft", "dpo", "orpo", "cpt"];

Deno.test("settings: every default is a value that its own row allows", () => {
  for (const name of NAMES) {
    const { default: fallback, byTask, doc, from } = settingOf(name);
    for (const value of [fallback, ...Object.values(byTask ?? {})]) {
      assert.deepEqual(coerce(name, value, { where: name }), value, name);
    }
    assert.match(doc, /^[A-Za-z].*\.$/, `${name}: the text is a sentence`);
    assert.ok(from.length > 0, name);
  }
});

Deno.test("settings: rows refer to settings that exist and are of the right kind", () => {
  for (const name of NAMES) {
    const { needs, choices, type } = settingOf(name);
    if (needs) assert.equal(isSetting(needs) && settingOf(needs).type, "bool", `${name} needs ${needs}`);
    if (type.startsWith("choice")) assert.ok(choices && choices.length > 1, name);
  }
  for (const alias of ALIASES.values()) assert.ok(isSetting(alias.name));
  for (const [name, values] of Object.entries(VALUE_ALIASES)) {
    const choices = settingOf(name as SettingName).choices!;
    for (const [from, to] of Object.entries(values)) {
      assert.ok(choices.includes(to) && !choices.includes(from), `${name}: ${from} is read as ${to}`);
    }
  }
});

Deno.test("settings: the schedules and optimizers that can be named are those that exist", () => {
  assert.deepEqual([...SETTINGS.lr_scheduler_type.choices].sort(), [...SCHEDULES].sort());
  assert.deepEqual(SETTINGS.optim.choices, OPTIMIZERS);
  for (const name of [...OPTIMIZERS, ...Object.keys(OPTIMIZER_ALIASES)]) {
    assert.equal(coerce("optim", name, { where: "optim" }), findOptimizer(name).name);
  }
});

Deno.test("settings: each name stands in one place only", () => {
  const all = [
    ...NAMES,
    ...ALIASES.keys(),
    ...PART_OF.keys(),
    ...IGNORED_KEYS.keys(),
    ...UNBUILT_KEYS.keys(),
  ];
  assert.deepEqual(all.filter((name, i) => all.indexOf(name) !== i), []);
  const grouped = SETTING_GROUPS.flatMap(([, names]) => names);
  assert.deepEqual([...grouped].sort(), [...NAMES].sort());
  for (const name of NAMES) assert.ok(isSetting(name));
  assert.equal(isSetting("toString"), false);
});

Deno.test("settings: defaults of Trainer and TRL, and where tasks and dialects differ", () => {
  const sft = defaultSettings();
  assert.deepEqual([sft.learning_rate, sft.per_device_train_batch_size, sft.num_train_epochs], [2e-5, 8, 3]);
  assert.deepEqual([sft.lora_r, sft.lora_alpha, sft.lora_dropout, sft.max_grad_norm], [16, 32, 0.05, 1]);
  assert.deepEqual([sft.adam_beta1, sft.adam_beta2, sft.adam_epsilon, sft.weight_decay], [
    0.9,
    0.999,
    1e-8,
    0,
  ]);
  assert.deepEqual([sft.packing, sft.loss_type, sft.optim], [false, "nll", "adamw_torch"]);
  const dpo = defaultSettings("dpo");
  assert.deepEqual([dpo.learning_rate, dpo.loss_type, dpo.truncation_mode], [1e-6, "sigmoid", "keep_end"]);
  assert.equal(defaultSettings("dpo", "legacy").optim, "rmsprop");
  for (const task of TASKS) {
    assert.equal(defaultSettings(task).nibble_task, task);
    const legacy = defaultSettings(task, "legacy");
    for (const [name, value] of Object.entries(OLD_DIALECT[task])) {
      assert.equal(legacy[name as SettingName], value);
    }
  }
});

Deno.test("settings: defaults are copies", () => {
  defaultSettings().dataset_splits.push("x");
  assert.deepEqual(defaultSettings().dataset_splits, ["train", "test"]);
});

Deno.test("settings: what has no effect, and why", () => {
  const base = { ...defaultSettings(), use_peft: true };
  assert.equal(noEffect("lora_r", base), undefined);
  assert.equal(noEffect("lora_r", { ...base, use_peft: false }), "only with use_peft: true");
  assert.equal(noEffect("beta", base), "only in dpo, orpo, kto; this is sft");
  assert.match(noEffect("lora_dropout", { ...base, nibble_task: "dpo" })!, /disable_dropout/);
  assert.equal(noEffect("lora_dropout", { ...base, nibble_task: "dpo", disable_dropout: false }), undefined);
  assert.equal(noEffect("warmup_ratio", { ...base, warmup_steps: 3 }), "warmup_steps: 3 wins");
  assert.equal(noEffect("num_train_epochs", { ...base, max_steps: 5 }), "max_steps: 5 wins");
  assert.equal(noEffect("max_steps", { ...base, max_steps: 5 }), undefined);
  assert.match(noEffect("packing_strategy", base)!, /packing: true/);
  assert.equal(noEffect("debug", { ...base, debug: "underflow_overflow" }), undefined);
  assert.match(noEffect("debug", { ...base, debug: "tpu_metrics_debug" })!, /no TPU/);
  assert.match(noEffect("eval_steps", base)!, /eval_strategy: steps/);
  assert.match(noEffect("adam_beta1", { ...base, optim: "rmsprop" })!, /rmsprop/);
  assert.match(noEffect("dataset_config", base)!, /dataset_name/);
  assert.match(noEffect("adam_beta2", { ...base, optim: "sgd" })!, /sgd/);
  assert.equal(noEffect("adam_beta2", { ...base, optim: "paged_adamw_8bit" }), undefined);
  assert.match(noEffect("hub_strategy", base)!, /push_to_hub: true/);
  assert.match(noEffect("wandb_project", base)!, /report_to: wandb/);
  assert.equal(noEffect("report_to", { ...base, report_to: ["tensorboard"] }), undefined);
  assert.match(
    noEffect("report_to", { ...base, report_to: ["tensorboard", "comet_ml"] })!,
    /^comet_ml is not told/,
  );
});

Deno.test("data plan: a name is read as it is; the test split only where something evaluates", () => {
  const settings = {
    ...defaultSettings(),
    dataset_name: "a/b",
    dataset_config: "all",
    dataset_train_split: "tr",
  };
  const part = { id: "a/b", config: "all", columns: null, weight: 1, shuffleFirst: false };
  const plan = datasetPlan(settings);
  assert.deepEqual(plan.parts, [{ ...part, split: "tr", into: "train" }]);
  assert.deepEqual([plan.shuffleJoined, plan.testSize], [false, null]);
  for (const change of [{ do_eval: true }, { eval_on_start: true }, { eval_strategy: "steps" as const }]) {
    assert.deepEqual(datasetPlan({ ...settings, ...change }).parts[1], {
      ...part,
      split: "test",
      into: "test",
    });
  }
});

Deno.test("data plan: a mixture pours all into one pool and divides it", () => {
  const entry = { id: "a/b", config: "default", split: "train_sft", columns: ["messages"], weight: 0.5 };
  const dataset_mixture = {
    datasets: [entry, { ...entry, split: "test_sft" }],
    seed: 7,
    test_split_size: 10,
  };
  const plan = datasetPlan({ ...defaultSettings(), dataset_mixture, dataset_name: "loses" });
  assert.deepEqual(plan.parts[0], { ...entry, shuffleFirst: true, into: "pool" });
  assert.deepEqual(plan.parts.map((part) => part.into), ["pool", "pool"]);
  assert.deepEqual([plan.seed, plan.shuffleJoined, plan.testSize], [7, true, 10]);
});

Deno.test("data plan: a mixer takes the first training rows and whole test splits", () => {
  const plan = datasetPlan({
    ...defaultSettings(),
    dataset_mixer: { "a/b": 0.25, "c/d": 1 },
    dataset_splits: ["train_prefs", "test_prefs"],
    dataset_configs: ["one", "two"],
  });
  assert.deepEqual(
    plan.parts.map((
      { id, config, split, weight, into, shuffleFirst },
    ) => [id, config, split, weight, into, shuffleFirst]),
    [
      ["a/b", "one", "train_prefs", 0.25, "train", false],
      ["a/b", "one", "test_prefs", 1, "test", false],
      ["c/d", "two", "train_prefs", 1, "train", false],
      ["c/d", "two", "test_prefs", 1, "test", false],
    ],
  );
  assert.deepEqual([plan.seed, plan.shuffleJoined, plan.testSize], [42, true, null]);
});
