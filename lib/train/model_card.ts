/**
 * The output folder's README.md: a model card as the Hub reads it, with the figures of the run.
 * @module
 */
import { stringify } from "@std/yaml";
import { formatBytes, formatDuration } from "./progress.ts";
import type { Metrics } from "./state.ts";

/** A model or data set by name. */
export interface Named {
  /** Hub id, or the path that was given. */
  name: string;
  /** Whether the name is a Hub id. Only those go into the front matter: the Hub refuses paths there. */
  onHub: boolean;
}

/** How the base was quantized. */
export interface CardQuantization {
  /** `nf4`, `fp4` or `int4`. */
  type: string;
  blockSize: number;
  doubleQuant: boolean;
}

/** What the card tells. What is unknown is left out of it. */
export interface ModelCard {
  /** Name of the result, such as `smollm2-135m-devils-dictionary`. */
  modelName: string;
  base: Named;
  /** Commit or branch of the base. */
  baseRevision?: string;
  /** Adapters that were merged into the base before training, oldest first. */
  merged?: Named[];
  /** True for an adapter, false when all weights were trained. */
  isAdapter: boolean;
  /** Absent where the base was not quantized. */
  quantization?: CardQuantization;
  /** `sft`, `cpt`, `dpo`, `orpo` or `kto`. */
  task: string;
  datasets: Named[];
  /** Licence of the base as its card has it (`apache-2.0`); the result carries it on. */
  license?: string;
  /** Languages by code, such as `en`. */
  languages?: string[];
  /** Evaluation before and after training (`eval_loss`, ...). */
  before?: Metrics;
  after?: Metrics;
  /** Mean training loss of the run. */
  trainLoss?: number;
  steps: number;
  /** Steps that were planned; where more than `steps`, the card says that the run was stopped. */
  plannedSteps?: number;
  epochs?: number;
  /** Tokens trained on. */
  tokens?: number;
  /** Seconds of training. */
  seconds: number;
  /** Parameters trained, and of how many. */
  trainableParameters?: number;
  parameters?: number;
  /** The adapter string of the device, its back end and driver. */
  device: string;
  /** Configurations of the kernels, where they were measured there. */
  kernels?: string;
  /** Most device memory in use, bytes. */
  deviceBytes?: number;
  /** The recipe as YAML. */
  recipe: string;
  /** Path of the loss curve in the folder. */
  lossCurve?: string;
  samples?: { prompt: string; before: string; after: string }[];
  /** Version of nibble. */
  version: string;
}

/**
 * The card as Markdown with YAML front matter.
 *
 * @example
 * ```ts
 * import { modelCard } from "./model_card.ts";
 * const card = modelCard({
 *   modelName: "smollm2-devil",
 *   base: { name: "HuggingFaceTB/SmolLM2-135M-Instruct", onHub: true },
 *   isAdapter: true,
 *   quantization: { type: "nf4", blockSize: 64, doubleQuant: true },
 *   task: "sft",
 *   datasets: [{ name: "assets/data/devils_dictionary", onHub: false }],
 *   before: { eval_loss: 4.2 },
 *   after: { eval_loss: 3.5 },
 *   steps: 40,
 *   seconds: 600,
 *   device: "llvmpipe",
 *   recipe: "lora_r: 16\n",
 *   version: "0.1.0",
 * });
 * if (!card.startsWith("---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n")) throw new Error(card);
 * if (!card.includes("| Loss (held out) | 4.2000 | 3.5000 |")) throw new Error(card);
 * ```
 */
export function modelCard(card: ModelCard): string {
  const sections = [
    `---\n${stringify(frontMatter(card)).trimEnd()}\n---`,
    `# ${oneLine(card.modelName)}`,
    introduction(card),
    results(card),
    card.lossCurve ? `![Loss over the optimizer steps](${encodeURI(card.lossCurve)})` : "",
    samples(card),
    howToLoad(card),
    training(card),
    `<details><summary>Recipe</summary>\n\n${fenced(card.recipe, "yaml")}\n\n</details>`,
  ];
  return sections.filter(Boolean).join("\n\n") + "\n";
}

