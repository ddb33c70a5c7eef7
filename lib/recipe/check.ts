/**
 * Settings that are each fine and cannot be together.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { readOptimArgs } from "../optim/catalog.ts";
import { checkSchedule } from "../optim/schedules.ts";
import { DPO_LOSSES } from "../train/objectives/losses.ts";
import {
  datasetPlan,
  defaultSettings,
  type SettingName,
  settingOf,
  type Task,
  type TrainSettings,
} from "../train/settings.ts";
import { same, show } from "./coerce.ts";

/** Where a setting was given, for messages; undefined where it has its default. */
export type Where = (name: SettingName) => string | undefined;

/** The losses of tasks that have several. */
const LOSSES: Readonly<Partial<Record<Task, readonly string[]>>> = { dpo: DPO_LOSSES, kto: ["kto"] };

/**
 * Refuses settings that contradict each other, as transformers, TRL and the handbook do.
 *
 * @throws NibbleError `recipe/needs-peft`, `recipe/reference-with-peft`, `recipe/lengths`, `recipe/loss`, `recipe/schedule`,
 *   `recipe/optim-args`, `recipe/best-model`, `recipe/output-dir`, `recipe/not-built`
 */
export function checkSettings(settings: TrainSettings, where: Where): void {
  const refuse = (code: string, what: string, name: SettingName, remedy: string): never => {
    const place = where(name);
    throw new NibbleError(`recipe/${code}`, what, place ? { where: place, remedy } : { remedy });
  };
  if (settings.load_in_4bit && !settings.use_peft) {
    const what = "load_in_4bit without use_peft: a base that is purely 4-bit cannot be trained";
    refuse("needs-peft", what, "load_in_4bit", "Set use_peft: true for QLoRA, or load_in_4bit: false.");
  }
  if (settings.ref_model !== null && settings.use_peft && settings.nibble_task === "dpo") {
    const what = "ref_model together with use_peft: the base without its adapters already is the reference";
    refuse("reference-with-peft", what, "ref_model", "Remove ref_model.");
  }
  if (settings.output_dir.trim() === "") {
    const what = "output_dir is empty: the result would be strewn over the current folder";
    refuse("output-dir", what, "output_dir", "Name a folder.");
  }
  const { max_length, max_prompt_length } = settings;
  const promptFirst = settings.nibble_task === "orpo" || settings.nibble_task === "kto";
  if (promptFirst && max_length !== null && max_prompt_length !== null && max_prompt_length >= max_length) {
    const what =
      `max_prompt_length: ${max_prompt_length} leaves answers no room in max_length: ${max_length}`;
    refuse(
      "lengths",
      what,
      "max_length",
      "Lower max_prompt_length: to it a prompt is cut where the whole is too long.",
    );
  }
  const losses = LOSSES[settings.nibble_task ?? "sft"];
  if (losses && !losses.includes(settings.loss_type)) {
    const what = `loss_type: ${settings.loss_type} is no loss of ${settings.nibble_task}`;
    refuse("loss", what, "loss_type", `Use ${losses.join(", ")}; or say by nibble_task what to train.`);
  }
  const { lr_scheduler_type, lr_scheduler_kwargs, optim, optim_args } = settings;
  const kwargs: SettingName = lr_scheduler_kwargs ? "lr_scheduler_kwargs" : "lr_scheduler_type";
  located(
    "schedule",
    where(kwargs),
    () => checkSchedule(lr_scheduler_type, settings.learning_rate, lr_scheduler_kwargs ?? {}),
  );
  located("optim-args", where("optim_args"), () => readOptimArgs(optim, optim_args));
  if (settings.save_strategy === "best" && settings.eval_strategy === "no") {
    refuse(
      "best-model",
      "save_strategy: best with eval_strategy: no: nothing tells which model is the best",
      "save_strategy",
      "Set eval_strategy to steps or epoch.",
    );
  }
  if (settings.chat_template !== null && settings.chat_template_path !== null) {
    refuse(
      "two-templates",
      "chat_template and chat_template_path both give a chat template",
      "chat_template_path",
      "Keep one of them.",
    );
  }
  const apart = settings.load_best_model_at_end ? savedApartFromEvaluation(settings) : undefined;
  if (apart) {
    refuse(
      "best-model",
      `load_best_model_at_end with ${apart}: the best would not be saved`,
      "load_best_model_at_end",
      "Give save_strategy and eval_strategy the same value, and let save_steps be a multiple of eval_steps.",
    );
  }
  if (settings.dataset_kwargs?.skip_prepare_dataset === true) {
    const what = "dataset_kwargs.skip_prepare_dataset: rows that are already tokens are not built";
    refuse("not-built", what, "dataset_kwargs", "Give rows with text or messages.");
  }
  const defaults = defaultSettings(settings.nibble_task ?? "sft");
  for (const name of Object.keys(defaults) as SettingName[]) {
    const { unbuilt } = settingOf(name);
    if (!unbuilt || same(settings[name], defaults[name])) continue;
    const what = `${name}: ${show(settings[name])} asks for something not built: ${unbuilt}`;
    refuse("not-built", what, name, `Remove ${name}.`);
  }
}

