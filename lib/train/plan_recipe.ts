/**
 * What training does before it loads a weight: files, data, order of batches, memory plan.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { BUFFER_KINDS, type BufferKind, gpu, mib, openGpu } from "../gpu/mod.ts";
import { openBase } from "./model_setup.ts";
import { type MemoryPlan, planMemory } from "./plan.ts";
import { evalBatches, evaluates, loadRows, prepareRows, trainingOrder } from "./prepare.ts";
import type { TrainSettings } from "./settings.ts";

/** Options of {@link planRecipe}. */
export interface PlanRecipeOptions {
  /** Folder against which relative paths of the recipe are tried too. */
  base?: string | undefined;
  /** Called with what was found: files, rows, sequences. */
  onNote?: ((note: string) => void) | undefined;
}

/** A plan, and the run that it is for. */
export interface RecipePlan extends MemoryPlan {
  /** Sequences trained on in an epoch, and optimizer steps of the run. */
  sequences: number;
  maxSteps: number;
  /** Tokens of the longest sequence. */
  longest: number;
}

/**
 * The memory that a recipe's run will take, by the same steps as training: files and data are read, no weight is.
 *
 * @throws NibbleError for what is wrong with files or data; `gpu/budget`, `gpu/buffer-limit` or `gpu/host-memory`
 *   when the run cannot fit
 */
export async function planRecipe(s: TrainSettings, options: PlanRecipeOptions = {}): Promise<RecipePlan> {
  await openGpu(s.nibble_memory_budget_gb ? { budgetBytes: s.nibble_memory_budget_gb * 1e9 } : undefined);
  const { files, tokenizer } = await openBase(s, options);
  try {
    const rows = await loadRows(s, options);
    const train = prepareRows(rows.train, tokenizer, s, "train");
    options.onNote?.(`train: ${train.report}`);
    const test = rows.test && evaluates(s) ? prepareRows(rows.test, tokenizer, s, "eval") : undefined;
    if (test) options.onNote?.(`eval: ${test.report}`);
    const padId = tokenizer.padId ?? 0;
    const order = trainingOrder(train.packed, s, padId);
    const evals = test ? evalBatches(test.packed, s, padId) : [];
    const longest = train.packed.reduce((n, p) => Math.max(n, p.ids.length), 0);
    const positions = evals.reduce((n, b) => Math.max(n, b.time), Math.max(longest, s.max_length ?? 0));
    const maxPositions = positions + s.nibble_sample_max_new_tokens + 64;
    const plan = await planMemory(s, { files, order, evals, maxPositions });
    checkHost(plan);
    return { ...plan, sequences: train.packed.length, maxSteps: order.maxSteps, longest };
  } finally {
    files.source.close();
  }
}

/** On a software adapter device memory is the machine's own, whose size is known. */
function checkHost({ memory }: MemoryPlan): void {
  if (!/llvmpipe|swiftshader/i.test(gpu().name)) return;
  const { total } = Deno.systemMemoryInfo();
  if (memory.peakBytes <= total) return;
  throw new NibbleError("gpu/host-memory", `The run needs ${mib(memory.peakBytes)} of memory`, {
    where: `this machine has ${mib(total)}, and ${gpu().name} keeps device memory in it`,
    remedy:
      "Lower per_device_train_batch_size or max_length, turn on gradient_checkpointing or load_in_4bit.",
  });
}

const MEANING: Record<BufferKind, string> = {
  base: "weights of the base model",
  adapter: "weights of the adapter",
  gradient: "gradients of what trains",
  optimizer: "state of the optimizer",
  activation: "activations kept for the backward pass",
  scratch: "decoded weights and logits, a piece at a time",
};

/** The plan as a table: bytes by kind at the moment when most are in use, and what limits them. */
export function planTable(plan: RecipePlan): string {
  const { atPeak, peakBytes } = plan.memory;
  const line = (name: string, bytes: number, text: string) =>
    `${name.padEnd(12)}${mib(bytes).padStart(12)}  ${text}`;
  const limit = mib(gpu().maxBinding);
  return [
    `${plan.maxSteps} steps over ${plan.sequences} sequences of at most ${plan.longest} tokens`,
    "",
    ...BUFFER_KINDS.filter((kind) => atPeak[kind] > 0).map((kind) => line(kind, atPeak[kind], MEANING[kind])),
    line(
      "together",
      peakBytes,
      Number.isFinite(plan.budget) ? `of a budget of ${mib(plan.budget)}` : "at the peak",
    ),
    line("largest", plan.largestBinding, `in one binding; ${gpu().name} allows ${limit}`),
  ].join("\n");
}
