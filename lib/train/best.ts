/**
 * The best checkpoint: which metric decides, and the way back to its parameters.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import type { ParameterPages } from "../optim/mod.ts";
import { openParameters } from "./checkpoint.ts";
import type { EvalLog } from "./evaluate.ts";
import type { TrainSettings } from "./settings.ts";
import { noteBest, type TrainerState } from "./state.ts";

/**
 * Compares an evaluation with the best so far, where the run asks for that.
 *
 * @returns whether it is the best now
 * @throws NibbleError `train/no-metric` when `metric_for_best_model` is not among the figures
 */
export function isNewBest(s: TrainSettings, trainer: TrainerState, evaluation: EvalLog): boolean {
  if (!s.load_best_model_at_end && s.save_strategy !== "best" && s.metric_for_best_model === null) {
    return false;
  }
  const wanted = s.metric_for_best_model ?? "loss";
  const name = wanted.startsWith("eval_") ? wanted : `eval_${wanted}`;
  const value = evaluation[name];
  if (value === undefined) {
    throw new NibbleError("train/no-metric", `An evaluation has no '${name}'`, {
      where: `metric_for_best_model: ${wanted}`,
      remedy: `It has ${Object.keys(evaluation).filter((key) => key.startsWith("eval_")).join(", ")}.`,
    });
  }
  return noteBest(trainer, value, s.greater_is_better ?? !name.endsWith("loss"));
}

/** Puts a checkpoint's parameters back, bit for bit. */
export function restoreParameters(folder: string, pages: ParameterPages): void {
  const source = openParameters(folder);
  try {
    for (const [name, t] of pages.tensors) t.write(source.readF32(name));
  } finally {
    source.close();
  }
}

/** Where the best checkpoint of a run lies now: a moved output folder still knows its best. */
export function bestFolder(s: TrainSettings, trainer: TrainerState): string | undefined {
  return trainer.best_global_step === null || trainer.best_model_checkpoint === null
    ? undefined
    : join(s.output_dir, `checkpoint-${trainer.best_global_step}`);
}
