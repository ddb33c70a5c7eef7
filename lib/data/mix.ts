/**
 * Mixtures and splits with the semantics of alignment-handbook: `dataset_mixture` (main) and `dataset_mixer`
 * (legacy), in the row order that `datasets` gives for the same seeds.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { permutation } from "./random.ts";
import { type Row, selectColumns } from "./rows.ts";

/** Loads one split of a data set: a folder, a file, or an id of the Hub. */
export type LoadSplit = (
  id: string,
  options: { split: string; config?: string | undefined },
) => Promise<Row[]>;

/** Training rows, and test rows if there are any; or whatever stands for rows. */
export interface DatasetSplits<T = Row> {
  /** Rows to train on. */
  train: T[];
  /** Rows to evaluate on. */
  test?: T[];
}

/** What mixing needs to know of a kind of rows: rows themselves, or numbers that stand for rows on disk. */
export interface PartLoader<T> {
  /** The rows of one split, and the columns that they have. */
  load(
    id: string,
    options: { split: string; config?: string | undefined },
  ): Promise<{ rows: readonly T[]; columns: ReadonlySet<string> }>;
  /** Keeps only these columns, where present. */
  select(rows: readonly T[], columns: readonly string[]): readonly T[];
}

/** Rows in memory. */
function inMemory(load: LoadSplit): PartLoader<Row> {
  return {
    async load(id, options) {
      const rows = await load(id, options);
      return { rows, columns: columnsOf(rows) };
    },
    select: (rows, columns) => rows.map((row) => selectColumns(row, columns)),
  };
}

/** One entry of `dataset_mixture.datasets`. */
export interface DatasetEntry {
  /** Path or id. */
  id: string;
  /** Configuration. */
  config?: string | null | undefined;
  /** Split, default `train`. */
  split?: string | undefined;
  /** Columns to keep; all if absent. */
  columns?: string[] | null | undefined;
  /** Share of the rows, 0 to 1, default 1. `null` takes all without shuffling. By TRL's rule its part of the mixture. */
  weight?: number | null | undefined;
}

/** `dataset_mixture`. */
export interface DatasetMixture {
  /** What to mix. */
  datasets: DatasetEntry[];
  /** Seed of all shuffles and of the split, default 0. */
  seed?: number | undefined;
  /** Below 1 the share, from 1 on the number of rows that become the test split. */
  test_split_size?: number | null | undefined;
  /** How parts are taken and joined; absent: as the handbook does. See {@link mixDatasets}. */
  rule?: "trl" | undefined;
}

/** Rows in the order of `datasets.Dataset.shuffle(seed)`. */
export function shuffleRows<T>(rows: readonly T[], seed: number): T[] {
  return Array.from(permutation(rows.length, seed), (i) => rows[i]);
}

/**
 * `datasets.Dataset.train_test_split(test_size, seed)`: the first of a permutation are the test rows, the next the
 * training rows. A share becomes ceil(share * n) rows.
 *
 * @example
 * ```ts
 * import { trainTestSplit } from "./mod.ts";
 * const { train, test } = trainTestSplit([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0.2, 42);
 * if (test.join() !== "5,6" || train.length !== 8) throw new Error(test.join());
 * ```
 */
export function trainTestSplit<T>(
  rows: readonly T[],
  testSize: number,
  seed: number,
): { train: T[]; test: T[] } {
  const n = rows.length;
  const count = testSize < 1 ? Math.ceil(testSize * n) : testSize;
  if (!(testSize > 0) || !Number.isInteger(count) || count >= n) {
    throw new NibbleError("data/bad-split", `Cannot split ${n} rows with test_split_size ${testSize}`, {
      where: "test_split_size",
      remedy: "Give a share between 0 and 1, or a whole number of rows below the number there are.",
    });
  }
  const shuffled = shuffleRows(rows, seed);
  return { test: shuffled.slice(0, count), train: shuffled.slice(count) };
}

