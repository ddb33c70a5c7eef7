/**
 * From the settings to batches: rows, examples, packed sequences, and the order in which they are seen.
 * @module
 */
import {
  type Batch,
  collate,
  encodeExamples,
  epochBatches,
  formatDataReport,
  LEGACY_COLUMNS,
  type LoadSplit,
  mixDatasets,
  mixDatasetsLegacy,
  packExamples,
  packReport,
  readRows,
  type Row,
  toExamples,
} from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { fetchDataset } from "../hub/mod.ts";
import type { Tokenizer } from "../text/mod.ts";
import type { TrainSettings } from "./settings.ts";

/** Rows of both sides. */
export interface Rows {
  train: Row[];
  test: Row[] | undefined;
}

/** Options of {@link loadRows}. */
export interface LoadRowsOptions {
  /** Folder against which relative paths are tried too: the recipe's. */
  base?: string | undefined;
  onNote?: ((note: string) => void) | undefined;
}

/** Whether the run evaluates at all. */
export function evaluates(s: TrainSettings): boolean {
  return s.do_eval || s.eval_on_start || s.eval_strategy !== "no";
}

/** Reads what the recipe's data keys name, in the handbook's order: mixture, mixer, name. */
export async function loadRows(s: TrainSettings, options: LoadRowsOptions = {}): Promise<Rows> {
  const load: LoadSplit = async (id, { split, config }) => {
    const path = await fetchDataset(id, {
      ...(config ? { config } : {}),
      ...(options.base ? { base: options.base } : {}),
      ...(options.onNote ? { onNote: options.onNote } : {}),
      splits: [split],
    });
    return await readRows(path, { split, config });
  };
  let rows: Rows;
  if (s.dataset_mixture) {
    const { train, test } = await mixDatasets(s.dataset_mixture, load);
    rows = { train, test };
  } else if (s.dataset_mixer) {
    const { train, test } = await mixDatasetsLegacy({
      dataset_mixer: s.dataset_mixer,
      dataset_splits: s.dataset_splits,
      dataset_configs: s.dataset_configs ?? undefined,
      columns: [...LEGACY_COLUMNS, s.dataset_text_field],
    }, load);
    rows = { train, test };
  } else if (s.dataset_name) {
    const config = s.dataset_config ?? undefined;
    rows = {
      train: await load(s.dataset_name, { split: s.dataset_train_split, config }),
      test: evaluates(s) ? await load(s.dataset_name, { split: s.dataset_test_split, config }) : undefined,
    };
  } else {
    throw new NibbleError("train/no-dataset", "The recipe names no data set", {
      remedy: "Set dataset_name, dataset_mixture or dataset_mixer.",
    });
  }
  return {
    train: rows.train.slice(0, s.max_train_samples ?? undefined),
    test: rows.test?.slice(0, s.max_eval_samples ?? undefined),
  };
}

/** One side's rows as tokens, ready to batch, and what became of them. */
export interface Prepared {
  /** Tokens of each item: of its longest sequence. An item is a sequence, packed or not, a pair, or a judged answer. */
  lengths: readonly number[];
  /** Items that must stay in one batch, for objectives that compare within it; absent: any may meet any. */
  blocks?: readonly (readonly number[])[];
  /** The batch of these items, each sequence at least `minLength` long. */
  batch(items: readonly number[], minLength?: number): Batch;
  /** Lines for the log. */
  report: string;
  /** Whether rows were conversations: prompts are then rendered with the chat template. */
  chat: boolean;
}

/** Encodes and packs one side's rows for training on text. */
export function prepareText(
  rows: Row[],
  tokenizer: Tokenizer,
  s: TrainSettings,
  side: "train" | "eval",
): Prepared {
  const examples = toExamples(rows, {
    task: s.nibble_task === "cpt" ? "text" : "sft",
    text_column: s.dataset_text_field,
  });
  const { examples: encoded, report } = encodeExamples(tokenizer, examples, {
    max_length: s.packing && s.packing_strategy === "wrapped" ? undefined : s.max_length ?? undefined,
    assistant_only_loss: s.assistant_only_loss,
    completion_only_loss: s.completion_only_loss ?? undefined,
    auto_insert_empty_system_msg: s.auto_insert_empty_system_msg,
  });
  const packing = side === "eval" ? s.eval_packing ?? s.packing : s.packing;
  const length = s.max_length ?? encoded.reduce((n, e) => Math.max(n, e.ids.length), 2);
  const packed = packExamples(encoded, length, packing ? s.packing_strategy : "none");
  const padId = tokenizer.padId ?? 0;
  return {
    lengths: packed.map(({ ids }) => ids.length),
    batch: (items, minLength = 1) => collate(items.map((i) => packed[i]!), padId, { minLength }),
    report: formatDataReport({ ...report, ...(packing ? { packed: packReport(packed, length) } : {}) }),
    chat: examples.kind === "messages",
  };
}

/** Cuts a side into batches, for evaluation. */
export function evalBatches(side: Prepared, s: TrainSettings): Batch[] {
  if (side.blocks) return side.blocks.map((items) => side.batch(items));
  const size = s.per_device_eval_batch_size;
  // items of like length together, so that little is padding; a mean does not see the order
  const sorted = side.lengths.map((_, i) => i).sort((a, b) => side.lengths[b]! - side.lengths[a]!);
  const out: Batch[] = [];
  for (let i = 0; i < sorted.length; i += size) out.push(side.batch(sorted.slice(i, i + size)));
  return out;
}

/** The order of training: which batches make up each step. */
export interface Order {
  stepsPerEpoch: number;
  maxSteps: number;
  window: (step: number) => Batch[];
}

/**
 * Trainer's order: every epoch a seeded permutation, cut into batches, `gradient_accumulation_steps` a step. Where
 * items come in blocks, the blocks are permuted.
 */
export function trainingOrder(side: Prepared, s: TrainSettings): Order {
  const perStep = s.gradient_accumulation_steps;
  const { blocks, lengths } = side;
  const batches = blocks?.length ?? Math.ceil(lengths.length / s.per_device_train_batch_size);
  const stepsPerEpoch = Math.ceil(batches / perStep);
  const maxSteps = s.max_steps > 0 ? s.max_steps : Math.ceil(s.num_train_epochs * stepsPerEpoch);
  // packed sequences are nearly full: one shape for all batches lets every buffer be reused
  const minLength = s.packing ? s.max_length ?? 1 : 1;
  const seed = s.data_seed ?? s.seed;
  let epoch = -1;
  let order: readonly (readonly number[])[] = [];
  return {
    stepsPerEpoch,
    maxSteps,
    window(step) {
      const wanted = Math.floor(step / stepsPerEpoch);
      if (wanted !== epoch) {
        epoch = wanted;
        order = blocks
          ? epochBatches(blocks.length, 1, seed, epoch).map(([block]) => blocks[block!]!)
          : epochBatches(lengths.length, s.per_device_train_batch_size, seed, epoch);
      }
      const first = (step % stepsPerEpoch) * perStep;
      return order.slice(first, first + perStep).map((items) => side.batch(items, minLength));
    },
  };
}
