import assert from "node:assert/strict";
import { collate, packExamples } from "../../lib/data/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { parameterShapes, readConfig } from "../../lib/model/config.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, modelInput } from "../../lib/model/model.ts";
import { createOptimizer, createParameterPages } from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { evaluate } from "../../lib/train/evaluate.ts";
import { newLoopState, runLoop } from "../../lib/train/loop.ts";
import { sft } from "../../lib/train/objectives/sft.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { openSafetensors } from "../../lib/formats/mod.ts";
import { assertClose, EPS, gpuTest } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights } from "../model/tiny.ts";
import { dataFolder, quietTrain, sweep, tinySettings } from "./run_helper.ts";

const EXAMPLES = [13, 5, 8, 3, 11].map((n, row) => ({
  ids: Array.from({ length: n }, (_, i) => (row * 17 + i * 7 + i * i) % 61),
  trained: Array.from({ length: n }, (_, i) => i > 0 && (i + row) % 3 !== 0),
  row,
}));

gpuTest("packed, wrapped beyond need, padded or alone: the same loss and the same gradients", async () => {
  const raw = tinyConfig(), weights = tinyWeights(raw, 12);
  const specs = parameterShapes(readConfig(raw, "c")).map(({ name, shape }) => ({
    name,
    shape,
    decay: true,
  }));
  const pages = createParameterPages(specs, "base");
  const model = await buildModel(raw, memorySource(raw, weights), {
    allocate: (name) => pages.tensors.get(name)!,
  });
  const ways = {
    alone: EXAMPLES.map((e) => collate(packExamples([e], 16, "none"), 0, { multipleOf: 1 })),
    padded: [collate(packExamples(EXAMPLES, 16, "none"), 60)],
    packed: [collate(packExamples(EXAMPLES, 24, "bfd"), 7)],
    "in one row": [collate(packExamples(EXAMPLES, 40, "bfd"), 0)],
    "in one long wrapped row": [collate(packExamples(EXAMPLES, 64, "wrapped"), 0, { minLength: 64 })],
  };
  const results = [];
  for (const [way, batches] of Object.entries(ways)) {
    pages.zeroGrad();
    for (const batch of batches) {
      scope(() => {
        const input = modelInput(batch);
        differentiate(
          () => linearCrossEntropy(forward(model, input), model.head, batch.labels).stats,
          undefined,
        );
      });
    }
    const gradients = new Map<string, Float32Array>();
    for (const [name, t] of pages.tensors) gradients.set(name, await t.grad!.data());
    const trained = batches.reduce((n, b) => n + b.trainedTokens, 0);
    results.push({ way, trained, gradients, log: await evaluate(sft, model, batches) });
  }
  const [first, ...others] = results;
  assert.equal(ways.packed[0]!.batch, 2, "packing did put documents together");
  for (const { way, trained, gradients, log } of others) {
    assert.equal(trained, first!.trained);
    // a loss of about 5 as a sum of 24 terms: the order of summing is all that differs
    const want = first!.log.eval_loss;
    assertClose([log.eval_loss], [want], 24 * EPS * want, `${way}: loss`);
    assert.equal(log.eval_mean_token_accuracy, first!.log.eval_mean_token_accuracy);
    for (const [name, got] of gradients) {
      const want = first!.gradients.get(name)!;
      const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      assertClose(got, want, 1200 * EPS * size, `${way}: d ${name}`);
    }
  }
  model.dispose();
  pages.dispose();
});

for (const use_peft of [true, false]) {
  gpuTest(
    `4 batches of 1 are 1 batch of 4, by tokens, to the last short window (${use_peft ? "LoRA" : "full"})`,
    async () => {
      const data = dataFolder(); // 10 rows of unequal length: windows of 4, 4 and 2
      const run = async (more: Partial<TrainSettings>) => {
        const s = tinySettings(data, {
          use_peft,
          optim: "sgd", // the update is the gradient itself
          learning_rate: 0.5,
          lr_scheduler_type: "constant",
          max_grad_norm: null,
          max_steps: 6,
          ...more,
        });
        const r = await quietTrain(s);
        const source = openSafetensors(`${s.output_dir}/${use_peft ? "adapter_model" : "model"}.safetensors`);
        const weights = new Map([...source.tensors.keys()].map((name) => [name, source.readF32(name)]));
        source.close();
        sweep(s.output_dir);
        return { ...r, weights };
      };
      const once = await run({ per_device_train_batch_size: 4 });
      const four = await run({ per_device_train_batch_size: 1, gradient_accumulation_steps: 4 });
      const two = await run({ per_device_train_batch_size: 2, gradient_accumulation_steps: 2 });
      for (const other of [four, two]) {
        assert.equal(other.logs.length, 6);
        other.logs.forEach((log, i) => {
          const want = once.logs[i]!;
          assert.equal(log.num_tokens, want.num_tokens);
          // sums of some 60 tokens in another order, and weights that differ by that
          assertClose([log.loss], [want.loss], 200 * EPS * want.loss, `loss of step ${i + 1}`);
          assertClose(
            [log.grad_norm],
            [want.grad_norm],
            1000 * EPS * want.grad_norm,
            `norm of step ${i + 1}`,
          );
          assert.equal(log.mean_token_accuracy, want.mean_token_accuracy);
        });
        for (const [name, got] of other.weights) {
          const want = once.weights.get(name)!;
          const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
          assertClose(got, want, 1000 * EPS * size, name);
        }
      }
      sweep(data);
    },
  );
}

