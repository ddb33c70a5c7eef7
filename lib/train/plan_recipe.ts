/**
 * The memory plan of a recipe, for `deno task plan`.
 * @module
 */
import { BUFFER_KINDS, type BufferKind, gpu, mib } from "../gpu/mod.ts";
import type { MemoryPlan } from "./plan.ts";
import { openRunDevice, prepareRun } from "./prepare_run.ts";
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
  /** Sequences trained on in an epoch. */
  sequences: number;
  /** Optimizer steps of the run. */
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
  await openRunDevice(s);
  const { files, train, order, longest, plan } = await prepareRun(s, {
    ...options,
    onData: (side, report) => options.onNote?.(`${side}: ${report}`),
  });
  files.source.close();
  return { ...plan, sequences: train.lengths.length, maxSteps: order.maxSteps, longest };
}

const MEANING: Record<BufferKind, string> = {
  base: "weights of the base model",
  adapter: "weights of the adapter",
  gradient: "gradients of what trains",
  optimizer: "state of the optimizer",
  activation: "activations kept for the backward pass",
  scratch: "decoded weights, textures and logits, a piece at a time",
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
    ...(plan.hostBytes > 0 ? [line("host", plan.hostBytes, "of the optimizer's state, in pages")] : []),
    `${"total".padEnd(12)}${(peakBytes / 1e9).toFixed(2)} GB`,
    line("largest", plan.largestBinding, `in one binding; ${gpu().name} allows ${limit}`),
  ].join("\n");
}