/**
 * `dataset_mixture` as the handbook's main scripts mix it: of each entry keep `columns`, shuffle(seed), take the first
 * int(rows * weight); concatenate; shuffle(seed); split if asked. Entries may be test splits of other recipes: they
 * are poured together and split anew.
 *
 * `rule: "trl"` is what TRL 1.16 makes of `datasets`: weights are parts of the mixture, which is as large as it can be
 * with no row twice; of each entry the first round(part * total) rows are taken; nothing is shuffled but by the split,
 * whose seed TRL leaves to chance.
 *
 * Throws {@link NibbleError} `data/bad-mixture`, `data/bad-weight`, `data/missing-column`, `data/different-columns`,
 * `data/empty`, `data/bad-split`.
 */
export function mixDatasets(mixture: DatasetMixture, load: LoadSplit): Promise<DatasetSplits> {
  return mixParts(mixture, inMemory(load));
}

/** {@link mixDatasets} for whatever stands for rows. */
export async function mixParts<T>(mixture: DatasetMixture, loader: PartLoader<T>): Promise<DatasetSplits<T>> {
  const { datasets, seed = 0, test_split_size, rule } = mixture;
  if (!Array.isArray(datasets) || datasets.length === 0) {
    throw new NibbleError(
      "data/bad-mixture",
      "dataset_mixture.datasets must be a list with at least one entry",
      {
        where: "dataset_mixture",
        remedy: "Write a list of {id, config, split, columns, weight}.",
      },
    );
  }
  const parts: { rows: readonly T[]; weight: number | null; name: string }[] = [];
  let columns: ReadonlySet<string> | undefined;
  for (const entry of datasets) {
    const { id, config, split = "train", weight = 1 } = entry;
    const name = `${id}${config ? `[${config}]` : ""}:${split}`;
    const { rows: all, columns: present } = await loader.load(id, { split, config: config ?? undefined });
    const rows = entry.columns ? loader.select(all, entry.columns) : all;
    if (entry.columns) {
      const { columns: wanted } = entry;
      const missing = wanted.filter((column) => !present.has(column));
      if (missing.length > 0) {
        throw new NibbleError("data/missing-column", `No column ${missing.map((c) => `"${c}"`).join(", ")}`, {
          where: name,
          remedy: `The columns are: ${[...present].join(", ")}.`,
        });
      }
    }
    const kept = entry.columns ? new Set(entry.columns) : present;
    if (columns !== undefined && columns.symmetricDifference(kept).size > 0) {
      throw new NibbleError(
        "data/different-columns",
        "All data sets of a mixture must have the same columns",
        {
          where: name,
          remedy: `It has ${[...kept].join(", ")}, those before have ${
            [...columns].join(", ")
          }: set \`columns\`.`,
        },
      );
    }
    columns ??= kept;
    parts.push({ rows, weight, name });
  }
  const mixed = rule === "trl" ? takeParts(parts).flat() : shuffleRows(
    parts.flatMap(({ rows, weight, name }) =>
      weight === null ? rows : takeShare(shuffleRows(rows, seed), weight, name)
    ),
    seed,
  );
  if (mixed.length === 0) throw emptyMixture("dataset_mixture");
  return test_split_size === undefined || test_split_size === null
    ? { train: mixed }
    : trainTestSplit(mixed, test_split_size, seed);
}

/** `dataset_mixer` and the keys beside it. */
export interface LegacyMixture {
  /** Path or id to share of the training rows. */
  dataset_mixer: Record<string, number>;
  /** Splits to load, each with "train" or "test" in its name. Default train and test. */
  dataset_splits?: string[] | undefined;
  /** One configuration a data set, in the mixer's order. */
  dataset_configs?: (string | null)[] | undefined;
  /** Columns to keep where present. */
  columns?: string[] | undefined;
  /** Shuffle the result with seed 42. Default true. */
  shuffle?: boolean | undefined;
}

/** Columns that the handbook's legacy scripts keep. */
export const LEGACY_COLUMNS: readonly string[] = [
  "messages",
  "chosen",
  "rejected",
  "prompt",
  "completion",
  "label",
];

