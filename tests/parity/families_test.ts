/**
 * Every family against Transformers and PEFT, in f64: numbers made by families/make_reference.py.
 *
 * Logits may err by 8 times what Transformers' own f32 run errs by (seen: 2.1), for nibble computes in f32 too but adds
 * in other orders. Gradients pass forward and backward: relative L2 of at most 1e-4, twenty times what was seen, and
 * far less than a mistake in a formula makes.
 */
import assert from "node:assert/strict";
import { openSafetensors, type TensorInfo, type TensorSource } from "../../lib/formats/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { readConfig } from "../../lib/model/config.ts";
import { generate } from "../../lib/model/generate.ts";
import { buildModel } from "../../lib/model/load.ts";
import { applyHead, balanceOf, forward, type Model, modelInput } from "../../lib/model/model.ts";
import { parameterShapes, storedShape, toStored } from "../../lib/model/parameters.ts";
import { hashText, uniform } from "../../lib/model/random_source.ts";
import { createParameterPages, type ParameterPages } from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { gpuTest, largestError } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { within } from "./within.ts";

await warmDevice();

interface Case {
  /** In the spelling of Transformers 4, and as Transformers 5 saved it. */
  config: Record<string, unknown>;
  saved: Record<string, unknown>;
  seed: number;
  /** Names and shapes of the checkpoint's tensors. */
  checkpoint: Record<string, number[]>;
  greedy: number[];
  /** What Transformers in f32 errs by. */
  deviation: number;
  /** Summed over the tokens, with a mixture's load-balancing loss for as many. */
  loss: number;
  /** Norm and one projection of every parameter's gradient. */
  full: Record<string, [number, number]>;
}
const at = (name: string) => new URL(`families/${name}`, import.meta.url).pathname;
const reference: { r: number; lora_alpha: number; ids: number[][]; prompt: number; cases: Record<string, Case> } =
  JSON.parse(Deno.readTextFileSync(at("cases.json")));
const FACTOR = 8, RELATIVE = 1e-4, COSINE = 0.99999;

const rows = reference.ids, time = rows[0]!.length;
const BATCH = {
  ids: Uint32Array.from(rows.flat()),
  positions: Uint32Array.from(rows.flatMap((row) => [...row.keys()])),
  segments: new Uint32Array(rows.length * time).fill(1),
  batch: rows.length,
  time,
};
const LABELS = Int32Array.from(rows.flatMap((row) => [...row.slice(1), -100]));

/** Numbers in [0, 1) from a name and a counter, as `numbers` of the script. */
function numbers(name: string, size: number, seed: number): Float64Array {
  const key = hashText(name) ^ Math.imul(seed + 1, 0x9e3779b1);
  return Float64Array.from({ length: size }, (_, i) => uniform(key, i));
}

const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** The checkpoint as `weight` of the script fills it. */
function checkpointOf({ checkpoint, config, seed }: Case): TensorSource {
  const plusOne = String(config.model_type).startsWith("gemma");
  const tensors = new Map<string, TensorInfo>(
    Object.entries(checkpoint).map(([name, shape]) => [name, { name, dtype: "F32", shape, bytes: 4 * count(shape) }]),
  );
  return {
    path: "(drawn)",
    tensors,
    readF32(name, start, end) {
      const { shape } = tensors.get(name)!;
      const spread = (/embed_tokens|wte|wpe/.test(name) ? 1 : 3) / Math.sqrt(shape.at(-1)!);
      const shift = name.endsWith(".bias") || plusOne ? -0.5 : 0.5;
      return Float32Array.from(
        numbers(name, count(shape), seed),
        (u) => shape.length > 1 ? (2 * u - 1) * spread : u + shift,
      ).slice(start, end);
    },
    readBytes: () => new Uint8Array(),
    close() {},
  };
}

/** Loss of the batch, summed over its tokens, and its gradients in `pages`. */
async function train(model: Model, pages: ParameterPages, checkpointing = false): Promise<number> {
  pages.zeroGrad();
  const { output } = scope(() =>
    differentiate(() => {
      const input = modelInput(BATCH);
      const balance = balanceOf(model, input, LABELS.filter((v) => v >= 0).length);
      const hidden = forward(model, input, { checkpointing, balance });
      const { stats } = linearCrossEntropy(hidden, model.head, LABELS);
      balance?.addTo(stats);
      return stats;
    }, undefined)
  );
  const [loss] = await output.data();
  output.dispose();
  return loss!;
}

