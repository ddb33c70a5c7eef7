/**
 * Every setting that training reads, under its Hugging Face name: one table from which types, defaults,
 * reading, checks and `--help` follow.
 *
 * Defaults are those of Trainer (transformers 4.57), TRL 0.19 and the alignment-handbook; each row of the
 * table says which. Names that begin with `nibble_` are our own.
 *
 * @example
 * ```ts
 * import { defaultSettings, SETTINGS } from "./settings.ts";
 * const settings = { ...defaultSettings("dpo"), lora_r: 8 };
 * if (settings.learning_rate !== 1e-6) throw new Error("TRL's default for DPO");
 * if (SETTINGS.lora_r.default !== 16) throw new Error("TRL's default");
 * ```
 * @module
 */
import { findOptimizer, RULES } from "../optim/catalog.ts";
import { DATA, PREFERENCE, TEXT } from "./settings/data.ts";
import type { Dialect, Setting, Task, ValueOf } from "./settings/kinds.ts";
import { HUB, LOOP, NIBBLE, OPTIMIZER, OUTPUT } from "./settings/loop.ts";
import { ADAPTER, MODEL, QUANTIZATION } from "./settings/model.ts";

export {
  type DatasetPart,
  type DatasetPlan,
  datasetPlan,
  type DatasetSettings,
} from "./settings/datasets.ts";
export type {
  Choice,
  DatasetEntry,
  DatasetMixture,
  Dialect,
  Kind,
  KindTypes,
  Setting,
  Task,
  ValueOf,
} from "./settings/kinds.ts";
export { IGNORED_KEYS, UNBUILT_KEYS, type UnbuiltKey } from "./settings/foreign.ts";

/** The table: name to declaration. {@link settingOf} gives a row in its general type. */
export const SETTINGS = {
  ...MODEL,
  ...QUANTIZATION,
  ...ADAPTER,
  ...DATA,
  ...TEXT,
  ...PREFERENCE,
  ...OPTIMIZER,
  ...LOOP,
  ...OUTPUT,
  ...HUB,
  ...NIBBLE,
};

/** Name of a setting. */
export type SettingName = keyof typeof SETTINGS;

/** All settings of a run, complete: what is not given has its default. */
export type TrainSettings = { -readonly [K in SettingName]: ValueOf<(typeof SETTINGS)[K]> };

/** Headings and the settings under them, in the order of `--help` and of written recipes. */
export const SETTING_GROUPS: readonly (readonly [title: string, names: readonly SettingName[]])[] = [
  ["Model", names(MODEL)],
  ["Quantization of the base", names(QUANTIZATION)],
  ["Adapters (LoRA)", names(ADAPTER)],
  ["Data sets", names(DATA)],
  ["Text, tokens and loss", names(TEXT)],
  ["Preference training", names(PREFERENCE)],
  ["Optimizer and schedule", names(OPTIMIZER)],
  ["Batches, length, evaluation", names(LOOP)],
  ["Log, checkpoints, output", names(OUTPUT)],
  ["Upload to the Hub", names(HUB)],
  ["nibble", names(NIBBLE)],
];

function names<T extends Partial<Record<SettingName, Setting>>>(table: T): (keyof T & SettingName)[] {
  return Object.keys(table) as (keyof T & SettingName)[];
}

/** The declaration of a setting. */
export function settingOf(name: SettingName): Setting {
  return SETTINGS[name];
}

/** Whether a name is a setting of ours. */
export function isSetting(name: string): name is SettingName {
  return Object.hasOwn(SETTINGS, name);
}

/**
 * What the handbook's older scripts did without being told, where that differs from today's:
 * SFT and CPT always packed one long text into equal pieces and inserted empty system messages,
 * and the first step was logged; DPO ran RMSprop.
 */
export const OLD_DIALECT: Readonly<Record<Task, Partial<TrainSettings>>> = {
  sft: {
    packing: true,
    packing_strategy: "wrapped",
    auto_insert_empty_system_msg: true,
    logging_first_step: true,
  },
  cpt: { packing: true, packing_strategy: "wrapped", logging_first_step: true },
  dpo: { optim: "rmsprop", auto_insert_empty_system_msg: true, logging_first_step: true },
  orpo: { auto_insert_empty_system_msg: true },
  kto: {},
};

/**
 * Settings of a run that is told nothing.
 *
 * @param task some defaults differ by task, such as the learning rate
 * @param dialect `legacy` for recipes of the handbook's older scripts (see {@link OLD_DIALECT})
 */
export function defaultSettings(task: Task = "sft", dialect: Dialect = "main"): TrainSettings {
  const entries = (Object.keys(SETTINGS) as SettingName[]).map((name) => {
    const { default: fallback, byTask } = settingOf(name);
    const value = byTask && task in byTask ? byTask[task] : fallback;
    return [name, structuredClone(value)];
  });
  const settings = Object.fromEntries(entries) as TrainSettings;
  settings.nibble_task = task;
  return dialect === "legacy" ? Object.assign(settings, OLD_DIALECT[task]) : settings;
}

