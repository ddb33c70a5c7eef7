/**
 * The record of a run for TensorBoard and Weights & Biases: figures, their steps and the settings, and the same as JSON.
 * @module
 */
import { join } from "@std/path";
import { openRecord } from "../../../lib/train/record.ts";
import { defaultSettings, type TrainSettings } from "../../../lib/train/settings.ts";
import { newTrainerState } from "../../../lib/train/state.ts";
import { folder } from "../checks.ts";

const output = folder();
const s: TrainSettings = {
  ...defaultSettings(),
  ...{ output_dir: output, run_name: "interop", report_to: ["tensorboard", "wandb"], hub_token: "hf_secret" },
  ...{
    wandb_project: "nibble",
    wandb_entity: "me",
    wandb_run_group: "tests",
    chat_template: "x".repeat(40_000),
  },
};
const trainer = newTrainerState({ max_steps: 300 });
const record = openRecord(s, trainer);
for (let step = 1; step <= 300; step++) {
  trainer.global_step = step;
  record.add({ loss: 4 / step, grad_norm: step % 7, learning_rate: 1e-3 * (1 - step / 300) });
  if (step % 100 === 0) record.add({ eval_loss: 3 / step, eval_runtime: 0.5 });
}
record.close();
Deno.writeTextFileSync(join(output, "history.json"), JSON.stringify(trainer.log_history));