async function logitsOf(model: Model): Promise<Float32Array> {
  const out = scope(() => applyHead(model, forward(model, modelInput(BATCH))));
  const data = await out.data();
  out.dispose();
  return data;
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((s, v, i) => s + v * b[i]!, 0);
const norm = (a: ArrayLike<number>) => Math.sqrt(dot(a, a));

for (const [name, test] of Object.entries(reference.cases)) {
  gpuTest(`${name}: logits and greedy text are Transformers'`, async () => {
    const source = openSafetensors(at("reference.safetensors"));
    const config = readConfig(test.config, name);
    const specs = parameterShapes(config).map((s) => [s.name, storedShape(s)]);
    const sorted = (list: [string, number[]][]) => list.sort(([a], [b]) => a < b ? -1 : 1);
    assert.deepEqual(sorted(specs as [string, number[]][]), sorted(Object.entries(test.checkpoint)));
    const { family: _, ...four } = config, { family: __, ...five } = readConfig(test.saved, name);
    assert.deepEqual(
      { ...five, rope_scaling: undefined, eos_token_id: [], bos_token_id: 1 },
      { ...four, rope_scaling: undefined, eos_token_id: [], bos_token_id: 1 },
      "both spellings of the config",
    );
    const model = await buildModel(test.saved, checkpointOf(test));
    const error = largestError(await logitsOf(model), source.readF32(`${name}.logits`));
    within("families: logits over the yardstick", name, error / test.deviation, FACTOR);
    const { ids } = await generate(model, rows[0]!.slice(0, reference.prompt), {
      max_new_tokens: test.greedy.length,
      eos_token_id: [],
    });
    assert.deepEqual(ids, test.greedy);
    model.dispose();
    source.close();
  });

  gpuTest(`${name}: LoRA gradients are PEFT's`, async () => {
    const source = openSafetensors(at("reference.safetensors"));
    const model = await buildModel(test.config, checkpointOf(test));
    const { r, lora_alpha } = reference;
    const lora = { r, lora_alpha, lora_dropout: 0, use_rslora: false, target_modules: "all-linear" };
    const shapes = adapterShapes(model, lora);
    const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: true })), "adapter");
    addAdapter(model, lora, pages.tensors, 1);
    for (const [n, t] of pages.tensors) {
      t.write(Float32Array.from(numbers(n, t.size, test.seed), (u) => (2 * u - 1) * 0.3));
    }
    await train(model, pages);
    const got = await logitsOf(model), adapted = source.readF32(`${name}.adapted`);
    const size = config(test).vocab_size;
    rows.forEach((_, b) => {
      const last = got.subarray(((b + 1) * time - 1) * size, (b + 1) * time * size);
      const error = largestError(last, adapted.subarray(b * size, (b + 1) * size));
      within("families: adapted logits over the yardstick", name, error / test.deviation, 2 * FACTOR);
    });
    const prefix = `${name}.grad.`;
    const wanted = [...source.tensors.keys()].filter((n) => n.startsWith(prefix)).map((n) => n.slice(prefix.length));
    assert.deepEqual([...pages.tensors.keys()].sort(), wanted.sort(), "PEFT adapts the same modules");
    for (const [n, t] of pages.tensors) {
      const gradient = await t.grad!.data(), want = source.readF32(prefix + n);
      const cosine = dot(gradient, want) / (norm(gradient) * norm(want));
      const error = norm(gradient.map((v, i) => v - want[i]!)) / norm(want);
      within("families: LoRA gradients, relative L2", `${name}, ${n}`, error, RELATIVE);
      within("families: LoRA gradients, 1 - cosine", `${name}, ${n}`, 1 - cosine, 1 - COSINE);
    }
    model.dispose();
    pages.dispose();
    source.close();
  });

  gpuTest(`${name}: every parameter's gradient is Transformers', checkpointed`, async () => {
    const specs = new Map(parameterShapes(config(test)).map((s) => [s.name, s]));
    const pages = createParameterPages([...specs.values()].map((s) => ({ ...s, decay: true })), "base");
    const model = await buildModel(test.config, checkpointOf(test), { allocate: (n) => pages.tensors.get(n)! });
    const loss = await train(model, pages, true);
    within("families: loss, relative", name, Math.abs(loss / test.loss - 1), 1e-6); // 36 tokens' f32 sum
    assert.deepEqual([...specs.keys()].sort(), Object.keys(test.full).sort());
    for (const [n, [size, along]] of Object.entries(test.full)) {
      const gradient = toStored(specs.get(n)!, await pages.tensors.get(n)!.grad!.data());
      const probe = numbers(`probe.${n}`, gradient.length, test.seed).map((u) => 2 * u - 1);
      within("families: norms of every gradient, relative", `${name}, ${n}`, Math.abs(norm(gradient) / size - 1), RELATIVE);
      const error = projectedError(gradient, probe, along) / size;
      within("families: every gradient by projection, relative L2", `${name}, ${n}`, error, RELATIVE);
    }
    model.dispose();
    pages.dispose();
  });
}