gpuTest("weights follow a learning rate that changes every step, to the rounding", async () => {
  const raw = tinyConfig();
  const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 13)));
  const config = { r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false, target_modules: ["q_proj"] };
  const shapes = adapterShapes(model, config);
  const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: false })), "adapter");
  addAdapter(model, config, pages.tensors, 1);
  const optimizer = createOptimizer(pages, { optim: "sgd", max_grad_norm: 0 });
  const batch = collate(packExamples(EXAMPLES, 24, "bfd"), 0);
  const rates = [0, 0.25, 0, 0.125, 1, 0];
  const name = "model.layers.1.self_attn.q_proj.lora_B.weight";
  const t = pages.tensors.get(name)!;
  let before = await t.data();
  const used: number[] = [];
  await runLoop({
    objective: sft,
    model,
    optimizer,
    pages,
    maxSteps: rates.length,
    stepsPerEpoch: rates.length,
    window: () => [batch],
    learningRate: (step) => rates[step]!,
    dropoutSeed: undefined,
    checkpointing: false,
    logAt: () => true,
    evalAt: () => false,
    saveAt: () => true,
    evalBatches: [],
    state: newLoopState(),
    signal: undefined,
    onLog: (log) => void used.push(log.learning_rate),
    onEval() {},
    async onSave({ step }) {
      const lr = rates[step - 1]!;
      const after = await t.data();
      const gradient = await t.grad!.data();
      if (lr === 0) {
        assert.deepEqual(after, before, `step ${step} must change nothing`);
      } else {
        const want = before.map((w, i) => w - lr * gradient[i]! / batch.trainedTokens);
        const size = gradient.reduce((a, v) => Math.max(a, Math.abs(v)), 0) / batch.trainedTokens;
        assert.ok(size > 1e-5, "there is a gradient to follow");
        const largest = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        assertClose(after, want, 8 * EPS * (lr * size + largest), `step ${step}`);
      }
      before = after;
    },
  });
  assert.deepEqual(used, rates);
  optimizer.dispose();
  model.dispose();
  pages.dispose();
});

gpuTest("a step whose gradient is not finite changes nothing, is counted, and many end the run", async () => {
  const raw = tinyConfig(), weights = tinyWeights(raw, 14);
  const model = await buildModel(raw, memorySource(raw, weights));
  const config = { r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false, target_modules: ["q_proj"] };
  const shapes = adapterShapes(model, config);
  const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: true })), "adapter");
  addAdapter(model, config, pages.tensors, 1);
  const optimizer = createOptimizer(pages, {});
  model.norm.weight.write(new Float32Array(32).fill(1e38)); // logits overflow
  const t = pages.tensors.get("model.layers.0.self_attn.q_proj.lora_A.weight")!;
  const before = await t.data();
  const skipped: number[] = [];
  const batch = collate(packExamples(EXAMPLES, 24, "bfd"), 0);
  const run = runLoop({
    objective: sft,
    model,
    optimizer,
    pages,
    maxSteps: 40,
    stepsPerEpoch: 40,
    window: () => [batch],
    learningRate: () => 0.1,
    dropoutSeed: undefined,
    checkpointing: false,
    logAt: (step) => step % 4 === 0,
    evalAt: () => false,
    saveAt: () => false,
    evalBatches: [],
    state: newLoopState(),
    signal: undefined,
    onLog: (log) => void skipped.push(log.skipped_steps),
    onEval() {},
    onSave: () => Promise.resolve(),
  });
  await assert.rejects(run, /12 steps were skipped: their gradients were not finite.*step 12/s);
  assert.deepEqual(skipped, [4, 8, 12]);
  assert.deepEqual(await t.data(), before);
  optimizer.dispose();
  model.dispose();
  pages.dispose();
});
