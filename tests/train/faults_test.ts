/** What the loop finds out only while it runs: layers that cannot learn, steps without a target, losses that overflow. */
import assert from "node:assert/strict";
import { collate, packExamples } from "../../lib/data/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { buildModel } from "../../lib/model/load.ts";
import { createOptimizer, createParameterPages } from "../../lib/optim/mod.ts";
import { evaluate } from "../../lib/train/evaluate.ts";
import { newLoopState, runLoop } from "../../lib/train/loop.ts";
import { findNonFinite } from "../../lib/train/non_finite.ts";
import { checkMoved } from "../../lib/train/movement.ts";
import { sft } from "../../lib/train/objectives/sft.ts";
import { NibbleError } from "../../lib/errors.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest } from "../gpu_helper.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";
import { memorySource, tinyConfig, tinyWeights } from "../model/tiny.ts";

await warmDevice();

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
async function setUp() {
  const raw = tinyConfig();
  const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 14)));
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
  const run = (rates: number[], window = [batchOf(EXAMPLES)], stopAtNonFinite = false) =>
    runLoop({
      ...{ objective: sft, model, optimizer, pages, maxSteps: rates.length, stepsPerEpoch: rates.length },
      ...{ dropoutSeed: undefined, checkpointing: false, evalBatches: [], state: newLoopState() },
      ...{ logAt: () => false, evalAt: () => false, saveAt: () => false, signal: undefined },
      ...{ onLog() {}, onEval() {}, onSave: () => Promise.resolve() },
      window: () => window,
      stopAtNonFinite,
      learningRate: (step) => rates[step]!,
      afterMove: () => checkMoved({ model, adapter, pages, optimizer, dispose() {} }),
    });
  const dispose = () => [optimizer, model, pages].forEach((thing) => thing.dispose());
  return { model, adapter, pages, run, dispose };
}

