/**
 * What four bits cost: perplexity of SmolLM2-135M by form of its linear layers, and the evaluation loss that QLoRA ends
 * at beside LoRA's on the 16-bit base.
 *
 *     deno run -A bench/quality.ts [--windows=8] [--length=256] [--model=HuggingFaceTB/SmolLM2-135M-Instruct]
 *     deno run -A bench/quality.ts --training [--recipe=recipes/quickstart/config.yaml] [--seeds=2] [--steps=...]
 *
 * The text is of Shakespeare's plays (assets/data/shakespeare/test.jsonl), on which SmolLM2 was not tuned. Every form
 * sees the same tokens, so differences are of pairs: their standard error is over the windows.
 * @module
 */
import { device, loadModel, loadTokenizer } from "../lib/api.ts";
import type { QuantizationConfig } from "../lib/model/load.ts";
import { forward, type Model, modelInput } from "../lib/model/model.ts";
import { readRecipe, recipeOf } from "../lib/recipe/mod.ts";
import { linearCrossEntropy } from "../lib/tensor/ops/cross_entropy.ts";
import { noGrad } from "../lib/tensor/tape.ts";
import { keep, scope } from "../lib/tensor/tensor.ts";
import { train } from "../lib/train/run.ts";
import { option } from "./report.ts";

const mean = (x: readonly number[]) => x.reduce((a, v) => a + v, 0) / x.length;
const spread = (x: readonly number[]) =>
  Math.sqrt(x.reduce((a, v) => a + (v - mean(x)) ** 2, 0) / Math.max(1, x.length - 1) / x.length);

/** The plays as running text, speakers as print has them. */
function playText(): string {
  const rows = Deno.readTextFileSync(new URL("../assets/data/shakespeare/test.jsonl", import.meta.url));
  return rows.trim().split("\n").map((row) =>
    (JSON.parse(row).text as string).replace(/<\|im_start\|>(.*)\n/g, "$1:\n").replaceAll("<|im_end|>", "\n")
  ).join("");
}

/** Loss of each window, in nats a token. */
async function losses(model: Model, windows: readonly number[][]): Promise<number[]> {
  const out = [];
  for (const window of windows) {
    const n = window.length;
    const stats = noGrad(() =>
      keep(scope(() => {
        const input = modelInput({
          ids: Uint32Array.from(window),
          positions: Uint32Array.from(window.keys()),
          segments: new Uint32Array(n).fill(1),
          batch: 1,
          time: n,
        });
        const labels = Int32Array.from([...window.slice(1), -100]);
        return linearCrossEntropy(forward(model, input), model.head, labels).stats;
      }))
    );
    out.push((await stats.data())[0]! / (n - 1));
    stats.dispose();
  }
  return out;
}

/** Each form of the linear layers; embeddings, norms and head stay as they are. */
const FORMS: [name: string, quantization: Partial<QuantizationConfig> | undefined][] = [
  ["as stored, in f32", undefined],
  ["NF4", { quantType: "nf4", doubleQuant: false }],
  ["NF4, double quantization", { quantType: "nf4" }],
  ["FP4, double quantization", { quantType: "fp4" }],
  ["int4, double quantization", { quantType: "int4" }],
];

async function perplexities(): Promise<void> {
  const name = option("model", "HuggingFaceTB/SmolLM2-135M-Instruct");
  const count = Number(option("windows", "8")), length = Number(option("length", "256"));
  const ids = (await loadTokenizer(name)).encode(playText(), { addSpecialTokens: false });
  const windows = Array.from({ length: count }, (_, i) => ids.slice(i * length, (i + 1) * length))
    .filter((w) => w.length === length);
  console.log(`${name}, ${windows.length} windows of ${length} tokens of Shakespeare\n`);
  console.log("| linear layers | bits a weight | loss, nats a token | above f32 | perplexity |");
  console.log("| --- | --- | --- | --- | --- |");
  let dense: number[] | undefined;
  for (const [form, quantization] of FORMS) {
    const model = await loadModel(name, { quantization });
    const loss = await losses(model, windows);
    const bits = model.summary.bitsPerParameter || 32;
    model.dispose();
    const apart = loss.map((v, i) => v - (dense ??= loss)[i]!);
    const above = quantization ? `${mean(apart).toFixed(4)} ± ${spread(apart).toFixed(4)}` : "";
    const cells = [form, bits.toFixed(3), mean(loss).toFixed(4), above, Math.exp(mean(loss)).toFixed(2)];
    console.log(`| ${cells.join(" | ")} |`);
  }
}

/** LoRA and QLoRA by one recipe: same data, seed and initial adapters. */
async function training(): Promise<void> {
  const recipe = option("recipe", "recipes/quickstart/config.yaml");
  const { settings: base } = readRecipe(recipe);
  const seeds = Number(option("seeds", "2")), steps = Number(option("steps", `${base.max_steps}`));
  const silent = { step() {}, log() {}, note() {}, done() {} };
  const bases: [string, Record<string, unknown>][] = [
    ["LoRA, base in bfloat16", { load_in_4bit: false, torch_dtype: "bfloat16" }],
    ["QLoRA, NF4 with double quantization", { bnb_4bit_quant_type: "nf4" }],
    ["QLoRA, FP4 with double quantization", { bnb_4bit_quant_type: "fp4" }],
  ];
  console.log(`${recipe}, ${steps} steps, ${seeds} seeds\n`);
  console.log("| base | evaluation loss before | after | above LoRA |");
  console.log("| --- | --- | --- | --- |");
  let dense: number[] | undefined;
  for (const [name, changes] of bases) {
    const before: number[] = [], after: number[] = [];
    for (let seed = 0; seed < seeds; seed++) {
      const output_dir = Deno.makeTempDirSync({ prefix: "nibble-quality-" });
      const own = { max_steps: steps, seed: 42 + seed, nibble_sample_prompts: [], output_dir };
      const { settings } = recipeOf({ ...base, ...changes, ...own });
      const result = await train(settings, { reporter: silent });
      before.push(result.before!.eval_loss);
      after.push(result.after!.eval_loss);
      Deno.removeSync(output_dir, { recursive: true });
    }
    const apart = after.map((v, i) => v / (dense ??= after)[i]! - 1);
    const above = changes.load_in_4bit === false
      ? ""
      : `${(100 * mean(apart)).toFixed(2)} % (each seed ${
        apart.map((v) => (100 * v).toFixed(2)).join(", ")
      })`;
    console.log(`| ${name} | ${mean(before).toFixed(4)} | ${mean(after).toFixed(4)} | ${above} |`);
  }
}

const { name } = await device();
console.log(`adapter: ${name}`);
await (Deno.args.includes("--training") ? training() : perplexities());
Deno.exit(0);