/**
 * Why a setting changes nothing in this run, or undefined where it does.
 *
 * @example
 * ```ts
 * import { defaultSettings, noEffect } from "./settings.ts";
 * const reason = noEffect("lora_r", { ...defaultSettings(), use_peft: false });
 * if (reason !== "only with use_peft: true") throw new Error(reason);
 * ```
 */
export function noEffect(name: SettingName, settings: TrainSettings): string | undefined {
  const row = settingOf(name);
  const task = settings.nibble_task ?? "sft";
  if (row.noEffect) return row.noEffect;
  if (row.tasks && !row.tasks.includes(task)) return `only in ${row.tasks.join(", ")}; this is ${task}`;
  if (row.needs && settings[row.needs as SettingName] !== true) return `only with ${row.needs}: true`;
  return CONDITIONS[name]?.(settings);
}

/** Conditions that a row cannot say. Each returns the reason, or undefined where the key has effect. */
const CONDITIONS: Partial<Record<SettingName, (s: TrainSettings) => string | undefined>> = {
  lora_dropout: (s) =>
    s.disable_dropout && ["dpo", "orpo", "kto"].includes(s.nibble_task ?? "sft")
      ? "disable_dropout: true switches it off"
      : undefined,
  dataset_name: (s) => s.dataset_mixture ? "dataset_mixture wins" : undefined,
  dataset_config: needsName,
  dataset_train_split: needsName,
  dataset_test_split: needsName,
  dataset_splits: (s) => s.dataset_mixer ? undefined : "only with dataset_mixer",
  dataset_configs: (s) => s.dataset_mixer ? undefined : "only with dataset_mixer",
  max_steps: (s) => s.max_steps > 0 ? undefined : "num_train_epochs decides",
  num_train_epochs: (s) => s.max_steps > 0 ? `max_steps: ${s.max_steps} wins` : undefined,
  warmup_ratio: (s) => s.warmup_steps > 0 ? `warmup_steps: ${s.warmup_steps} wins` : needsWarmUp(s),
  warmup_steps: needsWarmUp,
  eval_steps: (s) => s.eval_strategy === "steps" ? undefined : "only with eval_strategy: steps",
  logging_steps: (s) => s.logging_strategy === "steps" ? undefined : "only with logging_strategy: steps",
  save_steps: (s) => s.save_strategy === "steps" ? undefined : "only with save_strategy: steps",
  save_total_limit: (s) => s.save_strategy === "no" ? "save_strategy: no writes no checkpoints" : undefined,
  adam_beta1: (s) => needsReader(s, "adam_beta1"),
  adam_beta2: (s) => needsReader(s, "adam_beta2"),
  adam_epsilon: (s) => needsReader(s, "adam_epsilon"),
  report_to: toldTo,
  wandb_project: needsWandb,
  wandb_entity: needsWandb,
  wandb_run_group: needsWandb,
  metric_for_best_model: needsEvaluation,
  greater_is_better: needsEvaluation,
  save_only_model: (s) => s.save_strategy === "no" ? "save_strategy: no writes no checkpoints" : undefined,
  discopop_tau: (s) => s.loss_type === "discopop" ? undefined : "only with loss_type: discopop",
  eval_delay: needsEvaluation,
  debug: (s) => s.debug === "tpu_metrics_debug" ? "there is no TPU" : undefined,
  chat_template: needsMessages,
  chat_template_path: needsMessages,
};

function needsMessages(s: TrainSettings): string | undefined {
  return s.nibble_task === "cpt" ? "plain text is not rendered" : undefined;
}

function needsName(s: TrainSettings): string | undefined {
  return s.dataset_name !== null && !s.dataset_mixture ? undefined : "only with dataset_name";
}

function needsWarmUp(s: TrainSettings): string | undefined {
  return s.lr_scheduler_type === "constant" ? "lr_scheduler_type: constant has no warm-up" : undefined;
}

function needsReader({ optim }: TrainSettings, name: SettingName): string | undefined {
  const reads: readonly string[] = RULES[findOptimizer(optim).rule].reads;
  return reads.includes(name) ? undefined : `optim: ${optim} does not use it`;
}

const REPORTED = ["tensorboard", "wandb", "all", "none"];

function toldTo({ report_to }: TrainSettings): string | undefined {
  const others = report_to.filter((service) => !REPORTED.includes(service));
  return others.length ? `${others.join(", ")} is not told; TensorBoard files are written` : undefined;
}

function needsWandb({ report_to }: TrainSettings): string | undefined {
  return report_to.includes("wandb") || report_to.includes("all") ? undefined : "only with report_to: wandb";
}

function needsEvaluation(s: TrainSettings): string | undefined {
  return s.eval_strategy === "no" ? "nothing is evaluated on the way (eval_strategy: no)" : undefined;
}
