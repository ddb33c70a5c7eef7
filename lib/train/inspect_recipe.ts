/**
 * What the model will see: the first sequences that a recipe trains on, with the targets of the loss marked.
 * @module
 */
import type { Batch, JudgedBatch } from "../data/mod.ts";
import { inspectExample, type InspectOptions, type Tokenizer } from "../text/mod.ts";
import { openBase } from "./model_setup.ts";
import { trainingOrder } from "./prepare.ts";
import { prepareSides } from "./prepare_run.ts";
import type { Task, TrainSettings } from "./settings.ts";
import { trainTask } from "./task.ts";

/** Options of {@link inspectRecipe}. */
export interface InspectRecipeOptions extends InspectOptions {
  /** Folder against which relative paths of the recipe are tried too. */
  base?: string | undefined;
  /** Called with what was found: files, rows. */
  onNote?: ((note: string) => void) | undefined;
}

/** Sequences shown. */
const SHOWN = 4;

/**
 * Reads a recipe's tokenizer and data as training does and renders the first sequences of its first step from the very
 * batch that the model is given: cut, packed, with BOS and EOS; no weight is loaded.
 *
 * @throws NibbleError for what is wrong with files or data
 */
export async function inspectRecipe(s: TrainSettings, options: InspectRecipeOptions = {}): Promise<string> {
  const { files, tokenizer } = await openBase(s, options);
  files.source.close();
  const { train, test } = await prepareSides(s, trainTask(s), tokenizer, options);
  options.onNote?.(`train\n${train.report}`);
  if (test) options.onNote?.(`eval\n${test.report}`);
  const batch = train.batch(trainingOrder(train, s).items(0)[0]!);
  return TITLES[s.nibble_task ?? "sft"](batch)
    .slice(0, SHOWN)
    .flatMap(([row, title]) => documentsOf(batch, row, title, tokenizer, options))
    .join("\n\n");
}

type Titles = (batch: Batch) => (readonly [row: number, title: string])[];

const sequences: Titles = ({ batch }) =>
  Array.from({ length: batch }, (_, row) => [row, `sequence ${row + 1}`] as const);
const pairs: Titles = ({ batch }) =>
  Array.from({ length: batch / 2 }, (_, i) => [
    [i, `pair ${i + 1}, chosen`] as const,
    [batch / 2 + i, `pair ${i + 1}, rejected`] as const,
  ]).flat();
const answers: Titles = (batch) =>
  (batch as JudgedBatch).desirable.map((good, i) =>
    [i, `answer ${i + 1}, ${good ? "desirable" : "undesirable"}`] as const
  );

/** The rows of each task's batches, in the order in which they are shown. */
const TITLES: Readonly<Record<Task, Titles>> = {
  sft: sequences,
  cpt: sequences,
  dpo: pairs,
  orpo: pairs,
  kto: answers,
};

/** The documents of one row of a batch, each as text. */
function documentsOf(
  batch: Batch,
  row: number,
  title: string,
  tokenizer: Tokenizer,
  options: InspectOptions,
): string[] {
  const from = row * batch.time;
  const segments = [...batch.segments.subarray(from, from + batch.time)];
  const count = segments.reduce((most, segment) => Math.max(most, segment), 0);
  return Array.from({ length: count }, (_, k) => {
    const places = segments.flatMap((segment, i) => segment === k + 1 ? [from + i] : []);
    const ids = places.map((i) => batch.ids[i]!);
    // a label stands where its token is predicted: one place before it
    const trained = places.map((_, n) => n > 0 && batch.labels[places[n - 1]!] !== -100);
    const name = count > 1 ? `${title}, document ${k + 1} of ${count}` : title;
    return inspectExample(tokenizer, { ids, trained, row: 0 }, { ...options, title: name });
  });
}
