/**
 * Generation by SmolLM2-135M with a cache of keys and values: tokens a second of the prompt and of the text, in f32 and in
 * NF4, each without and with an adapter (r 16, all linear layers).
 *
 *     deno run -A bench/generate.ts [--prompts=128,512] [--tokens=32] [--rounds=3] [--forms=f32,NF4] [--profile]
 *
 * Greedy, one sequence. Prefill ends when the first token is known, decode counts those after it. Medians; the forms run
 * in turns. `--profile` adds what one decoded token launches and how long its kernels take.
 * @module
 */
import { addLora, loadModel } from "../lib/api.ts";
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { profile } from "../lib/gpu/profile.ts";
import { generate } from "../lib/model/generate.ts";
import type { Model } from "../lib/model/model.ts";
import { median } from "./interleave.ts";
import { option, row } from "./report.ts";

const prompts = option("prompts", "128,512").split(",").map(Number);
const tokens = Number(option("tokens", "32")), rounds = Number(option("rounds", "3"));
const forms = option("forms", "f32,NF4").split(",");

/** Tokens that mean nothing, the same in every run. */
const promptOf = (length: number) => Array.from({ length }, (_, i) => 100 + (i * 7919) % 40000);
const run = (model: Model, length: number, wanted = tokens) =>
  generate(model, promptOf(length), { max_new_tokens: wanted, eos_token_id: [] });

await openGpu();
const setUps: { name: string; model: Model }[] = [];
for (const form of forms) {
  for (const adapter of [false, true]) {
    const model = await loadModel("HuggingFaceTB/SmolLM2-135M-Instruct", {
      ...{
        maxPositions: Math.max(128, ...prompts) + Math.max(18, tokens),
        quantization: form === "NF4" ? "nf4" : undefined,
      },
    });
    if (adapter) addLora(model, { r: 16, target_modules: "all-linear", init_lora_weights: false });
    setUps.push({ name: adapter ? `${form}, adapter` : form, model });
  }
}

console.log(`${gpu().name}: ${tokens} tokens after prompts of ${prompts.join(" and ")}\n`);
console.log(row("model", "prompt", "prefill tokens/s", "decode tokens/s", "ms a token"));
console.log(row("---", "---:", "---:", "---:", "---:"));
for (const length of prompts) {
  const times = setUps.map(() => ({ prefill: [] as number[], decode: [] as number[] }));
  for (const { model } of setUps) await run(model, length, 2); // compiles
  for (let round = 0; round < rounds; round++) {
    for (const [i, { model }] of setUps.entries()) {
      const { prefillSeconds, decodeSeconds, ids } = await run(model, length);
      times[i]!.prefill.push(length / prefillSeconds);
      times[i]!.decode.push((ids.length - 1) / decodeSeconds);
    }
  }
  for (const [i, { name }] of setUps.entries()) {
    const [prefill, decode] = [times[i]!.prefill, times[i]!.decode].map(median) as [number, number];
    console.log(row(name, length, prefill.toFixed(0), decode.toFixed(1), (1000 / decode).toFixed(1)));
  }
}

if (Deno.args.includes("--profile") && gpu().features.timestamps) {
  for (const { name, model } of setUps) {
    const of = async (n: number) =>
      new Map((await profile(gpu(), () => run(model, 128, n).then(() => {})))
        .map((time) => [time.label, time]));
    const few = await of(2), many = await of(18);
    const one = [...many.values()].map(({ label, launches, milliseconds }) => {
      const less = few.get(label) ?? { launches: 0, milliseconds: 0 };
      return {
        label,
        launches: (launches - less.launches) / 16,
        ms: (milliseconds - less.milliseconds) / 16,
      };
    }).filter(({ launches }) => launches > 0).sort((a, b) => b.ms - a.ms);
    const total = one.reduce((sum, { ms }) => sum + ms, 0);
    console.log(`\n${name}: one token after 128, kernels ${total.toFixed(1)} ms\n`);
    console.log(row("kernel", "launches", "ms", "share"));
    console.log(row("---", "---:", "---:", "---:"));
    for (const { label, launches, ms } of one) {
      console.log(row(label, launches.toFixed(0), ms.toFixed(2), `${(100 * ms / total).toFixed(1)} %`));
    }
  }
}
Deno.exit(0); // the device keeps the process alive
