/**
 * Settings of the data: where rows come from, how they become tokens, what the loss counts.
 * @module
 */
import { DPO_LOSSES } from "../objectives/losses.ts";
import type { Setting } from "./kinds.ts";

// deno-fmt-ignore
/** Where rows come from. */
export const DATA = {
  dataset_name: { type: "string?", default: null, from: "TRL 0.19",
    doc: "Hub name, local folder or file of one data set." },
  dataset_config: { type: "string?", default: null, from: "TRL 0.19",
    doc: "Configuration (subset) of dataset_name." },
  dataset_train_split: { type: "string", default: "train", from: "TRL 0.19",
    doc: "Split of dataset_name to train on." },
  dataset_test_split: { type: "string", default: "test", from: "TRL 0.19",
    doc: "Split of dataset_name to evaluate on." },
  dataset_mixture: { type: "mixture?", default: null, from: "handbook",
    doc: "Data sets with a share each (id, config, split, columns, weight), pooled and divided anew." },
  dataset_mixer: { type: "mixer?", default: null, from: "handbook, old dialect",
    doc: "Data set to share of its training rows; evaluation splits are taken whole." },
  dataset_splits: { type: "list", default: ["train", "test"], from: "handbook, old dialect",
    doc: "Splits to read of every data set in dataset_mixer; train or test must occur in the name." },
  dataset_configs: { type: "list?", default: null, from: "handbook, old dialect",
    doc: "One configuration for each data set in dataset_mixer." },
  dataset_streaming: { type: "bool", default: false, from: "TRL 0.19", tasks: ["sft", "cpt"],
    doc: "Read rows one by one and keep their tokens on disk: for data larger than memory." },
  max_train_samples: { type: "int?", default: null, from: "handbook v0.2", min: 1,
    doc: "Train on at most this many rows." },
  max_eval_samples: { type: "int?", default: null, from: "handbook v0.2", min: 1,
    doc: "Evaluate on at most this many rows." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** How rows become tokens, and which tokens the loss counts. */
export const TEXT = {
  dataset_text_field: { type: "string", default: "text", from: "TRL 0.19", tasks: ["sft", "cpt"],
    doc: "Column of plain text, for rows without messages." },
  dataset_kwargs: { type: "map?", default: null, from: "TRL 0.19",
    noEffect: "templates alone decide on special tokens, as if both were false",
    doc: "add_special_tokens and append_concat_token of TRL's packing." },
  auto_insert_empty_system_msg: { type: "bool", default: false, from: "nibble (old dialect: true)",
    tasks: ["sft", "dpo", "orpo", "kto"],
    doc: "Begin conversations without a system message with an empty one, if the template has that role." },
  max_length: { type: "int?", default: 1024, from: "TRL 0.19", min: 2,
    doc: "Longest sequence in tokens; what is longer is cut. null: no limit." },
  truncation_mode: { type: "choice", default: "keep_start", from: "TRL", choices: ["keep_start", "keep_end"],
    byTask: { dpo: "keep_end", orpo: "keep_end", kto: "keep_end" },
    doc: "Which end of a sequence survives the cut." },
  packing: { type: "bool", default: false, from: "TRL 0.19", tasks: ["sft", "cpt"],
    doc: "Put several examples into one sequence; attention stays within each." },
  packing_strategy: { type: "choice", default: "bfd", from: "TRL 1.x",
    choices: ["bfd", "bfd_split", "wrapped"],
    needs: "packing", tasks: ["sft", "cpt"],
    doc: "bfd: best fit, examples stay whole, cut at max_length; bfd_split: what is longer goes on in other rows; " +
      "wrapped: one long text cut into equal pieces." },
  eval_packing: { type: "bool?", default: null, from: "TRL 0.19", tasks: ["sft", "cpt"],
    doc: "Pack evaluation rows too; null: as packing." },
  assistant_only_loss: { type: "bool", default: false, from: "TRL 0.19", tasks: ["sft"],
    doc: "Count the loss on the assistant's turns only." },
  completion_only_loss: { type: "bool?", default: null, from: "TRL 0.19", tasks: ["sft"],
    doc: "Count the loss on the completion only; null: yes for prompt-completion rows." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** Preference training. */
export const PREFERENCE = {
  beta: { type: "float", default: 0.1, from: "TRL 0.19", min: 0, tasks: ["dpo", "orpo", "kto"],
    doc: "DPO, KTO: how firmly the policy is held to the reference. ORPO: weight of the odds-ratio term." },
  loss_type: { type: "choice", default: "nll", from: "TRL 0.19", byTask: { dpo: "sigmoid", kto: "kto" },
    tasks: ["dpo", "kto"],
    choices: ["nll", ...DPO_LOSSES, "kto"],
    doc: "How chosen and rejected answers are compared; nll is the loss of text, kto that of judged answers." },
  max_prompt_length: { type: "int?", default: 512, from: "TRL 0.19", min: 1,
    tasks: ["dpo", "orpo", "kto"],
    doc: "Longest prompt in tokens; its last are kept. ORPO, KTO: only of what exceeds max_length, and its end by " +
      "truncation_mode." },
  max_completion_length: { type: "int?", default: null, from: "TRL 0.19", min: 1, tasks: ["dpo"],
    doc: "Longest answer in tokens; its first are kept." },
  label_smoothing: { type: "float", default: 0, from: "TRL 0.19", min: 0, below: 0.5, tasks: ["dpo"],
    doc: "Probability that a preference label is wrong." },
  discopop_tau: { type: "float", default: 0.05, from: "TRL 0.19", above: 0, tasks: ["dpo"],
    doc: "Temperature of the discopop loss." },
  rpo_alpha: { type: "float?", default: null, from: "TRL 0.19", min: 0, tasks: ["dpo"],
    doc: "Weight of an added likelihood loss on the chosen answer." },
  reference_free: { type: "bool", default: false, from: "TRL 0.19", tasks: ["dpo"],
    doc: "Leave the reference out of the loss." },
  ref_model: { type: "string?", default: null, from: "TRL 0.19", tasks: ["dpo"],
    doc: "A reference of its own, for full fine-tuning; null: the model as it is before training. With use_peft " +
      "the base without its adapters is the reference." },
  precompute_ref_log_probs: { type: "bool", default: false, from: "TRL 0.19", tasks: ["dpo", "kto"],
    noEffect: "it is always done, once, and kept on disk",
    doc: "Score all rows with the reference once, before training." },
  desirable_weight: { type: "float", default: 1, from: "TRL 0.19", min: 0, tasks: ["kto"],
    doc: "Weight of the loss on answers labelled true." },
  undesirable_weight: { type: "float", default: 1, from: "TRL 0.19", min: 0, tasks: ["kto"],
    doc: "Weight of the loss on answers labelled false." },
  disable_dropout: { type: "bool", default: true, from: "TRL 0.19", tasks: ["dpo", "orpo", "kto"],
    doc: "No dropout in preference training, adapters included." },
} as const satisfies Record<string, Setting>;