gpuTest(
  "an adapted layer that gets no gradient ends the run by name, once the rate is above 0 (R5)",
  async () => {
    const good = await setUp();
    await good.run([0, 0.01]);
    good.dispose();
    const { pages, run, dispose } = await setUp();
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
  const { model, run, dispose } = await setUp();
  await assert.rejects(run([0.1], [MASKED]), {
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
  const { model, dispose } = await setUp();
  model.norm.weight.write(new Float32Array(32).fill(1e38));
  await assert.rejects(evaluate(sft, model, [batchOf(EXAMPLES)], { step: 7 }), {
    code: "train/nan-eval",
    where: "step 7",
  });
  dispose();
});

/** A model with the first numbers of one of its tensors replaced. */
async function broken(value: number, choose: (made: Awaited<ReturnType<typeof setUp>>) => Tensor, count = 1) {
  const made = await setUp();
  choose(made).write(new Float32Array(count).fill(value));
  return made;
}
const diverged = (...patterns: RegExp[]) => (error: unknown) => {
  assert.ok(error instanceof NibbleError && error.code === "train/diverged", String(error));
  for (const pattern of patterns) assert.match(error.message, pattern);
  return true;
};

gpuTest("the first module whose output is not finite is named, whatever broke it (R6)", async () => {
  const name = (module: string) => new RegExp(`^${module} is the first module whose output is`);
  const first = "model.layers.1.mlp.down_proj", parameter = `${first}.lora_A.weight`;
  const cases: [string, RegExp[], Awaited<ReturnType<typeof setUp>>][] = [
    [
      "an adapter's NaN",
      [
        name(first),
        /output is NaN\n/,
        /step 1, micro-batch 1 of 1; parameter .*1\.mlp\.down_proj\.lora_A.* is NaN/,
      ],
      await broken(
        NaN,
        ({ pages }) => [...pages.tensors].find(([n]) => n.includes(parameter.slice(0, -7)))![1],
      ),
    ],
    [
      "an infinite weight of the base",
      [name("model.layers.0.self_attn.o_proj"), /micro-batch 1 of 1\n/],
      await broken(
        Infinity,
        ({ model }) => model.linears.get("model.layers.0.self_attn.o_proj")!.weight as Tensor,
      ),
    ],
    [
      "a norm that overflows",
      [name("model.layers.1.post_attention_layernorm"), /output is infinite/],
      await broken(
        3e38,
        ({ model }) => model.blocks[1]!.postNorm.weight,
        32,
      ),
    ],
    ["the last norm", [name("model.norm")], await broken(NaN, ({ model }) => model.norm.weight)],
  ];
  for (const [what, patterns, { run, dispose }] of cases) {
    await assert.rejects(run([0, 0.1], undefined, true), diverged(...patterns), what);
    dispose();
  }
});

gpuTest(
  "of a window, the micro-batch is named too; a sound run is the same with and without the search",
  async () => {
    const [long, ...others] = EXAMPLES;
    const { model, run, dispose } = await setUp();
    const alone = long!.ids.find((id) => others.every(({ ids }) => !ids.includes(id)))!;
    const rows = await model.embed.data();
    rows[32 * alone] = NaN;
    model.embed.write(rows);
    await assert.rejects(
      run([0.1], [batchOf(others), batchOf([long!])], true),
      diverged(/^model\.embed_tokens is the first module whose output is NaN/, /micro-batch 2 of 2/),
    );
    dispose();
    const weights = [];
    for (const search of [false, true]) {
      const { pages, run, dispose } = await setUp();
      await run([0.1, 0.1], undefined, search);
      weights.push(await Promise.all([...pages.tensors.values()].map((t) => t.data())));
      dispose();
    }
    assert.deepEqual(weights[1], weights[0]);
  },
);

gpuTest(
  "where the forward pass is finite, the gradient is named at which the backward pass failed first",
  async () => {
    const { pages, dispose } = await setUp();
    const names = [...pages.tensors.keys()];
    const gradients = [...pages.tensors.values()].map((t) => t.grad!);
    const sound = [() => tensor([1], [1])];
    gradients[1]!.write(Float32Array.of(NaN));
    gradients[2]!.write(Float32Array.of(-Infinity));
    assert.deepEqual(await findNonFinite(sound, pages), {
      what: `The gradient of ${names[2]} is infinite`,
      where: "the forward pass is finite",
    });
    gradients.forEach((g) => g.write(Float32Array.of(1e30)));
    assert.match(
      (await findNonFinite(sound, pages)).what,
      /gradients are finite, the sum of their squares is not/,
    );
    const loss = [() => tensor([1], [1]), () => tensor([1, NaN], [1, 2])];
    assert.deepEqual(await findNonFinite(loss, pages), {
      what: "The loss is NaN, the output of every module finite",
      where: "micro-batch 2 of 2",
    });
    dispose();
  },
);

gpuTest(
  "a run that gives up after eleven steps says how many it skipped, and where it goes wrong",
  async () => {
    const { run, dispose } = await broken(NaN, ({ model }) => model.blocks[0]!.inputNorm.weight);
    await assert.rejects(
      run(new Array(11).fill(0)),
      diverged(
        /^11 steps were skipped.*\. model\.layers\.0\.input_layernorm is the first module/,
        /step 11, micro-batch 1/,
      ),
    );
    dispose();
  },
);

gpuTest(
  "debug: underflow_overflow ends a run that overflows, and names where; without it steps are skipped and counted",
  async () => {
    const data = dataFolder();
    const settings = (more: Partial<TrainSettings>) =>
      tinySettings(data, { learning_rate: 1e25, max_grad_norm: 0, warmup_steps: 0, max_steps: 4, ...more });
    const on = settings({
      debug: "underflow_overflow",
      gradient_checkpointing: true,
      neftune_noise_alpha: 5,
    });
    await assert.rejects(
      quietTrain(on),
      diverged(
        /^model\.layers\.\d\.[\w.]+ is the first module whose output is (NaN|infinite)/,
        /step 2, micro-batch 1 of 1/,
      ),
    );
    const off = settings({ max_steps: 3 });
    const { logs, notes } = await quietTrain(off);
    assert.equal(logs.at(-1)!.skipped_steps, 2);
    assert.ok(notes.includes("warning     2 steps were skipped: their gradients were not finite"));
    // more of them at the end are no success
    const ended = settings({});
    await assert.rejects(quietTrain(ended), diverged(/^3 steps were skipped/, /step 4/));
    assert.throws(() => Deno.statSync(`${ended.output_dir}/adapter_config.json`), Deno.errors.NotFound);
    sweep(data, on.output_dir, off.output_dir, ended.output_dir);
  },
);