/** Runs another room's check; what it refuses is told with the place in the recipe. */
function located(code: string, place: string | undefined, check: () => void): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof NibbleError)) throw error;
    const { remedy, where } = error;
    throw new NibbleError(`recipe/${code}`, error.message.split("\n")[0]!, {
      ...(place || where ? { where: place ?? where! } : {}),
      ...(remedy ? { remedy } : {}),
      cause: error,
    });
  }
}

/** What keeps an evaluated model from being saved, as Trainer demands it of `load_best_model_at_end`. */
function savedApartFromEvaluation(s: TrainSettings): string | undefined {
  if (s.save_strategy === "best") return undefined;
  if (s.eval_strategy === "no" || s.eval_strategy !== s.save_strategy) {
    return `eval_strategy: ${s.eval_strategy} and save_strategy: ${s.save_strategy}`;
  }
  if (s.eval_strategy !== "steps") return undefined;
  const every = s.eval_steps ?? s.logging_steps;
  const shares = (every < 1 ? 1 : 0) + (s.save_steps < 1 ? 1 : 0);
  const times = s.save_steps / every; // a quotient of two shares is whole only up to rounding
  const whole = shares !== 1 && Math.abs(times - Math.round(times)) < 1e-6 && Math.round(times) > 0;
  return whole ? undefined : `save_steps: ${s.save_steps}, no multiple of ${every} steps between evaluations`;
}

/**
 * Refuses a run that names no model, no data, or evaluation without rows to evaluate on.
 *
 * @throws NibbleError `recipe/no-model`, `recipe/no-dataset`,
 *   `recipe/two-datasets`, `recipe/configs`, `recipe/bad-split`, `recipe/no-train-rows`,
 *   `recipe/no-test-rows`
 */
export function checkComplete(settings: TrainSettings, where: Where, file?: string): void {
  const at = (...names: SettingName[]) => {
    const place = names.map(where).filter(Boolean).join("; ") || file;
    return place ? { where: place } : {};
  };
  if (settings.model_name_or_path === null) {
    const fresh = settings.nibble_model_config !== null;
    throw new NibbleError("recipe/no-model", fresh ? "No model lends its tokenizer" : "No model is named", {
      ...at("nibble_model_config"),
      remedy: `Give model_name_or_path: a Hub name, a local folder${fresh ? "" : " or a .gguf file"}.`,
    });
  }
  const { dataset_name, dataset_mixture, dataset_mixer, dataset_configs } = settings;
  if (dataset_mixer && (dataset_mixture || dataset_name !== null)) {
    throw new NibbleError("recipe/two-datasets", "Data sets are named twice, in two dialects", {
      ...at("dataset_mixer", dataset_mixture ? "dataset_mixture" : "dataset_name"),
      remedy: "Keep one of dataset_mixture, dataset_mixer and dataset_name.",
    });
  }
  const mixed = Object.keys(dataset_mixer ?? {}).length;
  if (dataset_mixer && dataset_configs && dataset_configs.length !== mixed) {
    throw new NibbleError("recipe/configs", "dataset_configs must name one configuration for each data set", {
      ...at("dataset_configs"),
      remedy: `dataset_mixer names ${mixed}, dataset_configs ${dataset_configs.length}.`,
    });
  }
  const plan = datasetPlan(settings);
  const sides = new Set(plan.parts.map((part) => part.into));
  if (!sides.has("train") && !sides.has("pool")) {
    throw new NibbleError("recipe/no-train-rows", "No split to train on", {
      ...at("dataset_splits"),
      remedy: "Add a split whose name contains train.",
    });
  }
  const evaluates = settings.do_eval || settings.eval_on_start || settings.eval_strategy !== "no";
  if (evaluates && !sides.has("test") && plan.testSize === null) {
    const remedy = "Add test_split_size to dataset_mixture, or a test split to dataset_splits.";
    throw new NibbleError(
      "recipe/no-test-rows",
      "Evaluation is asked for, but no rows are set aside for it",
      {
        ...at(dataset_mixture ? "dataset_mixture" : "dataset_splits"),
        remedy,
      },
    );
  }
}
