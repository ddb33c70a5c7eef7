/**
 * What a run writes: weights with their tokenizer, model card, texts; and what the model says to a prompt.
 * @module
 */
import { join } from "@std/path";
import { MERGED_ADAPTERS, type MergedAdapter } from "../formats/mod.ts";
import { byKind, gpu, type MemoryReport, mib } from "../gpu/mod.ts";
import { STORED_TYPES, writeModel } from "../lora/merge.ts";
import { saveAdapter } from "../lora/peft.ts";
import { quantizationName } from "../lora/provenance.ts";
import { generate } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import { encodeChatPrompt, type Tokenizer } from "../text/mod.ts";
import { VERSION } from "../version.ts";
import type { Fingerprint } from "./fingerprint.ts";
import type { EvalLog } from "./evaluate.ts";
import type { LoopState } from "./loop.ts";
import { describeKernels } from "./kernels.ts";
import { modelCard } from "./model_card.ts";
import type { Objective } from "./objective.ts";
import type { BaseFiles, TrainableModel } from "./model_setup.ts";
import type { MemoryPlan } from "./plan.ts";
import type { evalBatches, trainingOrder } from "./prepare.ts";
import type { Reporter } from "./progress.ts";
import { openSettings, runName } from "./record.ts";
import type { TrainSettings } from "./settings.ts";

/** A prompt and what the model says to it before and after. */
export interface Sample {
  /** What was asked. */
  prompt: string;
  /** The answer before training. */
  before: string;
  /** The answer after it. */
  after: string;
}

/** A run with its model on the device: what the stages after loading share. */
export interface RunParts {
  reporter: Reporter;
  objective: Objective;
  setUp: TrainableModel;
  tokenizer: Tokenizer;
  hash: string;
  origin: BaseFiles["origin"];
  order: ReturnType<typeof trainingOrder>;
  evals: ReturnType<typeof evalBatches>;
  chat: boolean;
  plan: MemoryPlan;
  fingerprint: Fingerprint;
}

/** Adapter or whole model, with the tokenizer beside it. */
export async function writeWeights(
  folder: string,
  s: TrainSettings,
  { setUp: { model, adapter }, tokenizer, hash, origin }: RunParts,
): Promise<void> {
  if (adapter) {
    await saveAdapter(adapter, folder, {
      base: origin.base,
      revision: origin.revision,
      provenance: {
        base_hash: hash,
        ...(s.load_in_4bit
          ? {
            base_quantization: quantizationName({
              quantType: s.bnb_4bit_quant_type,
              blocksize: s.bnb_4bit_blocksize,
              doubleQuant: s.use_bnb_nested_quant,
            }),
          }
          : {}),
      },
      residualBase: join(s.output_dir, "residual_base"), // one for the run, not one a checkpoint
    });
  } else {
    const { torch_dtype: stored } = s;
    const dtype = stored === null || stored === "auto" ? "F32" : STORED_TYPES[stored];
    await writeModel(model, undefined, folder, { dtype });
  }
  tokenizer.save(folder);
}

/** The model's greedy answer to a prompt. */
export async function complete(
  model: Model,
  { tokenizer, chat }: RunParts,
  prompt: string,
  s: TrainSettings,
): Promise<string> {
  const ids = chat
    ? encodeChatPrompt(tokenizer, [{ role: "user", content: prompt }])
    : tokenizer.encode(prompt);
  const { ids: out } = await generate(model, ids, {
    max_new_tokens: s.nibble_sample_max_new_tokens,
    eos_token_id: tokenizer.eosIds,
    holdWeights: false, // the run's plan has no room for it
  });
  return tokenizer.decode(out, { skipSpecialTokens: true }).trim();
}

/** An evaluation as files and cards hold it: without the step, with perplexity where the loss is one of tokens. */
export function evalMetrics(log: EvalLog, objective: Objective): Record<string, number> {
  const { step: _, ...metrics } = log;
  return objective.unit === "tokens" ? { ...metrics, perplexity: Math.exp(log.eval_loss) } : metrics;
}

/** What a finished run came to, for its card. */
export interface Outcome {
  before: EvalLog | undefined;
  after: EvalLog | undefined;
  seconds: number;
  end: LoopState;
  memory: MemoryReport;
  samples: Sample[];
  trainLoss: number;
}

/** The model card of a finished run. */
export function card(s: TrainSettings, recipeText: string | undefined, p: RunParts, o: Outcome): string {
  const named = (name: string) => ({
    name,
    onHub: /^[\w.-]+\/[\w.-]+$/.test(name) && !name.startsWith("assets/"),
  });
  const names = s.dataset_mixture?.datasets.map((d) => d.id) ?? Object.keys(s.dataset_mixer ?? {});
  const { model, adapter, pages } = p.setUp;
  return modelCard({
    modelName: runName(s),
    base: named(p.origin.base),
    ...(p.origin.revision ? { baseRevision: p.origin.revision } : {}),
    merged: ((model.rawConfig[MERGED_ADAPTERS] ?? []) as MergedAdapter[]).map((m) => named(m.adapter)),
    isAdapter: adapter !== undefined,
    ...(s.load_in_4bit
      ? {
        quantization: {
          type: s.bnb_4bit_quant_type,
          blockSize: s.bnb_4bit_blocksize,
          doubleQuant: s.use_bnb_nested_quant,
        },
      }
      : {}),
    task: s.nibble_task ?? "sft",
    datasets: (names.length > 0 ? [...new Set(names)] : [s.dataset_name!]).map(named),
    ...(o.before ? { before: evalMetrics(o.before, p.objective) } : {}),
    ...(o.after ? { after: evalMetrics(o.after, p.objective) } : {}),
    trainLoss: o.trainLoss,
    steps: o.end.step,
    plannedSteps: p.order.maxSteps,
    epochs: o.end.step / p.order.stepsPerEpoch,
    tokens: o.end.numTokens,
    seconds: o.seconds,
    trainableParameters: pages.count,
    parameters: model.summary.parameters,
    device: gpu().name,
    ...(gpu().choices.size > 0 ? { kernels: describeKernels(gpu().choices) } : {}),
    deviceBytes: o.memory.peakBytes,
    recipe: recipeText ?? JSON.stringify(openSettings(s), null, 2),
    lossCurve: "loss_curve.svg",
    samples: o.samples,
    version: VERSION,
  });
}

/** The peak of device memory by kind, as a line for the log. */
export function memoryLine(m: MemoryReport): string {
  const held = `${mib(m.heldPeakBytes)} held with buffers kept for reuse`;
  return `memory      ${mib(m.peakBytes)} at the peak: ${byKind(m.atPeak)} (${held})`;
}