/**
 * `dataset_mixer` as the handbook's legacy scripts mix it: the first int(share * rows) of each train split, unshuffled;
 * test splits whole; each concatenated and shuffled with seed 42.
 *
 * Throws {@link NibbleError} `data/bad-mixture`, `data/bad-weight`, `data/empty`.
 */
export function mixDatasetsLegacy(mixture: LegacyMixture, load: LoadSplit): Promise<DatasetSplits> {
  return mixPartsLegacy(mixture, inMemory(load));
}

/** {@link mixDatasetsLegacy} for whatever stands for rows. */
export async function mixPartsLegacy<T>(
  mixture: LegacyMixture,
  loader: PartLoader<T>,
): Promise<DatasetSplits<T>> {
  const { dataset_mixer, dataset_splits = ["train", "test"], dataset_configs, shuffle = true } = mixture;
  const { columns = LEGACY_COLUMNS } = mixture;
  const ids = Object.keys(dataset_mixer);
  if (dataset_configs !== undefined && dataset_configs.length !== ids.length) {
    const what = `dataset_configs has ${dataset_configs.length} entries for ${ids.length} data sets`;
    throw new NibbleError("data/bad-mixture", what, {
      where: "dataset_configs",
      remedy: "Give one configuration for each data set of dataset_mixer, in the same order.",
    });
  }
  const train: T[] = [], test: T[] = [];
  for (const [i, id] of ids.entries()) {
    for (const split of dataset_splits) {
      const isTrain = split.includes("train");
      if (!isTrain && !split.includes("test")) {
        throw new NibbleError(
          "data/bad-mixture",
          `The split "${split}" is neither for training nor for testing`,
          {
            where: "dataset_splits",
            remedy: 'The names of dataset_splits must contain "train" or "test".',
          },
        );
      }
      const loaded = await loader.load(id, { split, config: dataset_configs?.[i] ?? undefined });
      const rows = loader.select(loaded.rows, columns);
      if (isTrain) {
        for (const row of takeShare(rows, dataset_mixer[id], `${id}:${split}`)) train.push(row);
      } else for (const row of rows) test.push(row);
    }
  }
  if (train.length === 0 && test.length === 0) throw emptyMixture("dataset_mixer");
  const order = (rows: T[]) => shuffle ? shuffleRows(rows, 42) : rows;
  return test.length === 0 ? { train: order(train) } : { train: order(train), test: order(test) };
}

/** Of each the first rows, as many as its part of the largest mixture that needs no row twice; all without parts. */
function takeParts<T>(
  parts: readonly { rows: readonly T[]; weight: number | null }[],
): readonly (readonly T[])[] {
  const sum = parts.reduce((n, { weight }) => n + (weight ?? 0), 0);
  const total = Math.min(
    ...parts.map(({ rows, weight }) => weight === null ? Infinity : rows.length / (weight / sum)),
  );
  return parts.map(({ rows, weight }) =>
    weight === null ? rows : rows.slice(0, roundHalfToEven(weight / sum * total))
  );
}

/** Python's `round`. */
function roundHalfToEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + below % 2 : Math.round(x);
}

function takeShare<T>(rows: readonly T[], share: number, where: string): readonly T[] {
  if (!(share >= 0 && share <= 1)) {
    throw new NibbleError(
      "data/bad-weight",
      `The share of a data set must be between 0 and 1, not ${share}`,
      {
        where,
        remedy:
          "Set weight (or the number in dataset_mixer) to a fraction; repeat an entry to take rows twice.",
      },
    );
  }
  return rows.slice(0, Math.trunc(rows.length * share));
}

function columnsOf(rows: Row[]): Set<string> {
  const columns = new Set<string>();
  for (const row of rows) for (const column of Object.keys(row)) columns.add(column);
  return columns;
}

function emptyMixture(where: string): NibbleError {
  return new NibbleError("data/empty", "The mixture has no rows", {
    where,
    remedy: "Check the shares (int(rows * share) may be 0) and the splits.",
  });
}
