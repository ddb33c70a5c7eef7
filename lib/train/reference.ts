/**
 * The reference of preference training: its log-probabilities of all rows, made once before the first step and kept
 * on disk, so that training holds one model and runs one forward pass a step.
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { contentHashOf, openSafetensors, writeSafetensors } from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import { nibbleCache } from "../hub/mod.ts";
import { openChain, resolveModel } from "../lora/chain.ts";
import type { Adapter } from "../lora/lora.ts";
import { buildModel } from "../model/load.ts";
import type { Model } from "../model/model.ts";
import { noGrad } from "../tensor/tape.ts";
import { keep, scope, type Tensor } from "../tensor/tensor.ts";
import { nextTurn } from "../turn.ts";
import { IDLE_BATCHES } from "./evaluate.ts";
import type { ReferenceObjective } from "./objectives/preference_loss.ts";
import { evalItems, type Prepared } from "./prepare.ts";
import { progressOf, type Reporter } from "./progress.ts";
import type { SettingName, TrainSettings } from "./settings.ts";
import { QUANTIZATION } from "./settings/model.ts";

/** Everything that scoring needs. */
export interface ReferenceRun {
  objective: ReferenceObjective;
  /** As it is before training; with an adapter, the model without it is the reference. */
  model: Model;
  adapter: Adapter | undefined;
  /** Fingerprint of the base's content, merged adapters included. */
  hash: string;
  /** The sides to score, which have `scored`, and which of their items; absent: all. */
  sides: readonly { side: Prepared; items?: ReadonlySet<number> }[];
  reporter: Reporter;
  signal?: AbortSignal | undefined;
  /** Folder of the scores on disk. */
  cache?: string;
}

/** Batches whose scores are read back together. */
const READ_EVERY = 64;

/**
 * Fills in the scores of every side: from the disk where the same model has scored the same tokens on the same
 * adapter before, and by one pass, without dropout, over those that are missing.
 *
 * @throws NibbleError `train/stopped` when the signal comes during the pass, `train/nan-reference`
 */
export async function scoreReference(s: TrainSettings, run: ReferenceRun): Promise<void> {
  const folder = run.cache ?? join(nibbleCache(), "reference");
  for (const { side, items } of run.sides) {
    const { scores, sequences } = side.scored!;
    const { perItem } = scores;
    const all = sequences();
    const path = join(folder, `${contentKey(s, run, all)}.safetensors`);
    scores.values = readScores(path, all.length) ?? new Float32Array(all.length).fill(UNKNOWN);
    const { values } = scores;
    const missing = (item: number) => (items?.has(item) ?? true) && Number.isNaN(values[perItem * item]);
    const batches = evalItems(side, s, missing);
    if (batches.length === 0) {
      run.reporter.note(`reference   scored by an earlier run, in ${path}`);
      continue;
    }
    const started = performance.now();
    try {
      await score(run, side, batches, values);
    } finally { // a pass that is stopped goes on where it was
      Deno.mkdirSync(folder, { recursive: true });
      writeSafetensors(path, [{ name: "logps", dtype: "F32", shape: [all.length], data: values }]);
    }
    const count = perItem * batches.reduce((n, batch) => n + batch.length, 0);
    const seconds = (performance.now() - started) / 1000;
    run.reporter.note(`reference   ${count} sequences scored in ${seconds.toFixed(1)} s, kept in ${path}`);
  }
}

/** In the place of a score that no run has needed yet. */
const UNKNOWN = NaN;

/** Scores by another model (`ref_model`), which is on the device only meanwhile. */
export async function scoreByOther(
  s: TrainSettings,
  run: Omit<ReferenceRun, "model" | "adapter" | "hash">,
  options: { maxPositions: number; base?: string | undefined },
): Promise<void> {
  const { base, maxPositions } = options;
  const files = openChain(await resolveModel(s.ref_model!, base ? { base } : {}));
  let model: Model | undefined;
  try {
    model = await buildModel(files.config, files.source, {
      ...{ path: files.path, maxPositions, signal: run.signal },
      onProgress: progressOf(run.reporter, "loading the reference"),
    });
    await scoreReference(s, { ...run, model, adapter: undefined, hash: contentHashOf(files) });
  } finally {
    model?.dispose();
    files.source.close();
  }
}

