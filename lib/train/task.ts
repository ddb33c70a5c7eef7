/**
 * What each task of a recipe means: its loss, and how rows become batches for it.
 * @module
 */
import type { Row } from "../data/mod.ts";
import type { Tokenizer } from "../text/mod.ts";
import type { Objective } from "./objective.ts";
import { dpo } from "./objectives/dpo.ts";
import { kto } from "./objectives/kto.ts";
import { orpo } from "./objectives/orpo.ts";
import { sft } from "./objectives/sft.ts";
import type { LoadRowsOptions, Prepared } from "./prepare.ts";
import { prepareJudged, preparePairs } from "./prepare_preference.ts";
import { prepareText, streamText } from "./prepare_text.ts";
import type { Task, TrainSettings } from "./settings.ts";

/** A task, made for one run. */
export interface TrainTask {
  objective: Objective;
  /** Encodes one side's rows. */
  prepare(rows: Row[], tokenizer: Tokenizer, s: TrainSettings, side: "train" | "eval"): Prepared;
  /** Reads and encodes both sides row by row, for `dataset_streaming`. */
  stream?(
    tokenizer: Tokenizer,
    s: TrainSettings,
    options: LoadRowsOptions,
  ): Promise<{ train: Prepared; test: Prepared | undefined }>;
}

const TASKS: Readonly<Record<Task, (s: TrainSettings) => TrainTask>> = {
  sft: () => ({ objective: sft, prepare: prepareText, stream: streamText }),
  cpt: () => ({ objective: sft, prepare: prepareText, stream: streamText }),
  dpo: (s) => ({ objective: dpo(s), prepare: preparePairs }),
  orpo: (s) => ({ objective: orpo(s), prepare: preparePairs }),
  kto: (s) => ({ objective: kto(s), prepare: prepareJudged }),
};

/** The task that the settings ask for. */
export function trainTask(s: TrainSettings): TrainTask {
  return TASKS[s.nibble_task ?? "sft"](s);
}
