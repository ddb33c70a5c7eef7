/**
 * The record of a run: every figure into `trainer_state.json`'s history, JSON lines, TensorBoard and Weights & Biases.
 * @module
 */
import { basename, join, resolve } from "@std/path";
import { makeOutputFolder } from "../formats/mod.ts";
import { openJsonLog } from "./progress.ts";
import { type SettingName, settingOf, SETTINGS, type TrainSettings } from "./settings.ts";
import { logMetrics, type Metrics, type TrainerState } from "./state.ts";
import { openEventFile, tagOf } from "./tensorboard.ts";
import { openWandbRun } from "./wandb.ts";

/** Where figures go while a run lasts. */
export interface RunRecord {
  /** The offline run for Weights & Biases, where one is written. */
  readonly wandbFolder: string | undefined;
  /** Adds figures under the state's step and epoch. */
  add(metrics: Metrics): void;
  /** Ends all files. */
  close(): void;
}

/** The settings as they may be shown: without secrets. */
export function openSettings(s: TrainSettings): Partial<TrainSettings> {
  const names = (Object.keys(SETTINGS) as SettingName[]).filter((name) => !settingOf(name).secret);
  return Object.fromEntries(names.map((name) => [name, s[name]]));
}

/** The run's name: `run_name`, else the last part of `output_dir`. */
export function runName(s: TrainSettings): string {
  return s.run_name ?? basename(resolve(s.output_dir));
}

/**
 * Opens the files in `output_dir`.
 *
 * @param trainer state whose history grows with each entry; its step tells what a resumed run writes again
 * @throws NibbleError `formats/cannot-write`, `train/cannot-write`
 */
export function openRecord(s: TrainSettings, trainer: TrainerState): RunRecord {
  makeOutputFolder(s.output_dir);
  const to = (service: string) => s.report_to.includes(service) || s.report_to.includes("all");
  const lines = openJsonLog(
    join(s.output_dir, "logs.jsonl"),
    trainer.global_step > 0 ? trainer.global_step : -1,
  );
  const events = s.report_to.includes("none") ? undefined : openEventFile(join(s.output_dir, "runs"));
  const wandb = to("wandb")
    ? openWandbRun(s.output_dir, {
      project: s.wandb_project ?? Deno.env.get("WANDB_PROJECT") ?? "huggingface", // Trainer's name for it
      entity: s.wandb_entity ?? Deno.env.get("WANDB_ENTITY"),
      group: s.wandb_run_group ?? undefined,
      name: runName(s),
      config: openSettings(s),
    })
    : undefined;
  return {
    wandbFolder: wandb?.folder,
    add(metrics) {
      const step = trainer.global_step;
      lines.write(logMetrics(trainer, metrics));
      const tagged = Object.entries(metrics).map(([name, value]) => [tagOf(name), value] as const);
      for (const [tag, value] of tagged) events?.scalar(tag, value, step);
      wandb?.log({ ...Object.fromEntries(tagged), "train/global_step": step });
    },
    close() {
      lines.close();
      events?.close();
      wandb?.close();
    },
  };
}
