/**
 * Checkpoints of a run: written, counted, uploaded, and the best of them gone back to.
 * @module
 */
import { join } from "@std/path";
import { bestFolder, isNewBest, restoreParameters } from "./best.ts";
import { saveParameters, saveState } from "./checkpoint.ts";
import { checkpointName, rotateCheckpoints, writeFolder } from "./checkpoint_folder.ts";
import type { HubPush } from "./hub_push.ts";
import type { EvalLog } from "./evaluate.ts";
import type { LoopState } from "./loop.ts";
import { runKernels } from "./kernels.ts";
import { type RunParts, writeWeights } from "./output.ts";
import type { TrainSettings } from "./settings.ts";
import { type TrainerState, writeTrainerState } from "./state.ts";

/** What keeps a run's checkpoints. */
export interface Saving {
  /** Notes whether an evaluation is the best so far. */
  evaluated(evaluation: EvalLog): void;
  /** Writes `checkpoint-N`, removes those beyond `save_total_limit`, uploads. */
  save(now: LoopState): Promise<void>;
  /**
   * Goes back to the best checkpoint, where `load_best_model_at_end` asks for it.
   *
   * @returns whether the parameters are others than at the end of training
   */
  restoreBest(): boolean;
}

/** Checkpoints in `output_dir`. */
export function createSaving(
  s: TrainSettings,
  p: RunParts,
  trainer: TrainerState,
  push: HubPush | undefined,
): Saving {
  const { optimizer, pages } = p.setUp;
  return {
    evaluated(evaluation) {
      isNewBest(s, trainer, evaluation);
    },
    async save(now) {
      const folder = join(s.output_dir, checkpointName(now.step));
      trainer.global_step = now.step;
      trainer.epoch = now.step / p.order.stepsPerEpoch;
      if (trainer.best_global_step === now.step) trainer.best_model_checkpoint = folder;
      await writeFolder(folder, async (tmp) => {
        await writeWeights(tmp, s, p);
        if (!s.save_only_model) {
          await saveState(tmp, now, optimizer, pages.tensors, p.fingerprint, runKernels());
        } else if (s.load_best_model_at_end) await saveParameters(tmp, pages.tensors);
        writeTrainerState(tmp, trainer);
      });
      rotateCheckpoints(s.output_dir, s.save_total_limit, trainer.best_model_checkpoint, folder);
      p.reporter.note(`saved       ${folder}`);
      await push?.saved(folder, now.step);
    },
    restoreBest() {
      const folder = s.load_best_model_at_end ? bestFolder(s, trainer) : undefined;
      if (folder === undefined || trainer.best_global_step === trainer.global_step) return false;
      restoreParameters(folder, pages);
      p.reporter.note(`best        ${folder} (${trainer.best_metric}); its parameters are back`);
      return true;
    },
  };
}
