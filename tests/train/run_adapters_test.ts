/** Runs with every kind of adapter that a recipe can ask for. */
import assert from "node:assert/strict";
import { readAdapter } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import { planRecipe } from "../../lib/train/plan_recipe.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { gpuTest } from "../gpu_helper.ts";
import { bytesOf, dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

interface Kind {
  what: string;
  settings: Partial<TrainSettings>;
  /** Tensors that the adapter's file has, by the end of their key, and how many. */
  tensors: Record<string, number>;
  fields: Record<string, unknown>;
}

const KINDS: Kind[] = [
  {
    what: "DoRA on NF4, with dropout and checkpointing",
    settings: { use_dora: true, load_in_4bit: true, lora_dropout: 0.1, gradient_checkpointing: true },
    tensors: { "lora_A.weight": 14, "lora_B.weight": 14, lora_magnitude_vector: 14 },
    fields: { use_dora: true },
  },
  {
    what: "embedding and head trained whole beside LoRA on NF4",
    settings: {
      ...{ load_in_4bit: true, lora_target_modules: ["q_proj"] },
      lora_modules_to_save: ["embed_tokens", "lm_head", "norm"],
    },
    tensors: { "lora_A.weight": 2, "embed_tokens.weight": 1, "lm_head.weight": 1, "norm.weight": 5 },
    fields: { modules_to_save: ["embed_tokens", "lm_head", "norm"] },
  },
  {
    what: "PiSSA, saved as LoRA of twice the rank",
    settings: { init_lora_weights: "pissa", lora_target_modules: ["q_proj", "up_proj"] },
    tensors: { "lora_A.weight": 4, "lora_B.weight": 4 },
    fields: { init_lora_weights: true, r: 8, lora_alpha: 16 },
  },
  {
    what: "LoftQ, patterns, one layer, rsLoRA",
    settings: {
      ...{ init_lora_weights: "loftq", load_in_4bit: true, use_rslora: true, layers_to_transform: ["1"] },
      ...{ lora_target_modules: ["q_proj", "up_proj", "v_proj"], exclude_modules: ["v_proj"] },
      ...{ rank_pattern: { up_proj: 6 }, alpha_pattern: { q_proj: 3 } },
    },
    tensors: { "lora_A.weight": 2, "layers.1.mlp.up_proj.lora_A.weight": 1 },
    fields: { layers_to_transform: [1], rank_pattern: { up_proj: 6 }, alpha_pattern: { q_proj: 3 } },
  },
  {
    what: "QERA, which looks at the data first",
    settings: { init_lora_weights: "qera", load_in_4bit: true, lora_target_modules: "all-linear" },
    tensors: { "lora_A.weight": 14, "lora_B.weight": 14 },
    fields: { init_lora_weights: true },
  },
];

for (const { what, settings, tensors, fields } of KINDS) {
  gpuTest(`${what}: planned, learned, saved, and resumed to the same bits`, async () => {
    const data = dataFolder();
    const make = () =>
      tinySettings(data, { do_eval: true, max_steps: 5, save_strategy: "steps", save_steps: 3, ...settings });
    const whole = make();
    const before = gpu().pool.report();
    const plan = await planRecipe(whole);
    assert.equal(gpu().pool.report().created, before.created, "planning allocates nothing");
    gpu().pool.resetPeak();
    const straight = await quietTrain(whole);
    const measured = straight.memory.peakBytes - before.liveBytes;
    const off = Math.abs(plan.memory.peakBytes - measured) / measured;
    assert.ok(off < 0.05, `planned ${plan.memory.peakBytes}, measured ${measured}`);
    const [first, last] = [straight.before!.eval_loss, straight.after!.eval_loss];
    assert.ok(last < first - 0.02, `${first} -> ${last}`);

    const saved = readAdapter(whole.output_dir);
    for (const [end, count] of Object.entries(tensors)) {
      assert.equal([...saved.tensors.keys()].filter((key) => key.endsWith(end)).length, count, end);
    }
    for (const [key, value] of Object.entries(fields)) {
      assert.deepEqual((saved.config as unknown as Record<string, unknown>)[key], value, key);
    }

    const broken = make();
    const stop = new AbortController();
    const onLog = (log: object) => "loss" in log && stop.abort();
    assert.ok((await quietTrain(broken, { signal: stop.signal, onLog })).stopped);
    await quietTrain(broken);
    assert.equal(bytesOf(broken.output_dir), bytesOf(whole.output_dir), "stopped and resumed");
    sweep(data, whole.output_dir, broken.output_dir);
  });
}

gpuTest(
  "stopped while QERA looks at the data: nothing is written, and the buffers are given back",
  async () => {
    const data = dataFolder();
    const settings = tinySettings(data, {
      ...{ init_lora_weights: "QERA", load_in_4bit: true, lora_target_modules: "all-linear", max_steps: 5 },
    });
    await assert.rejects(
      quietTrain(settings, {}, 1),
      /Stopped before training began/,
    );
    assert.throws(
      () => Deno.statSync(`${settings.output_dir}/adapter_model.safetensors`),
      Deno.errors.NotFound,
    );
    sweep(data, settings.output_dir);
  },
);

gpuTest("stopped while the model is loaded: nothing is written, and the buffers are given back", async () => {
  const data = dataFolder(), settings = tinySettings(data, { load_in_4bit: true });
  const signal = AbortSignal.abort();
  await assert.rejects(quietTrain(settings, { signal }), { code: "model/stopped" });
  assert.deepEqual([...Deno.readDirSync(settings.output_dir)], []);
  sweep(data, settings.output_dir);
});

gpuTest("QERA's ranks stay what they were while the others train, and weight decay is refused", async () => {
  const data = dataFolder();
  const make = (more: Partial<TrainSettings>) =>
    tinySettings(data, {
      ...{ init_lora_weights: "qera_rank_1", load_in_4bit: true, lora_target_modules: "all-linear" },
      ...{ max_steps: 3, lora_r: 4, lora_alpha: 8, ...more },
    });
  const still = make({ learning_rate: 0 }), trained = make({});
  for (const settings of [still, trained]) await quietTrain(settings);
  const [before, after] = [still, trained].map(({ output_dir }) => readAdapter(output_dir).tensors);
  for (const [key, { shape, data: values }] of after!) {
    const then = before!.get(key)!.data, isA = key.includes(".lora_A.");
    const moved = new Set<number>();
    values.forEach((v, i) => {
      if (v !== then[i]) moved.add(isA ? Math.floor(i / shape[1]!) : i % shape[1]!);
    });
    assert.deepEqual([...moved].sort(), [1, 2, 3], key);
  }
  await assert.rejects(quietTrain(make({ weight_decay: 0.1 })), /would shrink the correction/);
  sweep(data, still.output_dir, trained.output_dir);
});

gpuTest("a target that no layer has is passed over, as PEFT does, and a line says so", async () => {
  const data = dataFolder();
  const targets = (lora_target_modules: string | string[], more: Partial<TrainSettings> = {}) =>
    tinySettings(data, { lora_target_modules, max_steps: 1, ...more });
  const said = async (s: TrainSettings) => {
    const { notes } = await quietTrain(s);
    sweep(s.output_dir);
    return notes.filter((n) => n.includes("lora_target_modules"));
  };
  assert.deepEqual(await said(targets(["q_proj", "nope", "k_porj", "layers.1.self_atn.v_proj"])), [
    "note        lora_target_modules: 'nope' matches no layer and is passed over; " +
    "this model has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
    "note        lora_target_modules: 'k_porj' matches no layer and is passed over; the nearest name is k_proj",
    "note        lora_target_modules: 'layers.1.self_atn.v_proj' matches no layer and is passed over; " +
    "the nearest name is model.layers.1.self_attn.v_proj",
  ]);
  for (const fine of [["q_proj", "layers.1.mlp.up_proj"], "all-linear", ".*(q|x)_proj"]) {
    assert.deepEqual(await said(targets(fine)), []);
  }
  assert.deepEqual(await said(targets(["q_proj", "v_proj"], { exclude_modules: ["v_proj"] })), []);
  sweep(data);
});
