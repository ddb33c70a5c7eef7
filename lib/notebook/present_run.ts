/**
 * How models, adapters, recipes, plans and finished runs show themselves.
 * @module
 */
import { BUFFER_KINDS, type Gpu } from "../gpu/mod.ts";
import type { Adapter } from "../lora/lora.ts";
import { describeLoad } from "../model/load.ts";
import type { LinearLayer } from "../model/linear.ts";
import type { Model } from "../model/model.ts";
import { QuantizedTensor } from "../quant/mod.ts";
import { explainRecipe, type Recipe } from "../recipe/mod.ts";
import { planTable, type RecipePlan } from "../train/plan_recipe.ts";
import type { TrainResult } from "../train/run.ts";
import { bytesText, type Table, tableHtml, tableText } from "./html.ts";
import { showsTimings } from "./kernel.ts";
import type { Presentation } from "./present.ts";

/** An adapter's name, what works on it, and what it allows. */
export function presentGpu({ name, features, limits, maxBinding }: Gpu): Presentation {
  const yes = (works: boolean) => works ? "yes" : "no";
  const table = [{
    "16-bit arithmetic": yes(features.f16),
    "subgroups": yes(features.subgroups),
    "one binding": bytesText(maxBinding),
    "one buffer": bytesText(limits.maxBufferSize),
    "invocations a workgroup": limits.maxComputeInvocationsPerWorkgroup,
  }];
  return { title: name, table };
}

/** The parts of a model: embeddings, each kind of linear layer, norms. */
export function presentModel(model: Model): Presentation {
  const c = model.config;
  const title = `${c.model_type} of ${c.num_hidden_layers} blocks, ${c.hidden_size} wide, ` +
    `${c.num_attention_heads} heads over ${c.num_key_value_heads}, ${
      model.summary.parameters.toLocaleString("en")
    } parameters`;
  const kinds = new Map<string, LinearLayer[]>();
  for (const layer of model.linears.values()) {
    const kind = layer.module.replace(/\.\d+\./g, ".*.");
    kinds.set(kind, [...(kinds.get(kind) ?? []), layer]);
  }
  const rows: Table = [];
  const add = (part: string, count: number, shape: readonly number[], held: string, bytes: number) =>
    rows.push({ part, count, shape: `[${shape.join(", ")}]`, held, bytes: bytesText(bytes) });
  const rest = new Map([...model.parameters].filter(([name]) => !/norm|bias/.test(name)));
  for (const [name, t] of rest) add(name.replace(/\.weight$/, ""), 1, t.shape, t.dtype, t.bytes);
  for (const [kind, layers] of kinds) {
    const { weight, shape } = layers[0]!;
    const held = weight instanceof QuantizedTensor
      ? `${weight.quantType}, ${(8 * weight.bytes / weight.size).toFixed(3)} bits`
      : weight.dtype;
    add(kind, layers.length, shape, held, layers.reduce((n, l) => n + l.weight.bytes, 0));
  }
  const small = [...model.parameters].filter(([name]) => !rest.has(name)).map(([, t]) => t);
  if (small.length) {
    add("norms and biases", small.length, small[0]!.shape, "f32", small.reduce((n, t) => n + t.bytes, 0));
  }
  return { title, table: rows, text: describeLoadOf(model) };
}

/** The report of loading; without the seconds where outputs are kept. */
function describeLoadOf(model: Model): string {
  const text = describeLoad(model);
  return showsTimings() ? text : text.replace(/; loaded in [\d.]+ s/, "");
}

/** Rank, scale and size of an adapter. */
export function presentAdapter(adapter: Adapter): Presentation {
  const { config: c, layers, enabled } = adapter;
  const list = [...layers.values()];
  const trained = list.reduce((n, { a, b }) => n + a.size + b.size, 0);
  const base = list.reduce((n, { layer: { shape } }) => n + shape[0] * shape[1], 0);
  const title = `LoRA of rank ${c.r} on ${list.length} layers, ${trained.toLocaleString("en")} parameters` +
    `${enabled ? "" : ", switched off"}`;
  const kinds = [...new Set([...layers.keys()].map((module) => module.split(".").at(-1)!))];
  const table = [{
    "scale": `${list[0]?.scaling.toPrecision(4)} (alpha ${c.lora_alpha}${c.use_rslora ? ", rsLoRA" : ""})`,
    "dropout": c.lora_dropout,
    "layers": kinds.join(", "),
    "bytes": bytesText(4 * trained),
    "share of what it adapts": `${(100 * trained / base).toFixed(2)} %`,
  }];
  return { title, table };
}

/** What a recipe sets: what was given, and where. */
export function presentRecipe(recipe: Recipe): Presentation {
  const table = [...recipe.provenance].filter(([, origin]) => origin.from !== "default").map(
    ([key, origin]) => {
      const value = recipe.settings[key];
      return {
        key: key as string,
        value: typeof value === "string" ? value : JSON.stringify(value),
        from: origin.from === "recipe" && origin.line ? `line ${origin.line}` : origin.from,
      };
    },
  );
  const title = `Recipe for ${recipe.task}${recipe.file ? `, ${recipe.file}` : ""}`;
  return { title, ...(table.length ? { table } : {}), text: explainRecipe(recipe) };
}

/** A plan's bytes by kind. */
export function presentPlan(plan: RecipePlan): Presentation {
  const { atPeak, peakBytes } = plan.memory;
  const kinds = BUFFER_KINDS.filter((kind) => atPeak[kind] > 0);
  const rows = [...kinds.map((kind) => [kind, atPeak[kind]] as const), ["together", peakBytes] as const];
  const table: Table = rows.map(([what, bytes]) => ({
    what,
    bytes: bytesText(bytes),
    share: `${(100 * bytes / peakBytes).toFixed(1)} %`,
  }));
  table.push({ what: "largest in one binding", bytes: bytesText(plan.largestBinding), share: "" });
  const title = `${plan.maxSteps} steps over ${plan.sequences} sequences of at most ${plan.longest} tokens`;
  return { title, table, text: planTable(plan).split("\n").slice(2).join("\n") };
}

/** Loss before and after, samples, and what the run took. */
export function presentResult(result: TrainResult): Presentation {
  const { steps, maxSteps, stopped, output_dir, memory, seconds, before, after, samples } = result;
  const time = showsTimings() ? `, ${seconds.toFixed(0)} s` : "";
  const title = `${steps} of ${maxSteps} steps${stopped ? ", stopped" : ""}${time}, ${
    bytesText(memory.peakBytes)
  } of device memory at the peak: ${output_dir}`;
  const table: Table = ([["before", before], ["after", after]] as const).flatMap(([when, log]) =>
    log
      ? [{
        "held out": when,
        loss: log.eval_loss.toFixed(4),
        perplexity: Math.exp(log.eval_loss).toFixed(2),
      }]
      : []
  );
  const tables = [table, samples.map((sample): Table[number] => ({ ...sample }))].filter((t) => t.length > 0);
  return { title, html: tables.map(tableHtml).join(""), text: tables.map(tableText).join("\n\n") };
}
