/**
 * Plan against device, by kind: SmolLM2-135M full, with LoRA and with QLoRA, a few steps each, as a Markdown table.
 * Run with `deno run -A bench/memory.ts [--key=value ...]`; keys override every recipe. Weights are generated, since
 * bytes do not depend on them. The 7B run is `bench/seven_b.ts`.
 * @module
 */
import { gpu } from "../lib/gpu/mod.ts";
import { measureRun, TABLE_HEAD, tableRows } from "./memory_run.ts";

const overrides = [
  "--random_weights",
  "--model_name_or_path=HuggingFaceTB/SmolLM2-135M",
  "--max_steps=4",
  "--do_eval=false",
  "--eval_on_start=false",
  "--eval_strategy=no",
  "--logging_steps=4",
  "--save_strategy=no",
  "--nibble_sample_prompts=[]",
];
const lines: string[] = [];
for (const kind of ["full", "lora", "qlora"]) {
  const recipe = `recipes/smollm2-135m/sft/config_${kind}.yaml`;
  const { plan, result } = await measureRun(recipe, [...overrides, ...Deno.args]);
  lines.push(...tableRows(`SmolLM2-135M ${kind}`, plan.memory, result.memory));
}
console.log([`\n${gpu().name}\n`, ...TABLE_HEAD, ...lines].join("\n"));
Deno.exit(0); // the device keeps the process alive
