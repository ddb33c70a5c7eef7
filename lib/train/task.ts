/**
 * What each task of a recipe means: its loss, and how rows become batches for it.
 * @module
 */
import type { Row } from "../data/mod.ts";
import type { Tokenizer } from "../text/mod.ts";
import type { Objective } from "./objective.ts";
import { sft } from "./objectives/sft.ts";
import { type Prepared, prepareText } from "./prepare.ts";
import type { Task, TrainSettings } from "./settings.ts";

/** A task, made for one run. */
export interface TrainTask {
  objective: Objective;
  /** Encodes one side's rows. */
  prepare(rows: Row[], tokenizer: Tokenizer, s: TrainSettings, side: "train" | "eval"): Prepared;
}

const TASKS: Readonly<Partial<Record<Task, (s: TrainSettings) => TrainTask>>> = {
  sft: () => ({ objective: sft, prepare: prepareText }),
  cpt: () => ({ objective: sft, prepare: prepareText }),
};

/** The task that the settings ask for. */
export function trainTask(s: TrainSettings): TrainTask {
  return TASKS[s.nibble_task ?? "sft"]!(s);
}