/** What the Hub reads. Keys as in its model card specification; `base_model` makes the page of the base link here. */
function frontMatter(card: ModelCard): Record<string, unknown> {
  const datasets = card.datasets.filter((d) => d.onHub).map((d) => d.name);
  const method = card.isAdapter ? (card.quantization ? ["lora", "qlora"] : ["lora"]) : ["full-fine-tuning"];
  return {
    ...(card.base.onHub ? { base_model: card.base.name } : {}),
    ...(card.base.onHub ? { base_model_relation: card.isAdapter ? "adapter" : "finetune" } : {}),
    library_name: card.isAdapter ? "peft" : "transformers",
    model_name: card.modelName,
    pipeline_tag: "text-generation",
    tags: ["nibble", ...method, card.task, "webgpu"],
    ...(datasets.length ? { datasets } : {}),
    ...(card.license ? { license: card.license } : {}),
    ...(card.languages?.length ? { language: card.languages } : {}),
  };
}

const TASKS: Record<string, string> = {
  sft: "supervised fine-tuning",
  cpt: "continued pre-training",
  dpo: "direct preference optimization",
  orpo: "odds ratio preference optimization",
  kto: "Kahneman-Tversky optimization",
};

function introduction(card: ModelCard): string {
  const link = ({ name, onHub }: Named, kind: "" | "datasets/") =>
    onHub ? `[${name}](https://huggingface.co/${kind}${name})` : inlineCode(name);
  const what = card.isAdapter ? "A LoRA adapter for" : "A fine-tuned version of";
  const revision = card.baseRevision ? ` (revision ${inlineCode(card.baseRevision)})` : "";
  const on = card.datasets.length ? ` on ${card.datasets.map((d) => link(d, "datasets/")).join(", ")}` : "";
  const q = card.quantization;
  const doubled = q?.doubleQuant ? " and double quantization" : "";
  const base = q
    ? ` While training, the base was held in 4 bits (${q.type}, blocks of ${q.blockSize}${doubled}).`
    : "";
  const merged = card.merged?.length
    ? ` Before training, ${card.merged.map((m) => link(m, "")).join(", then ")} ` +
      `${card.merged.length > 1 ? "were" : "was"} merged into the base` +
      `${card.isAdapter ? ": on the base alone this adapter is out of place." : "."}`
    : "";
  return `${what} ${link(card.base, "")}${revision}, made by ${TASKS[card.task] ?? card.task}${on} ` +
    `with nibble ${card.version}: QLoRA on WebGPU.${base}${merged}`;
}

/** Held-out figures before and after; perplexity where the loss is a mean negative log-likelihood of tokens. */
function results(card: ModelCard): string {
  const rows: string[] = [];
  const row = (name: string, before: number | undefined, after: number | undefined, digits: number) => {
    if (before === undefined && after === undefined) return;
    const show = (v: number | undefined) => v === undefined || !Number.isFinite(v) ? "–" : v.toFixed(digits);
    rows.push(`| ${name} | ${show(before)} | ${show(after)} |`);
  };
  const was = card.before?.eval_loss;
  const is = card.after?.eval_loss;
  row("Loss (held out)", was, is, 4);
  if (card.task === "sft" || card.task === "cpt") {
    row(
      "Perplexity",
      was === undefined ? undefined : Math.exp(was),
      is === undefined ? undefined : Math.exp(is),
      2,
    );
  }
  const others = new Set([...Object.keys(card.before ?? {}), ...Object.keys(card.after ?? {})]);
  for (const name of [...others].sort()) {
    // Speed, counts and places are no result of training.
    if (/^eval_loss$|_runtime$|_per_second$|_samples$|num_tokens$|^epoch$|^step$|perplexity$/.test(name)) {
      continue;
    }
    row(inlineCode(name.replace(/^eval_/, "")), card.before?.[name], card.after?.[name], 4);
  }
  return rows.length ? `## Results\n\n| | Before | After |\n| --- | ---: | ---: |\n${rows.join("\n")}` : "";
}

