/**
 * What makes a run this run and no other: content of base and data, and every setting that decides what is learned.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { PreparedRun } from "./prepare_run.ts";
import { noEffect, type SettingName, type TrainSettings } from "./settings.ts";
import { PREFERENCE, TEXT } from "./settings/data.ts";
import { OPTIMIZER } from "./settings/loop.ts";
import { ADAPTER, QUANTIZATION } from "./settings/model.ts";

/** What must agree between a checkpoint and the run that resumes it: settings by name, and contents. */
export interface Fingerprint {
  /** Content of the base model's files. */
  base: string;
  /** Content of the training side: tokens, targets, order. */
  data: string;
  /** Optimizer steps of the whole run. */
  max_steps: number;
  [setting: string]: unknown;
}

/** Settings that decide what is learned, beside `max_steps`. Which rows and tokens there are, `data` tells. */
const DECISIVE = [
  ...["nibble_task", "nibble_model_config", ...Object.keys(QUANTIZATION), ...Object.keys(ADAPTER)],
  ...Object.keys(TEXT).filter((name) => !["eval_packing", "dataset_text_field"].includes(name)),
  ...[...Object.keys(PREFERENCE), ...Object.keys(OPTIMIZER)],
  ...["per_device_train_batch_size", "gradient_accumulation_steps", "neftune_noise_alpha"],
  ...["seed", "data_seed"],
] as SettingName[];

/** The fingerprint of a run that can begin. */
export function fingerprintOf(
  s: TrainSettings,
  { hash, train, order }: Pick<PreparedRun, "hash" | "train" | "order">,
): Fingerprint {
  // in full fine-tuning it is only how the result is stored
  const names = s.use_peft ? [...DECISIVE, "torch_dtype" as const] : DECISIVE;
  return {
    base: `content ${hash.slice(0, 16)}`,
    data: `content ${train.digest().slice(0, 16)}`,
    max_steps: order.maxSteps,
    ...Object.fromEntries(
      names.filter((name) => noEffect(name, s) === undefined).map((name) => [name, s[name]]),
    ),
  };
}

/** What a mismatch is told with. */
export interface Resumed {
  /** The checkpoint's folder. */
  folder: string;
  /** Step after which it was written. */
  step: number;
  /** Whether the user named it, who may then want it to go on for longer than was planned. */
  named: boolean;
}

/**
 * Compares the run of a checkpoint with this one. Settings that one of them does not heed differ by those that say so.
 *
 * @throws NibbleError `train/resume-mismatch` naming what differs, with both values
 */
export function checkSameRun(saved: Fingerprint, now: Fingerprint, { folder, step, named }: Resumed): void {
  const differ = Object.keys(now).filter((key) =>
    key in saved && JSON.stringify(saved[key]) !== JSON.stringify(now[key])
  );
  const longer = named && now.max_steps > step;
  const left = differ.filter((key) => !(key === "max_steps" && longer));
  if (left.length === 0) return;
  const only = left.length === 1 && left[0] === "max_steps";
  throw new NibbleError(
    "train/resume-mismatch",
    `The checkpoint was made with other ${left.join(", ")}`,
    {
      where: `${folder}: ` +
        left.map((key) => `${key} ${shown(saved[key])}, now ${shown(now[key])}`).join("; "),
      remedy: !only
        ? "Resume with the recipe it was made with, or start afresh with --resume_from_checkpoint=false."
        : named
        ? `It is at step ${step}: set max_steps above that, or start afresh with --resume_from_checkpoint=false.`
        : `Go on for another number of steps with --resume_from_checkpoint=${folder}, or start afresh with ` +
          "--resume_from_checkpoint=false.",
    },
  );
}

function shown(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
