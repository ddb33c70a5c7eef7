/**
 * What tests of the objectives over preferences share: pairs, and settings of a small run.
 * @module
 */
import { defaultSettings, type Task, type TrainSettings } from "../../lib/train/settings.ts";
import { dataFolder, tinySettings } from "./run_helper.ts";

const SAYINGS = ["My lord, the night is long.", "Peace!", "I will go with thee to the gate.", "Farewell."];

/** Preference pairs whose answers differ in length. */
export function pairsOf(count: number, from = 0): unknown[] {
  return Array.from({ length: count }, (_, i) => {
    const n = from + i;
    return {
      prompt: [{ role: "user", content: `Speak of ${["love", "war", "the sea"][n % 3]} ${n}` }],
      chosen: [{ role: "assistant", content: `${SAYINGS[n % 4]} ${n % 2 ? "" : SAYINGS[(n + 1) % 4]}` }],
      rejected: [{ role: "assistant", content: `No. ${"Not so. ".repeat(n % 3)}` }],
    };
  });
}

/** A folder of 10 pairs to train on and 4 to evaluate on, unless told otherwise. */
export const pairsFolder = (train = pairsOf(10), test = pairsOf(4, 100)) => dataFolder(train, test);

/** A LoRA run of a task with its own defaults. */
export function settingsOf(task: Task, data: string, more: Partial<TrainSettings> = {}): TrainSettings {
  const { loss_type, truncation_mode } = defaultSettings(task);
  return tinySettings(data, {
    ...{ nibble_task: task, loss_type, truncation_mode, assistant_only_loss: false, max_prompt_length: 32 },
    ...{ learning_rate: 5e-3, do_eval: true, eval_on_start: true, max_steps: 8 },
    ...more,
  });
}