function training(card: ModelCard): string {
  const stopped = card.plannedSteps !== undefined && card.plannedSteps > card.steps
    ? ` of ${card.plannedSteps} (stopped early)`
    : "";
  const share = card.trainableParameters !== undefined && card.parameters
    ? ` of ${count(card.parameters)} (${(100 * card.trainableParameters / card.parameters).toPrecision(3)} %)`
    : "";
  const rows: [string, string | undefined][] = [
    ["Optimizer steps", `${card.steps}${stopped}`],
    ["Epochs", card.epochs === undefined ? undefined : String(Number(card.epochs.toFixed(2)))],
    ["Tokens", card.tokens === undefined ? undefined : count(card.tokens)],
    ["Time", formatDuration(card.seconds)],
    ["Seconds a step", card.steps > 0 ? three(card.seconds / card.steps) : undefined],
    [
      "Tokens a second",
      card.tokens && card.seconds > 0 ? three(card.tokens / card.seconds) : undefined,
    ],
    ["Mean training loss", card.trainLoss?.toFixed(4)],
    [
      "Parameters trained",
      card.trainableParameters === undefined ? undefined : count(card.trainableParameters) + share,
    ],
    ["Device", inlineCode(card.device)],
    ["Kernels tuned there", card.kernels],
    ["Device memory at most", card.deviceBytes === undefined ? undefined : formatBytes(card.deviceBytes)],
  ];
  const lines = rows.filter(([, value]) => value !== undefined).map(([name, value]) =>
    `| ${name} | ${value} |`
  );
  return `## Training\n\n| | |\n| --- | --- |\n${lines.join("\n")}`;
}

function samples(card: ModelCard): string {
  if (!card.samples?.length) return "";
  const parts = card.samples.map(({ prompt, before, after }) =>
    `**Prompt**\n\n${fenced(prompt)}\n\n**Before**\n\n${fenced(before)}\n\n**After**\n\n${fenced(after)}`
  );
  return `## Samples\n\n${parts.join("\n\n---\n\n")}`;
}

function howToLoad(card: ModelCard): string {
  const base = JSON.stringify(card.base.name); // as good a string for Python as for JSON
  const q = card.quantization;
  // Transformers' bitsandbytes settings have no block size and no int4: only what they can say is said.
  const merged = card.isAdapter ? card.merged ?? [] : [];
  // An adapter is merged into 16 bits: PEFT's merge into 4 bits rounds it away.
  const quantized = q !== undefined && q.blockSize === 64 && (q.type === "nf4" || q.type === "fp4") &&
    merged.length === 0;
  const revision = card.baseRevision ? `, revision=${JSON.stringify(card.baseRevision)}` : "";
  const python = card.isAdapter
    ? [
      ...(quantized ? ["import torch"] : []),
      "from peft import PeftModel",
      `from transformers import AutoModelForCausalLM, AutoTokenizer${
        quantized ? ", BitsAndBytesConfig" : ""
      }`,
      "",
      'folder = "."  # this folder, or its id on the Hub',
      ...(quantized
        ? [
          "four_bits = BitsAndBytesConfig(load_in_4bit=True, " +
          `bnb_4bit_quant_type="${q.type}",`,
          `    bnb_4bit_use_double_quant=${
            q.doubleQuant ? "True" : "False"
          }, bnb_4bit_compute_dtype=torch.bfloat16)`,
          `base = AutoModelForCausalLM.from_pretrained(${base}${revision}, quantization_config=four_bits)`,
        ]
        : [`base = AutoModelForCausalLM.from_pretrained(${base}${revision})`]),
      ...merged.map(({ name }) =>
        `base = PeftModel.from_pretrained(base, ${JSON.stringify(name)}).merge_and_unload()`
      ),
      "model = PeftModel.from_pretrained(base, folder)",
      "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    : [
      "from transformers import AutoModelForCausalLM, AutoTokenizer",
      "",
      'folder = "."  # this folder, or its id on the Hub',
      "model = AutoModelForCausalLM.from_pretrained(folder)",
      "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ];
  const shell = (text: string) => /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
  const chat = card.isAdapter
    ? `deno task chat ${
      merged.length ? "" : `--model ${shell(card.base.name)} `
    }--adapter path/to/this/folder`
    : "deno task chat --model path/to/this/folder";
  return `## Use\n\nIn Python:\n\n${fenced(python.join("\n"), "python")}\n\nWith nibble:\n\n${
    fenced(chat, "sh")
  }`;
}

/** A code block whose fence is longer than any run of backticks inside. */
function fenced(text: string, language = "text"): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text.replace(/\n+$/, "")}\n${fence}`;
}

/** Code in a line or table cell: no line breaks, no bar, no backtick may end it. */
function inlineCode(text: string): string {
  return `\`${oneLine(text).replaceAll("`", "'").replaceAll("|", "\\|")}\``;
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

/** `1,234,567`. */
function count(n: number): string {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Three figures, and whole numbers where they need more. */
function three(n: number): string {
  return n < 100 ? n.toPrecision(3) : count(n);
}
