/**
 * The last stage of a run: figures, loss curve, weights and model card into the output folder.
 * @module
 */
import { join } from "@std/path";
import { writeText } from "../formats/mod.ts";
import { mib } from "../gpu/mod.ts";
import { markFinished } from "./checkpoint_state.ts";
import { lossCurveSvg, lossCurveText } from "./loss_curve.ts";
import { card, memoryLine, type Outcome, type RunParts, writeWeights } from "./output.ts";
import { removeStaleAdapter } from "./output_folder.ts";
import { runName, type RunRecord } from "./record.ts";
import type { TrainSettings } from "./settings.ts";
import { historyOf, speedMetrics, type TrainerState, writeResults, writeTrainerState } from "./state.ts";

/** What a run came to when its loop ended. */
export interface Ending extends Omit<Outcome, "trainLoss"> {
  trainer: TrainerState;
  record: RunRecord;
  /** Stopped before its last step: no weights and no card are written. */
  stopped: boolean;
  /** Steps of this process. */
  steps: number;
  recipeText: string | undefined;
}

/** Writes the output folder and says what it holds. */
export async function writeOutputs(s: TrainSettings, p: RunParts, e: Ending): Promise<void> {
  const note = (text: string) => p.reporter.note(text);
  const losses = historyOf(e.trainer, "loss");
  const trainLoss = losses.reduce((a, b) => a + b.loss, 0) / Math.max(1, losses.length);
  const speed = { ...speedMetrics("train", e.seconds, { steps: e.steps }), train_loss: trainLoss };
  e.record.add({ ...speed, total_flos: 0 });
  writeTrainerState(s.output_dir, e.trainer);
  writeResults(s.output_dir, "train", { ...speed, epoch: e.trainer.epoch });
  const curve = { train: losses, eval: historyOf(e.trainer, "eval_loss"), title: `Loss: ${runName(s)}` };
  writeText(join(s.output_dir, "loss_curve.svg"), lossCurveSvg(curve));
  if (!e.stopped) {
    await writeWeights(s.output_dir, s, p);
    const removed = p.setUp.adapter ? undefined : removeStaleAdapter(s.output_dir);
    if (removed) note(removed);
    writeText(join(s.output_dir, "README.md"), card(s, e.recipeText, p, { ...e, trainLoss }));
    markFinished(s.output_dir);
  }
  note(lossCurveText(curve));
  note(`${memoryLine(e.memory)}; planned ${mib(p.plan.memory.peakBytes)}`);
  const each = (e.seconds / Math.max(1, e.steps)).toFixed(2);
  note(`wrote       ${s.output_dir} (${e.seconds.toFixed(1)} s of training, ${each} s a step)`);
}
