/**
 * Older and newer names of the same setting, and of the same value.
 * @module
 */
import { OPTIMIZER_ALIASES } from "../optim/catalog.ts";
import type { SettingName } from "../train/settings.ts";

/** Another name of a setting. */
export interface Alias {
  /** Today's name here. */
  readonly name: SettingName;
  /** Turns the value into today's; `all` holds the file's other keys. */
  readonly convert?: (value: unknown, all: ReadonlyMap<string, unknown>) => unknown;
}

/** Name in some generation of the Python stack to the setting it is. */
export const ALIASES: ReadonlyMap<string, Alias> = new Map<string, Alias>([
  ["max_seq_length", { name: "max_length" }],
  ["evaluation_strategy", { name: "eval_strategy" }],
  ["dtype", { name: "torch_dtype" }],
  ["text_column", { name: "dataset_text_field" }],
  ["bnb_4bit_use_double_quant", { name: "use_bnb_nested_quant" }],
  ["activation_checkpointing", { name: "gradient_checkpointing" }],
  ["streaming", { name: "dataset_streaming" }],
  ["random_weights", { name: "nibble_random_weights" }],
  ["hub_model_revision", { name: "hub_revision" }],
  ["push_to_hub_model_id", { name: "hub_model_id" }],
  ["push_to_hub_token", { name: "hub_token" }],
  ["per_gpu_train_batch_size", { name: "per_device_train_batch_size" }],
  ["per_gpu_eval_batch_size", { name: "per_device_eval_batch_size" }],
  ["truncation_side", { name: "truncation_mode", convert: (side) => SIDES.get(side) ?? side }],
  ["datasets", { name: "dataset_mixture", convert: mixtureFromList }],
]);

// The side that is cut away; the mode names the end that is kept.
const SIDES = new Map<unknown, string>([["left", "keep_end"], ["right", "keep_start"]]);

/** TRL 1.x: a list of {path, name, split, columns, fraction} beside a top-level `test_split_size`, mixed by its rule. */
function mixtureFromList(list: unknown, all: ReadonlyMap<string, unknown>): unknown {
  if (!Array.isArray(list)) return list;
  const names = new Map([["path", "id"], ["name", "config"], ["fraction", "weight"]]);
  const datasets = list.map((entry) =>
    entry !== null && typeof entry === "object"
      ? Object.fromEntries(Object.entries(entry).map(([key, value]) => [names.get(key) ?? key, value]))
      : entry
  );
  return { datasets, test_split_size: all.get("test_split_size") ?? null, rule: "trl" };
}

/** Keys that belong to another one and mean nothing without it. */
export const PART_OF: ReadonlyMap<string, string> = new Map([["test_split_size", "datasets"]]);

/** Setting to the other names of its values. */
export const VALUE_ALIASES: Readonly<Partial<Record<SettingName, Readonly<Record<string, string>>>>> = {
  optim: { ...OPTIMIZER_ALIASES, adamw_hf: "adamw_torch" },
  packing_strategy: { ffd: "bfd" },
  loss_type: { chunked_nll: "nll" },
  torch_dtype: { bf16: "bfloat16", fp16: "float16", half: "float16", fp32: "float32", float: "float32" },
};
