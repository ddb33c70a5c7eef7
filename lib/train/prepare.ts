/**
 * From the settings to batches: rows, examples, packed sequences, and the order in which they are seen.
 * @module
 */
import { join } from "@std/path";
import {
  type Batch,
  type DatasetSplits,
  epochBatches,
  LEGACY_COLUMNS,
  type LoadSplit,
  type LocateSplit,
  mixDatasets,
  mixDatasetsLegacy,
  readRows,
  type Row,
  type Scores,
  type StreamChoice,
} from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { fetchDataset, nibbleCache } from "../hub/mod.ts";
import type { EncodedExample } from "../text/mod.ts";
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

/** What the recipe's data keys name, in the handbook's order: mixture, mixer, name. */
export function dataChoice(s: TrainSettings): StreamChoice {
  if (s.dataset_mixture) return { mixture: s.dataset_mixture };
  if (s.dataset_mixer) {
    return {
      legacy: {
        dataset_mixer: s.dataset_mixer,
        dataset_splits: s.dataset_splits,
        dataset_configs: s.dataset_configs ?? undefined,
        columns: [...LEGACY_COLUMNS, s.dataset_text_field],
      },
    };
  }
  if (s.dataset_name === null) {
    throw new NibbleError("train/no-dataset", "The recipe names no data set", {
      remedy: "Set dataset_name, dataset_mixture or dataset_mixer.",
    });
  }
  return {
    named: {
      id: s.dataset_name,
      config: s.dataset_config ?? undefined,
      train: s.dataset_train_split,
      test: evaluates(s) ? s.dataset_test_split : undefined,
    },
  };
}

/** Finds a split on this disk or on the Hub. */
export function locateSplit(options: LoadRowsOptions): LocateSplit {
  return (id, { split, config }) =>
    fetchDataset(id, {
      ...(config ? { config } : {}),
      ...(options.base ? { base: options.base } : {}),
      ...(options.onNote ? { onNote: options.onNote } : {}),
      splits: [split],
    });
}

/** Reads the rows that the recipe's data keys name. */
export async function loadRows(s: TrainSettings, options: LoadRowsOptions = {}): Promise<Rows> {
  const locate = locateSplit(options);
  const load: LoadSplit = async (id, part) => await readRows(await locate(id, part), part);
  const { train, test } = await mix(dataChoice(s), load);
  return {
    train: train.slice(0, s.max_train_samples ?? undefined),
    test: test?.slice(0, s.max_eval_samples ?? undefined),
  };
}

async function mix(choice: StreamChoice, load: LoadSplit): Promise<DatasetSplits> {
  if ("mixture" in choice) return await mixDatasets(choice.mixture, load);
  if ("legacy" in choice) return await mixDatasetsLegacy(choice.legacy, load);
  const { id, config, train, test } = choice.named;
  return {
    train: await load(id, { split: train, config }),
    ...(test === undefined ? {} : { test: await load(id, { split: test, config }) }),
  };
}

/** Where tokens are kept from run to run. */
export function tokenFolder(): string {
  return join(nibbleCache(), "tokens");
}

/** One side's rows as tokens, ready to batch, and what became of them. */
export interface Prepared {
  /** Tokens of each item: of its longest sequence. An item is a sequence, packed or not, a pair, or a judged answer. */
  lengths: readonly number[];
  /** Items that must stay in one batch, for objectives that compare within it; absent: any may meet any. */
  blocks?: readonly (readonly number[])[];
  /** For objectives that compare with a reference: its scores, and the sequences that it scores, `perItem` an item. */
  scored?: { readonly scores: Scores; sequences(): readonly EncodedExample[] };
  /** The batch of these items, each sequence at least `minLength` long. */
  batch(items: readonly number[], minLength?: number): Batch;
  /** SHA-256 over what there is to learn from: tokens, targets or labels, order. */
  digest(): string;
  /** Lines for the log. */
  report: string;
  /** Whether rows were conversations: prompts are then rendered with the chat template. */
  chat: boolean;
}

/** Cuts a side into batches, for evaluation. */
export function evalBatches(side: Prepared, s: TrainSettings): Batch[] {
  return evalItems(side, s).map((items) => side.batch(items));
}

/**
 * The items of each batch where all are passed once and nothing is trained; the largest batch comes first.
 *
 * @param only which items are passed, with the rest of their blocks; default all
 */
export function evalItems(
  side: Prepared,
  s: TrainSettings,
  only: (item: number) => boolean = () => true,
): (readonly number[])[] {
  const { lengths, blocks } = side;
  const longest = (items: readonly number[]) => items.reduce((n, i) => Math.max(n, lengths[i]!), 0);
  if (blocks) {
    const size = (block: readonly number[]) => block.length * longest(block);
    return blocks.filter((block) => block.some(only)).sort((a, b) => size(b) - size(a));
  }
  const size = s.per_device_eval_batch_size;
  // items of like length together, so that little is padding; a mean does not see the order
  const sorted = lengths.map((_, i) => i).filter(only).sort((a, b) => lengths[b]! - lengths[a]!);
  return Array.from(
    { length: Math.ceil(sorted.length / size) },
    (_, i) => sorted.slice(i * size, (i + 1) * size),
  );
}

/** The order of training: which batches make up each step. */
export interface Order {
  stepsPerEpoch: number;
  maxSteps: number;
  window: (step: number) => Batch[];
  /** Items of each micro-batch of a step. */
  items: (step: number) => readonly (readonly number[])[];
}

/** All items that a run trains on: fewer than there are where it ends within the first epoch. */
export function usedItems({ maxSteps, stepsPerEpoch, items }: Order): Set<number> {
  const used = new Set<number>();
  for (let step = 0; step < Math.min(maxSteps, stepsPerEpoch); step++) {
    for (const batch of items(step)) for (const item of batch) used.add(item);
  }
  return used;
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
  const items = (step: number) => {
    const wanted = Math.floor(step / stepsPerEpoch);
    if (wanted !== epoch) {
      epoch = wanted;
      order = blocks
        ? epochBatches(blocks.length, 1, seed, epoch).map(([block]) => blocks[block!]!)
        : epochBatches(lengths.length, s.per_device_train_batch_size, seed, epoch);
    }
    const first = (step % stepsPerEpoch) * perStep;
    return order.slice(first, first + perStep);
  };
  const window = (step: number) => items(step).map((batch) => side.batch(batch, minLength));
  return { stepsPerEpoch, maxSteps, window, items };
}