/** One pass over some batches of a side. */
async function score(
  run: ReferenceRun,
  side: Prepared,
  batches: readonly (readonly number[])[],
  values: Float32Array,
): Promise<void> {
  const { objective, model, adapter, reporter, signal } = run;
  const { perItem } = side.scored!.scores;
  let waiting: { items: readonly number[]; sums: Tensor[] }[] = [];
  const readBack = async () => {
    const tensors = waiting.flatMap(({ sums }) => sums);
    const read = await gpu().stream.read(
      tensors.map((t) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
    );
    for (const { items, sums } of waiting) {
      const rows = read.splice(0, sums.length).flatMap((bytes) => [...new Float32Array(bytes)]);
      if (!rows.every(Number.isFinite)) throw notFinite(model);
      items.forEach((item, i) => {
        for (let k = 0; k < perItem; k++) values[perItem * item + k] = rows[2 * (k * items.length + i)]!;
      });
    }
    tensors.forEach((t) => t.dispose());
    waiting = [];
  };
  const enabled = adapter?.enabled;
  if (adapter) adapter.enabled = false;
  try {
    for (const [i, items] of batches.entries()) {
      if (signal?.aborted) {
        if (waiting.length > 0) await readBack(); // what is done is kept for the next run
        throw new NibbleError(
          "train/stopped",
          "Stopped while the reference was scored; nothing is trained yet",
          { remedy: "Run the same command again: it goes on with the rows that have no score yet." },
        );
      }
      const sums = noGrad(() => scope(() => objective.score(model, side.batch(items))));
      waiting.push({ items, sums: sums.map((t) => keep(t)) });
      await gpu().stream.fence();
      gpu().pool.age(IDLE_BATCHES);
      if (waiting.length === READ_EVERY) await readBack();
      reporter.step({ step: i + 1, maxSteps: batches.length });
      await nextTurn();
    }
    if (waiting.length > 0) await readBack();
  } finally {
    if (adapter) adapter.enabled = enabled!;
    for (const { sums } of waiting) sums.forEach((t) => t.dispose());
  }
}

function notFinite({ path }: Model): NibbleError {
  return new NibbleError("train/nan-reference", "The reference gives log-probabilities that are not finite", {
    where: path,
    remedy: "The model is damaged, or its numbers overflow: look at its answers with deno task chat.",
  });
}

/**
 * Everything that the scores depend on: base and how it is held, adapters whose beginning is no zero, the adapter
 * string of the device and its kernels, tokens and targets.
 */
function contentKey(
  s: TrainSettings,
  run: ReferenceRun,
  all: readonly { ids: number[]; trained: boolean[] }[],
): string {
  const hash = createHash("sha256");
  const held = [...Object.keys(QUANTIZATION), "torch_dtype"].map((key) => s[key as SettingName]);
  const fresh = s.nibble_model_config ? [s.nibble_model_config, s.seed] : null;
  const changed = [...run.adapter?.layers.values() ?? []].some(({ initial }) => initial);
  const begun = changed ? [run.adapter!.config, s.seed] : null;
  hash.update(JSON.stringify([1, run.hash, fresh, begun, held, gpu().name, ...gpu().choices]));
  for (const { ids, trained } of all) {
    hash.update(Uint32Array.from([ids.length, ...ids, trained.indexOf(true)]));
  }
  return hash.digest("hex");
}

function readScores(path: string, count: number): Float32Array<ArrayBuffer> | undefined {
  try {
    const source = openSafetensors(path);
    try {
      const values = source.readF32("logps");
      return values.length === count ? values : undefined;
    } finally {
      source.close();
    }
  } catch {
    return undefined; // not there, or damaged: scored again
  }
}
