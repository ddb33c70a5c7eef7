/**
 * The three ways in which a recipe names its data, brought to one list of parts.
 * @module
 */
import { NibbleError } from "../../errors.ts";
import type { TrainSettings } from "../settings.ts";

/** One split of one data set, and what to do with its rows. */
export interface DatasetPart {
  /** Hub name, local folder or file. */
  id: string;
  /** Configuration (subset), or null. */
  config: string | null;
  /** Split to read. */
  split: string;
  /** Columns to keep; null keeps all. */
  columns: string[] | null;
  /** Share of the rows to take: the first `floor(rows * weight)`. */
  weight: number;
  /** Shuffle with the plan's seed before taking the share. */
  shuffleFirst: boolean;
  /** Where the rows go: to one side, or to the pool that is divided afterwards. */
  into: "train" | "test" | "pool";
}

/** What to read, and what happens to it once the parts are joined in their order. */
export interface DatasetPlan {
  /** The parts, in order. */
  parts: DatasetPart[];
  /** Seed of all shuffles of the plan. */
  seed: number;
  /** Whether each side is shuffled once after joining. */
  shuffleJoined: boolean;
  /** Rows (1 or more) or share (below 1) of the pool that go to the test side; null: none do. */
  testSize: number | null;
}

/** The settings that a plan is made from. */
export type DatasetSettings = Pick<TrainSettings, DataKey>;

/** Their names. */
export type DataKey =
  | "dataset_name"
  | "dataset_config"
  | "dataset_train_split"
  | "dataset_test_split"
  | "dataset_mixture"
  | "dataset_mixer"
  | "dataset_splits"
  | "dataset_configs"
  | "do_eval"
  | "eval_strategy"
  | "eval_on_start";

/**
 * Reads the data keys of a recipe in the handbook's order of precedence: `dataset_mixture`, then
 * `dataset_mixer`, then `dataset_name`.
 *
 * They differ in more than spelling. A mixture shuffles each part before taking its share, pours all into
 * one pool, shuffles, and divides by `test_split_size`. The older mixer takes the first rows unshuffled,
 * keeps evaluation splits whole, and shuffles with seed 42. A name is read as it is.
 *
 * @throws NibbleError `recipe/no-dataset` where no data is named, `recipe/bad-split` for a split of a
 *   mixer that says neither train nor test
 * @example
 * ```ts
 * import { datasetPlan, defaultSettings } from "../settings.ts";
 * const settings = { ...defaultSettings(), dataset_mixer: { "a/b": 0.5 }, dataset_splits: ["train_sft"] };
 * const [part] = datasetPlan(settings).parts;
 * if (part.into !== "train" || part.weight !== 0.5) throw new Error("half of the training rows");
 * ```
 */
export function datasetPlan(settings: DatasetSettings): DatasetPlan {
  if (settings.dataset_mixture) {
    const { datasets, seed, test_split_size, rule } = settings.dataset_mixture;
    const shuffles = rule !== "trl";
    const parts = datasets.map((entry): DatasetPart => ({
      ...{ ...entry, weight: entry.weight ?? 1, shuffleFirst: shuffles },
      into: "pool",
    }));
    return { parts, seed, shuffleJoined: shuffles, testSize: test_split_size };
  }
  if (settings.dataset_mixer) return mixerPlan(settings, settings.dataset_mixer);
  if (settings.dataset_name === null) {
    throw new NibbleError("recipe/no-dataset", "No data set is named", {
      remedy: "Give dataset_name or dataset_mixture.",
    });
  }
  const evaluates = settings.do_eval || settings.eval_on_start || settings.eval_strategy !== "no";
  const part = (split: string, into: "train" | "test"): DatasetPart => ({
    id: settings.dataset_name!,
    config: settings.dataset_config,
    split,
    columns: null,
    weight: 1,
    shuffleFirst: false,
    into,
  });
  const parts = [part(settings.dataset_train_split, "train")];
  if (evaluates) parts.push(part(settings.dataset_test_split, "test"));
  return { parts, seed: 42, shuffleJoined: false, testSize: null };
}

function mixerPlan(settings: DatasetSettings, mixer: Record<string, number>): DatasetPlan {
  const parts = Object.entries(mixer).flatMap(([id, share], i) =>
    settings.dataset_splits.map((split): DatasetPart => {
      const into = split.includes("train") ? "train" : split.includes("test") ? "test" : undefined;
      if (!into) {
        throw new NibbleError("recipe/bad-split", `Split "${split}" says neither train nor test`, {
          where: "dataset_splits",
          remedy: "Name splits such as train_sft and test_sft, or use dataset_mixture.",
        });
      }
      const config = settings.dataset_configs?.[i] ?? null;
      const weight = into === "train" ? share : 1;
      return { id, config, split, columns: null, weight, shuffleFirst: false, into };
    })
  );
  return { parts, seed: 42, shuffleJoined: true, testSize: null };
}
