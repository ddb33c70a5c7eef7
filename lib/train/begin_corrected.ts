/**
 * The start of a run with `init_lora_weights: qera`: adapters that correct the quantization, measured on its own data.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import { gpu } from "../gpu/mod.ts";
import { correctQuantization } from "../lora/qera.ts";
import type { TrainableModel } from "./model_setup.ts";
import type { Order } from "./prepare.ts";
import type { PreparedRun } from "./prepare_run.ts";
import type { Reporter } from "./progress.ts";

/** Tokens looked at: several times as many as the inputs of a layer have columns, for the models that fit here. */
const TOKENS = 8192;

/** The first batches of a run, of its first epoch, until there are tokens enough to see what the layers read. */
export function calibrationBatches(order: Order): { batches: Batch[]; tokens: number } {
  const batches: Batch[] = [];
  let tokens = 0;
  for (let i = 0; i < order.stepsPerEpoch && tokens < TOKENS; i++) {
    for (const batch of order.window(i)) {
      batches.push(batch);
      tokens += batch.realTokens;
    }
  }
  return { batches, tokens };
}

/** Runs the first batches of the training data through the model and gives its adapters their start. */
export async function beginCorrected(
  { adapter }: TrainableModel,
  run: PreparedRun,
  { reporter, signal }: { reporter: Reporter; signal?: AbortSignal | undefined },
): Promise<void> {
  const { batches, tokens } = calibrationBatches(run.order);
  const started = performance.now();
  const { layers, left } = await correctQuantization(adapter!, run.files.source, batches, {
    onProgress: (done, total) => reporter.step({ step: done, maxSteps: total }),
    signal,
  });
  reporter.done();
  const seconds = (performance.now() - started) / 1000;
  reporter.note(
    `corrected   ${layers} layers, seen by ${tokens} tokens: ${
      (100 * left).toFixed(0)
    } % of what 4 bits do to ` +
      `their outputs (mean square) is left, ${seconds.toFixed(0)} s`,
  );
  gpu().pool.trim();
}
