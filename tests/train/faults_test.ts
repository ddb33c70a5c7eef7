/** What the loop finds out only while it runs: layers that cannot learn, steps without a target, losses that overflow. */
import assert from "node:assert/strict";
import { collate, packExamples } from "../../lib/data/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { buildModel } from "../../lib/model/load.ts";
import { createOptimizer, createParameterPages } from "../../lib/optim/mod.ts";
import { evaluate, newLoopState, runLoop } from "../../lib/train/loop.ts";
import { checkMoved } from "../../lib/train/movement.ts";
import { sft } from "../../lib/train/objectives/sft.ts";
import { gpuTest } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights } from "../model/tiny.ts";

const EXAMPLES = [13, 5, 8].map((n, row) => ({
  ids: Array.from({ length: n }, (_, i) => (row * 17 + i * 7 + i * i) % 61),
  trained: Array.from({ length: n }, (_, i) => i > 0),
  row,
}));
const batchOf = (examples: typeof EXAMPLES) => collate(packExamples(examples, 24, "bfd"), 0);
const MASKED = batchOf(
  EXAMPLES.map((example) => ({ ...example, trained: example.trained.map(() => false) })),
);

/** A tiny model with adapters, ready for the loop. */
function setUp() {
  const raw = tinyConfig();
  const model = buildModel(raw, memorySource(raw, tinyWeights(raw, 14)));
  const config = {
    ...{ r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false },
    target_modules: ["q_proj", "down_proj"],
  };
  const pages = createParameterPages(
    adapterShapes(model, config).map((p) => ({ ...p, decay: true })),
    "adapter",
  );
  const adapter = addAdapter(model, config, pages.tensors, 1);
  const optimizer = createOptimizer(pages, {});
  const run = (rates: number[], batch = batchOf(EXAMPLES)) =>
    runLoop({
      ...{ objective: sft, model, optimizer, pages, maxSteps: rates.length, stepsPerEpoch: rates.length },
      ...{ dropoutSeed: undefined, checkpointing: false, evalBatches: [], state: newLoopState() },
      ...{ logAt: () => false, evalAt: () => false, saveAt: () => false, signal: undefined },
      ...{ onLog() {}, onEval() {}, onSave: () => Promise.resolve() },
      window: () => [batch],
      learningRate: (step) => rates[step]!,
      afterMove: () => checkMoved({ model, adapter, pages, optimizer, dispose() {} }),
    });
  const dispose = () => [optimizer, model, pages].forEach((thing) => thing.dispose());
  return { model, pages, run, dispose };
}

gpuTest(
  "an adapted layer that gets no gradient ends the run by name, once the rate is above 0 (R5)",
  async () => {
    const good = setUp();
    await good.run([0, 0.01]);
    good.dispose();
    const { pages, run, dispose } = setUp();
    const [, a] = [...pages.tensors].find(([name]) => /layers\.1\.mlp\.down_proj\.lora_A/.test(name))!;
    a.write(new Float32Array(a.size)); // B begins at zero: now nothing reaches either
    await run([0]); // a step of warm-up moves nothing, and is not asked to
    await assert.rejects(run([0, 0.01]), {
      code: "train/no-gradient",
      message: /1 adapted layers got no gradient.*model\.layers\.1\.mlp\.down_proj/s,
    });
    dispose();
  },
);

gpuTest("a step and an evaluation without a target are errors, not a loss of 0 (R1, R21)", async () => {
  const { model, run, dispose } = setUp();
  await assert.rejects(run([0.1], MASKED), {
    code: "train/no-labels",
    message: /Step 1 has no token to learn/,
  });
  await assert.rejects(evaluate(sft, model, [MASKED]), { code: "train/empty-eval" });
  // beside a batch with targets it counts for nothing
  const alone = await evaluate(sft, model, [batchOf(EXAMPLES)]);
  const beside = await evaluate(sft, model, [MASKED, batchOf(EXAMPLES)]);
  assert.deepEqual([beside.eval_loss, beside.eval_num_tokens], [alone.eval_loss, alone.eval_num_tokens]);
  dispose();
});

gpuTest("an evaluation whose loss overflows says so, with the step (R21)", async () => {
  const { model, dispose } = setUp();
  model.norm.weight.write(new Float32Array(32).fill(1e38));
  await assert.rejects(evaluate(sft, model, [batchOf(EXAMPLES)], 7), {
    code: "train/nan-eval",
    where: "step 7",
  });
  dispose();
});