/**
 * The length of a gradient's error, from its projection onto numbers that are uniform in -1 .. 1: an error of length e
 * in no special direction projects to e / sqrt(3) in root mean square, whatever the number of elements.
 */
function projectedError(gradient: ArrayLike<number>, probe: ArrayLike<number>, along: number): number {
  return Math.sqrt(3) * Math.abs(dot(gradient, probe) - along);
}

Deno.test("the comparison can fail: a gradient of 2144 numbers that errs by a thousandth of its length", () => {
  const n = 67 * 32, seed = 5;
  const gradient = numbers("control", n, seed).map((u) => 2 * u - 1);
  const size = norm(gradient);
  const seen = ["a", "b", "c", "d"].map((name) => {
    const probe = numbers(`probe.${name}`, n, seed).map((u) => 2 * u - 1);
    const noise = numbers(`noise.${name}`, n, seed).map((u) => 2 * u - 1);
    const scale = 1e-3 * size / norm(noise);
    const wrong = gradient.map((g, i) => g + scale * noise[i]!);
    return projectedError(wrong, probe, dot(gradient, probe)) / size;
  });
  const rms = Math.sqrt(seen.reduce((a, e) => a + e * e, 0) / seen.length);
  assert.ok(rms > 3e-4 && rms < 3e-3, `${seen}`); // 1e-3, from four samples
  assert.ok(rms > 3 * RELATIVE);
});

for (
  const [name, mistake] of [
    ["smollm3", { no_rope_layers: [1, 1] }],
    ["mistral_window", { sliding_window: 6 }],
    ["qwen2", { max_window_layers: 0 }],
    ["gemma", { hidden_activation: "gelu" }], // the exact form, 5e-4 away from the tanh form
    ["gpt2", { scale_attn_by_inverse_layer_idx: false }],
    ["mixtral", { num_experts_per_tok: 3 }],
    ["llama_rope_llama3", { rope_scaling: null }],
    ["llama_rope_dynamic", { max_position_embeddings: 13 }],
    ["llama_rope_linear", { rope_scaling: { rope_type: "linear", factor: 2, rope_theta: 100 } }],
    ["llama_rope_yarn", {
      rope_scaling: {
        ...{ rope_type: "yarn", factor: 3, rope_theta: 100 },
        ...{ original_max_position_embeddings: 16, beta_fast: 4 },
      },
    }],
    ["llama_biases_head_dim", { attention_bias: false }],
    // weights of the same shapes, cut into other heads
    ["llama_biases_head_dim", { num_attention_heads: 2, num_key_value_heads: 1, head_dim: 24 }],
    ["llama_gqa_untied", { num_attention_heads: 8, num_key_value_heads: 4, head_dim: 4 }],
    ["qwen3", { rope_theta: 200 }],
    ["phi3", { partial_rotary_factor: 1 }],
    ["starcoder2", { norm_epsilon: 1e-4 }],
  ] as [string, Record<string, unknown>][]
) {
  gpuTest(`the comparison can fail: ${name} with ${JSON.stringify(mistake)}`, async () => {
    const source = openSafetensors(at("reference.safetensors")), test = reference.cases[name]!;
    const model = await buildModel({ ...test.config, ...mistake }, checkpointOf(test));
    const error = largestError(await logitsOf(model), source.readF32(`${name}.logits`));
    assert.ok(error > 10 * FACTOR * test.deviation, `logits err by ${error / test.deviation} times f32's error only`);
    model.dispose();
    source.close();
  });
}

function config(test: Case) {
  return readConfig(test.config, "case");
}
