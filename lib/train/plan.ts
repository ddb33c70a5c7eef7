/**
 * The memory plan: a rehearsal of the run on a device that only counts.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import type { ModelFiles } from "../formats/mod.ts";
import { NibbleError } from "../errors.ts";
import { byKind, gpu, mib, type Rehearsal, rehearse } from "../gpu/mod.ts";
import { differentiate, noGrad } from "../tensor/tape.ts";
import { scope } from "../tensor/tensor.ts";
import { setUpModel } from "./model_setup.ts";
import type { Objective } from "./objective.ts";
import { needsReference } from "./objectives/preference_loss.ts";
import type { Order } from "./prepare.ts";
import { noEffect, type TrainSettings } from "./settings.ts";

/** What a run will take. */
export interface MemoryPlan extends Rehearsal {
  /** Bytes that buffers may take together; Infinity without `nibble_memory_budget_gb`. */
  budget: number;
  /** Bytes of a paged optimizer's state in host memory. */
  hostBytes: number;
  /** Bytes of it that the budget leaves room for on the device. */
  residentBytes: number;
}

/** Bytes that the recipe allows; Infinity without `nibble_memory_budget_gb`. */
export function memoryBudget(s: TrainSettings): number {
  return s.nibble_memory_budget_gb ? s.nibble_memory_budget_gb * 1e9 : Infinity;
}

/** What the plan is made from. */
export interface PlanInputs {
  files: Pick<ModelFiles, "config" | "source" | "path">;
  objective: Objective;
  order: Order;
  evals: readonly Batch[];
  /** The largest batch that the reference scores, where there is one. */
  scored?: Batch | undefined;
  maxPositions: number;
}

/**
 * Runs loading, the largest training step and the largest evaluation batch on a device that allocates nothing, so
 * the bytes are those that the run will take: the very same code asks for them. A paged optimizer's state is
 * rehearsed on the host; what the run leaves free of a budget is then given to it.
 *
 * @throws NibbleError `gpu/budget` or `gpu/buffer-limit` when the run cannot fit, before a weight is read
 */
export async function planMemory(s: TrainSettings, inputs: PlanInputs): Promise<MemoryPlan> {
  const budget = memoryBudget(s);
  let plan = { ...await rehearseRun(s, inputs, 0), budget };
  if (plan.hostBytes > 0 && Number.isFinite(budget)) {
    // what is kept for reuse counts too: without room for it every step would make it anew
    const spare = budget - plan.memory.heldPeakBytes;
    if (spare > 0) plan = { ...await rehearseRun(s, inputs, spare), budget };
  }
  if (plan.memory.peakBytes > budget) {
    throw new NibbleError("gpu/budget", `The run needs ${mib(plan.memory.peakBytes)} of device memory`, {
      where: `nibble_memory_budget_gb allows ${mib(budget)}; at the peak: ${byKind(plan.memory.atPeak)}`,
      remedy:
        "Lower per_device_train_batch_size or max_length, turn on gradient_checkpointing or load_in_4bit, take a " +
        "paged_* or 8-bit optim, or raise nibble_memory_budget_gb.",
    });
  }
  return plan;
}

/** The rehearsal, with that many bytes of a paged optimizer's state on the device. */
async function rehearseRun(
  s: TrainSettings,
  inputs: PlanInputs,
  residentBytes: number,
): Promise<Omit<MemoryPlan, "budget">> {
  const { objective } = inputs;
  let hostBytes = 0;
  const rehearsal = await rehearse(gpu(), Infinity, async () => {
    const extra = { rehearsal: true, residentBytes };
    const run = await setUpModel(s, inputs.files as ModelFiles, inputs.maxPositions, extra);
    hostBytes = run.optimizer.hostBytes;
    if (needsReference(objective) && inputs.scored) {
      noGrad(() => scope(() => void objective.score(run.model, inputs.scored!)));
    }
    for (const batch of largest(objective, inputs.evals)) {
      noGrad(() => scope(() => void objective.loss(run.model, batch, { totals: objective.counts(batch) })));
    }
    const steps = Math.min(inputs.order.maxSteps, inputs.order.stepsPerEpoch);
    const window = Array.from({ length: Math.min(steps, 200) }, (_, step) => inputs.order.window(step))
      .flat();
    for (const batch of largest(objective, window)) {
      const pass = {
        checkpointing: s.gradient_checkpointing,
        dropoutSeed: noEffect("lora_dropout", s) ? undefined : 1,
        noise: s.neftune_noise_alpha ? { magnitude: 1, seed: 1 } : undefined,
        totals: objective.counts(batch),
      };
      scope(() => void differentiate(() => objective.loss(run.model, batch, pass), undefined));
    }
    await run.optimizer.step({ lr: 0, step: 1, gradScale: 1 });
  });
  return { ...rehearsal, hostBytes, residentBytes };
}

/** The batch with the most positions and the one with the most trained tokens. */
function largest(objective: Objective, batches: readonly Batch[]): Batch[] {
  const usable = batches.filter((b) => objective.counts(b)[objective.unit]);
  if (usable.length === 0) return [];
  const most = (f: (b: Batch) => number) => usable.reduce((a, b) => f(b) > f(a) ? b : a);
  return [...new Set([most((b) => b.ids.length), most((b) => b.trainedTokens)])];
}

/** The plan as a line for the log. */
export function formatPlan(plan: MemoryPlan): string {
  const { peakBytes } = plan.memory;
  const kinds = byKind(plan.memory.atPeak);
  const budget = Number.isFinite(plan.budget) ? ` of ${mib(plan.budget)}` : "";
  const host = plan.hostBytes > 0 ? `; optimizer state on the host ${mib(plan.hostBytes)}` : "";
  return `plan        ${mib(peakBytes)}${budget}: ${kinds}${host}; largest binding ${
    mib(plan.largestBinding)
  }, ` +
    `${plan.dispatches} launches rehearsed`;
}
