/**
 * Settings of the training loop: optimizer, schedule, batches, evaluation, checkpoints, output, upload.
 * @module
 */
import { OPTIMIZERS } from "../../optim/catalog.ts";
import { SCHEDULES } from "../../optim/schedules.ts";
import type { Setting } from "./kinds.ts";

// deno-fmt-ignore
/** Optimizer and schedule. */
export const OPTIMIZER = {
  learning_rate: { type: "float", default: 2e-5, from: "TRL 0.19", 
    byTask: { dpo: 1e-6, orpo: 1e-6, kto: 1e-6 }, min: 0,
    doc: "Peak learning rate." },
  lr_scheduler_type: { type: "choice", default: "linear", from: "Trainer 4.57",
    choices: SCHEDULES,
    doc: "How the learning rate moves from step to step." },
  lr_scheduler_kwargs: { type: "map?", default: null, from: "Trainer 4.57",
    doc: "Arguments of the schedule, such as min_lr_rate or num_cycles." },
  warmup_ratio: { type: "float", default: 0, from: "Trainer 4.57", min: 0, max: 1,
    doc: "Share of the steps in which the rate rises from 0." },
  warmup_steps: { type: "int", default: 0, from: "Trainer 4.57", min: 0,
    doc: "Steps of that rise; above 0 it wins over warmup_ratio. A number below 1 is read as warmup_ratio." },
  optim: { type: "choice", default: "adamw_torch", from: "Trainer 4.57",
    choices: OPTIMIZERS,
    doc: "Optimizer; 8bit keeps the state of large parameters in 8 bits, paged keeps it in host memory and fetches " +
      "it piece by piece, but for what nibble_memory_budget_gb leaves room for." },
  optim_args: { type: "string?", default: null, from: "Trainer 4.57",
    doc: "Further arguments of the optimizer, as name=value,name=value; sgd: momentum, dampening, nesterov; rmsprop: " +
      "momentum, alpha, eps, centered; adagrad: lr_decay, eps." },
  weight_decay: { type: "float", default: 0, from: "Trainer 4.57", min: 0,
    doc: "Weight decay; norms and biases are exempt. Decoupled but with sgd, rmsprop and adagrad, whose gradient it " +
      "joins." },
  adam_beta1: { type: "float", default: 0.9, from: "Trainer 4.57", min: 0, below: 1,
    doc: "Decay of the mean of the gradients." },
  adam_beta2: { type: "float", default: 0.999, from: "Trainer 4.57", min: 0, below: 1,
    doc: "Decay of the mean of their squares." },
  adam_epsilon: { type: "float", default: 1e-8, from: "Trainer 4.57", above: 0,
    doc: "Added to the root before dividing." },
  max_grad_norm: { type: "float?", default: 1, from: "Trainer 4.57", min: 0,
    doc: "Gradients are scaled down to this global norm; 0 or null: never." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** Batches, length of the run, evaluation. */
export const LOOP = {
  per_device_train_batch_size: { type: "int", default: 8, from: "Trainer 4.57", min: 1,
    doc: "Sequences in one forward and backward pass." },
  per_device_eval_batch_size: { type: "int", default: 8, from: "Trainer 4.57", min: 1,
    doc: "Sequences in one evaluation pass." },
  gradient_accumulation_steps: { type: "int", default: 1, from: "Trainer 4.57", min: 1,
    doc: "Passes summed before the optimizer steps." },
  gradient_checkpointing: { type: "bool", default: false, from: "Trainer 4.57",
    doc: "Keep only each layer's input and compute the layer again going backward: less memory, more time." },
  neftune_noise_alpha: { type: "float?", default: null, from: "Trainer 4.57", above: 0,
    doc: "NEFTune: uniform noise of alpha / sqrt(T * C) on the embedded tokens while training; 5 to 15 is usual." },
  num_train_epochs: { type: "float", default: 3, from: "Trainer 4.57", above: 0,
    doc: "Passes over the training rows." },
  max_steps: { type: "int", default: -1, from: "Trainer 4.57", min: -1,
    doc: "Optimizer steps; above 0 it wins over num_train_epochs." },
  do_eval: { type: "bool", default: false, from: "Trainer 4.57",
    doc: "Evaluate when training has ended." },
  eval_strategy: { type: "choice", default: "no", from: "Trainer 4.57", choices: ["no", "steps", "epoch"],
    doc: "When to evaluate while training." },
  eval_steps: { type: "float?", default: null, from: "Trainer 4.57", above: 0,
    doc: "Steps between evaluations; below 1 a share of the run; null: as logging_steps." },
  eval_delay: { type: "float", default: 0, from: "Trainer 4.57", min: 0,
    doc: "No evaluation while training before that step, or that epoch with eval_strategy: epoch." },
  eval_on_start: { type: "bool", default: false, from: "Trainer 4.57",
    doc: "Evaluate before the first step." },
  seed: { type: "int", default: 42, from: "Trainer 4.57", min: 0,
    doc: "Seed of initial adapters and dropout." },
  data_seed: { type: "int?", default: null, from: "Trainer 4.57", min: 0,
    doc: "Seed of the order of rows; null: seed." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** Log, checkpoints, output. */
export const OUTPUT = {
  logging_strategy: { type: "choice", default: "steps", from: "Trainer 4.57",
    choices: ["no", "steps", "epoch"],
    doc: "When to log." },
  logging_steps: { type: "float", default: 10, from: "TRL 0.19", above: 0,
    doc: "Steps between log lines; below 1 a share of the run." },
  logging_first_step: { type: "bool", default: false, from: "Trainer 4.57 (old dialect: true)",
    doc: "Log the first step too." },
  save_strategy: { type: "choice", default: "steps", from: "Trainer 4.57",
    choices: ["no", "steps", "epoch", "best"],
    doc: "When to write a checkpoint; best: when an evaluation is better than all before." },
  save_steps: { type: "float", default: 500, from: "Trainer 4.57", above: 0,
    doc: "Steps between checkpoints; below 1 a share of the run." },
  save_total_limit: { type: "int?", default: null, from: "Trainer 4.57", min: 1,
    doc: "Checkpoints to keep; older ones are removed." },
  save_only_model: { type: "bool", default: false, from: "Trainer 4.57",
    doc: "Write no optimizer state: smaller checkpoints, from which training cannot go on." },
  load_best_model_at_end: { type: "bool", default: false, from: "Trainer 4.57",
    doc: "Return to the checkpoint with the best evaluation at the end; save and evaluate at the same steps." },
  metric_for_best_model: { type: "string?", default: null, from: "Trainer 4.57",
    doc: "Metric that decides which checkpoint is best, with or without eval_; null: the evaluation loss." },
  greater_is_better: { type: "bool?", default: null, from: "Trainer 4.57",
    doc: "Whether that metric should rise; null: unless its name ends in loss." },
  output_dir: { type: "string", default: "trainer_output", from: "Trainer 4.57",
    doc: "Folder for checkpoints and the trained model." },
  debug: { type: "choice", default: "", from: "Trainer 4.57", choices: ["underflow_overflow", "tpu_metrics_debug", ""],
    doc: "underflow_overflow: end the run at the first step whose loss or gradient is not finite, and name the module " +
      "in which that began." },
  resume_from_checkpoint: { type: "string?", default: null, from: "Trainer 4.57",
    doc: "A checkpoint's folder, true: newest in output_dir, false: start afresh; null: newest if its run has not " +
      "ended. Only a folder and true take a max_steps other than it was made with." },
  run_name: { type: "string?", default: null, from: "Trainer 4.57",
    doc: "Name of the run in its records; null: the last part of output_dir." },
  report_to: { type: "list", default: [], from: "nibble",
    doc: "tensorboard: event files in output_dir/runs, written unless none is named; wandb: an offline run in " +
      "output_dir/wandb for `wandb sync`; all: both. Nothing leaves this machine." },
  wandb_project: { type: "string?", default: null, from: "handbook", doc: "Project of the Weights & Biases run." },
  wandb_entity: { type: "string?", default: null, from: "handbook", doc: "Account or team that it belongs to." },
  wandb_run_group: { type: "string?", default: null, from: "handbook", doc: "Group that it is listed under." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** Upload to the Hub. */
export const HUB = {
  push_to_hub: { type: "bool", default: false, from: "Trainer 4.57",
    doc: "Upload the result to the Hub at HF_ENDPOINT; the repository is made before training." },
  hub_model_id: { type: "string?", default: null, from: "Trainer 4.57", needs: "push_to_hub",
    doc: "Repository, as name or owner/name; null: the last part of output_dir, under the token's own name." },
  hub_strategy: { type: "choice", default: "every_save", from: "Trainer 4.57", needs: "push_to_hub",
    choices: ["end", "every_save", "checkpoint", "all_checkpoints"],
    doc: "When to upload: at the end; the model at every save too; also the newest checkpoint, as " +
      "last-checkpoint; or every checkpoint." },
  hub_revision: { type: "string?", default: null, from: "Trainer 4.57", needs: "push_to_hub",
    doc: "Branch to upload to, made where it is missing; null: main." },
  hub_private_repo: { type: "bool?", default: null, from: "Trainer 4.57", needs: "push_to_hub",
    doc: "Whether a new repository is private; null: as its owner's settings say." },
  hub_token: { type: "string?", default: null, from: "Trainer 4.57", needs: "push_to_hub", secret: true,
    doc: "Access token for the upload; null: HF_TOKEN, else the stored login." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** nibble's own. */
export const NIBBLE = {
  nibble_task: { type: "choice?", default: null, from: "nibble", 
    choices: ["sft", "dpo", "orpo", "kto", "cpt"],
    doc: "What to train; null: by the recipe's folder (sft/, dpo/, orpo/, kto/, cpt/), then by its keys." },
  nibble_random_weights: { type: "bool", default: false, from: "nibble",
    doc: "Play the model: its shapes with generated weights, and stand-ins for tokenizer and data where those are " +
      "out of reach. For plans and measurements; what is trained is of no use." },
  nibble_sample_prompts: { type: "list", default: [], from: "nibble",
    doc: "Prompts answered before and after training, to see what changed." },
  nibble_sample_max_new_tokens: { type: "int", default: 48, from: "nibble", min: 1,
    doc: "Longest of those answers in tokens." },
  nibble_memory_budget_gb: { type: "float?", default: null, from: "nibble", above: 0,
    doc: "Device memory the run may use, in units of 10^9 bytes; null: what the adapter allows." },
} as const satisfies Record<string, Setting>;
