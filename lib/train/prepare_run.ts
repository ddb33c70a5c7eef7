/**
 * What comes before a weight is loaded: device, files, data, the order of batches, the memory plan. Training and
 * `deno task plan` both go through here, so they refuse the same things.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { adapterKind, type Gpu, gpu, mib, openGpu } from "../gpu/mod.ts";
import type { Tokenizer } from "../text/mod.ts";
import { type BaseFiles, openBase, type OpenBaseOptions } from "./model_setup.ts";
import { refuseModelFolder } from "./output_folder.ts";
import { memoryBudget, type MemoryPlan, planMemory } from "./plan.ts";
import { standInRows } from "./generated.ts";
import type { Objective } from "./objective.ts";
import {
  evalBatches,
  evalItems,
  evaluates,
  loadRows,
  type Order,
  type Prepared,
  trainingOrder,
} from "./prepare.ts";
import type { TrainSettings } from "./settings.ts";
import { type TrainTask, trainTask } from "./task.ts";

/** Options of {@link prepareRun}. */
export interface PrepareRunOptions extends OpenBaseOptions {
  /** Called with what became of each side's rows. */
  onData?: ((side: "train" | "eval", report: string) => void) | undefined;
}

/** A run that can begin. Its owner closes `files.source`. */
export interface PreparedRun extends BaseFiles {
  objective: Objective;
  train: Prepared;
  test: Prepared | undefined;
  order: Order;
  evals: Batch[];
  /** Tokens of the longest training sequence. */
  longest: number;
  /** Positions that the model is loaded for: sequences and samples. */
  maxPositions: number;
  plan: MemoryPlan;
}

/** Opens the device within the recipe's budget, with a peak of its own. */
export async function openRunDevice(s: TrainSettings): Promise<Gpu> {
  const budgetBytes = memoryBudget(s);
  const device = await openGpu(Number.isFinite(budgetBytes) ? { budgetBytes } : undefined);
  device.pool.resetPeak(); // of this run, not of an earlier one on the same device
  return device;
}

/**
 * Reads files and data and plans the run; no weight is read.
 *
 * @throws NibbleError for what is wrong with files or data; `gpu/budget`, `gpu/buffer-limit` or `gpu/host-memory`
 *   when the run cannot fit. The model's file is closed then.
 */
export async function prepareRun(s: TrainSettings, options: PrepareRunOptions = {}): Promise<PreparedRun> {
  const base = await openBase(s, options);
  try {
    refuseModelFolder(s, base.files.path); // an adapter's base too, or one in a cache
    const { objective, ...task } = trainTask(s);
    const { train, test } = await prepareSides(s, task, base.tokenizer, options);
    options.onData?.("train", train.report);
    if (test) options.onData?.("eval", test.report);
    const order = trainingOrder(train, s);
    const evals = test ? evalBatches(test, s) : [];
    const longest = train.lengths.reduce((a, b) => Math.max(a, b), 0);
    const positions = evals.reduce((n, b) => Math.max(n, b.time), Math.max(longest, s.max_length ?? 0));
    const maxPositions = positions + s.nibble_sample_max_new_tokens + 64;
    const scored = train.scored && train.batch(evalItems(train, s)[0]!);
    const plan = await planMemory(s, { files: base.files, objective, order, evals, scored, maxPositions });
    checkHost(plan);
    return { ...base, objective, train, test, order, evals, longest, maxPositions, plan };
  } catch (error) {
    base.files.source.close();
    throw error;
  }
}

/** Reads both sides and encodes them, with their rows in memory or, with `dataset_streaming`, one by one. */
export async function prepareSides(
  s: TrainSettings,
  { prepare, stream }: Pick<TrainTask, "prepare" | "stream">,
  tokenizer: Tokenizer,
  options: OpenBaseOptions,
): Promise<{ train: Prepared; test: Prepared | undefined }> {
  if (s.dataset_streaming && stream) return await stream(tokenizer, s, options);
  const rows = await loadRows(s, options).catch((error) => standInRows(s, error, options.onNote));
  const train = prepare(rows.train, tokenizer, s, "train");
  return { train, test: rows.test && evaluates(s) ? prepare(rows.test, tokenizer, s, "eval") : undefined };
}

/** State that is paged lies in the machine's memory; on a software adapter device memory does too. */
function checkHost({ memory, hostBytes }: MemoryPlan): void {
  const software = adapterKind(gpu()) !== "gpu";
  const bytes = hostBytes + (software ? memory.peakBytes : 0);
  if (bytes === 0) return;
  const { total } = Deno.systemMemoryInfo();
  if (bytes <= total) return;
  throw new NibbleError("gpu/host-memory", `The run needs ${mib(bytes)} of memory`, {
    where: `this machine has ${mib(total)}${software ? `, and ${gpu().name} keeps device memory in it` : ""}`,
    remedy:
      "Lower per_device_train_batch_size or max_length, turn on gradient_checkpointing or load_in_4bit.",
  });
}
