/**
 * Against PyTorch, Transformers, PEFT and bitsandbytes: numbers made by make_reference.py.
 *
 * The reference is PyTorch in f64, on a 4-bit base with the weights that bitsandbytes decodes. The real thing in f32 errs
 * by `deviation`; nibble, which also computes in f32 but adds in other orders, may err by at most 16 times as much.
 */
import assert from "node:assert/strict";
import type { Batch } from "../../lib/data/mod.ts";
import { openModel, openSafetensors, readAdapter } from "../../lib/formats/mod.ts";
import { gpu, type LaunchOptions } from "../../lib/gpu/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { loadAdapter } from "../../lib/lora/peft.ts";
import { readConfig } from "../../lib/model/config.ts";
import { buildModel } from "../../lib/model/load.ts";
import { applyHead, forward, type Model, modelInput } from "../../lib/model/model.ts";
import { parameterShapes } from "../../lib/model/parameters.ts";
import {
  createOptimizer,
  createParameterPages,
  learningRate,
  type ParameterPages,
} from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { newLoopState, runLoop, type TrainLog } from "../../lib/train/loop.ts";
import { sft } from "../../lib/train/objectives/sft.ts";
import { asOnGpu, gpuTest } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { within } from "./within.ts";

await warmDevice();

const at = (name: string) => new URL(name, import.meta.url).pathname;
const FACTOR = 16;
/** What gradients must keep besides, whatever PyTorch's own error is. */
const COSINE = 0.99999, RELATIVE = 1e-4;

/** How the base is held. */
type Form = "f32" | "nf4" | "nf4_double";

interface Reference {
  steps: number;
  warmup: number;
  accumulate: number;
  batches: number;
  max_norm: number;
  lr: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  runs: Record<"f32" | "nf4_double", {
    log: { loss: number[]; grad_norm: number[]; learning_rate: number[] };
    deviation: { loss: number; grad_norm: number; adapter: number };
  }>;
}
const reference: Reference = JSON.parse(Deno.readTextFileSync(at("trajectory.json")));

interface Setup {
  model: Model;
  pages: ParameterPages;
  dispose(): void;
}

/** The base with PEFT's adapter on it, trainable. */
async function setUp(folder: string, form: Form): Promise<Setup> {
  const files = openModel(at("model"));
  const quantization = { quantType: "nf4", blocksize: 64, doubleQuant: form === "nf4_double" } as const;
  const model = await buildModel(files.config, files.source, form === "f32" ? {} : { quantization });
  files.source.close();
  const { config } = readAdapter(at(folder));
  const shapes = adapterShapes(model, { ...config, target_modules: config.target_modules! });
  const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: true })), "adapter");
  loadAdapter(model, at(folder), { parameters: pages.tensors });
  return { model, pages, dispose: () => [model, pages].forEach((thing) => thing.dispose()) };
}

/** Every weight trainable, and no adapter. */
async function setUpFull(): Promise<Setup> {
  const files = openModel(at("model"));
  const specs = parameterShapes(readConfig(files.config, files.path));
  const pages = createParameterPages(specs.map(({ name, shape }) => ({ name, shape, decay: true })), "base");
  const model = await buildModel(files.config, files.source, { allocate: (name) => pages.tensors.get(name)! });
  files.source.close();
  return { model, pages, dispose: () => [model, pages].forEach((thing) => thing.dispose()) };
}

/** A stored batch in nibble's form: labels shifted, padding as segment 0. `late` shifts the labels once too often. */
function batchOf(source: ReturnType<typeof openSafetensors>, prefix: string, late = 0): Batch {
  const [batch, time] = source.tensors.get(`${prefix}ids`)!.shape as [number, number];
  const read = (name: string) => {
    const bytes = source.readBytes(prefix + name);
    return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  };
  const ids = Uint32Array.from(read("ids")), stored = read("labels"), lengths = read("lengths");
  const labels = new Int32Array(batch * time).fill(-100);
  const positions = new Uint32Array(batch * time), segments = new Uint32Array(batch * time);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < lengths[b]!; t++) {
      positions[b * time + t] = t;
      segments[b * time + t] = 1;
      if (t + 1 + late < time) labels[b * time + t] = stored[b * time + t + 1 + late]!;
    }
  }
  return {
    ids,
    labels,
    positions,
    segments,
    batch,
    time,
    trainedTokens: labels.filter((v) => v !== -100).length,
    realTokens: lengths.reduce((a, v) => a + v, 0),
  };
}

const norm = (x: ArrayLike<number>) => Math.sqrt(Array.from(x).reduce((a, v) => a + v * v, 0));
const distance = (x: ArrayLike<number>, y: ArrayLike<number>) => norm(Array.from(x).map((v, i) => v - y[i]!));

const cosine = (x: ArrayLike<number>, y: ArrayLike<number>) =>
  Array.from(x).reduce((a, v, i) => a + v * y[i]!, 0) / norm(x) / norm(y);

/** Logits, loss and every gradient of one batch against those stored under that name. */
async function compareStep(stored: string, { model, pages, dispose }: Setup): Promise<void> {
  const source = openSafetensors(at("step.safetensors"));
  const { loss, deviation }: {
    loss: number;
    deviation: { logits: number; gradients: number; loss: number };
  } = JSON.parse(source.metadata.steps!)[stored];
  const batch = batchOf(source, "");
  pages.zeroGrad();
  const { logits, stats } = scope(() => {
    const input = modelInput(batch);
    const logits = applyHead(model, forward(model, input));
    const { output } = differentiate(
      () => linearCrossEntropy(forward(model, input), model.head, batch.labels).stats,
      undefined,
    );
    return { logits, stats: output };
  });
  if (source.tensors.has(`${stored}/logits`)) {
    const got = await logits.data(), want = source.readF32(`${stored}/logits`);
    const vocabulary = model.config.vocab_size;
    let worst = 0;
    batch.segments.forEach((segment, i) => {
      if (segment === 0) return;
      for (let v = 0; v < vocabulary; v++) {
        worst = Math.max(worst, Math.abs(got[i * vocabulary + v]! - want[i * vocabulary + v]!));
      }
    });
    assert.ok(
      worst <= FACTOR * deviation.logits,
      `logits err by ${worst}, PyTorch's f32 by ${deviation.logits}`,
    );
  }
  const gotLoss = (await stats.data())[0]! / batch.trainedTokens;
  // the stored loss is one number whose f32 error may be zero by luck: half a unit at 5 is 2.4e-7
  assert.ok(
    Math.abs(gotLoss - loss) <= FACTOR * Math.max(deviation.loss, 2.4e-7),
    `loss ${gotLoss}, want ${loss}`,
  );
  const prefix = `${stored}/grad.`;
  const names = [...source.tensors.keys()].filter((n) => n.startsWith(prefix));
  assert.equal(names.length, pages.tensors.size, "every trainable tensor is compared");
  for (const name of names) {
    const t = pages.tensors.get(name.slice(prefix.length).replace("base_model.model.", ""))!;
    const gradient = (await t.grad!.data()).map((v) => v / batch.trainedTokens), want = source.readF32(name);
    const error = distance(gradient, want) / norm(want);
    assert.ok(
      error <= Math.min(RELATIVE, FACTOR * deviation.gradients),
      `${name} errs by ${error} of its norm`,
    );
    assert.ok(cosine(gradient, want) >= COSINE, name);
  }
  logits.dispose();
  stats.dispose();
  source.close();
  dispose();
}

for (const form of ["f32", "nf4", "nf4_double"] as const) {
  gpuTest(
    `logits, loss and LoRA gradients of one batch are PyTorch's, base in ${form}`,
    async () => compareStep(form, await setUp("adapter_step", form)),
  );
}

gpuTest("the gradients of every weight are PyTorch's", async () => compareStep("full", await setUpFull()));

/** What may be done wrong. */
interface Mistake {
  /** Added to lora_alpha. */
  alpha?: number;
  /** Adam without its bias correction. */
  uncorrected?: boolean;
  /** Labels moved by so many positions. */
  late?: number;
}

/** The largest error of the whole run against PyTorch's f64, in units of what PyTorch's own f32 run errs by. */
async function trajectoryError(
  form: "f32" | "nf4_double",
  mistake: Mistake = {},
): Promise<{ loss: number; norm: number; adapter: number }> {
  const source = openSafetensors(at("trajectory.safetensors"));
  const batches = Array.from(
    { length: reference.batches },
    (_, k) => batchOf(source, `batch.${k}.`, mistake.late),
  );
  const { model, pages, dispose } = await setUp("adapter", form);
  if (mistake.alpha) await rescale(model, pages, mistake.alpha);
  const before = new Map<string, Float32Array>();
  for (const [name, t] of pages.tensors) before.set(name, await t.data());
  const { betas: [beta1, beta2], warmup, steps: total, accumulate, max_norm } = reference;
  const optimizer = createOptimizer(pages, {
    adam_beta1: beta1,
    adam_beta2: beta2,
    adam_epsilon: reference.eps,
    weight_decay: reference.weight_decay,
    max_grad_norm: max_norm,
  });
  const logs: TrainLog[] = [];
  await runLoop({
    objective: sft,
    model,
    optimizer,
    pages,
    maxSteps: total,
    stepsPerEpoch: total,
    window: (step) =>
      Array.from({ length: accumulate }, (_, k) => batches[(step * accumulate + k) % batches.length]!),
    learningRate(step) {
      const lr = learningRate("cosine", { step, total, warmup, base: reference.lr });
      const t = step + 1; // m / (1 - b1^t) over sqrt(v / (1 - b2^t)): undone by this factor
      return mistake.uncorrected ? lr * (1 - beta1 ** t) / Math.sqrt(1 - beta2 ** t) : lr;
    },
    dropoutSeed: undefined,
    checkpointing: false,
    logAt: () => true,
    evalAt: () => false,
    saveAt: () => false,
    evalBatches: [],
    state: newLoopState(),
    signal: undefined,
    onLog: (log) => void logs.push(log),
    onEval() {},
    onSave: () => Promise.resolve(),
  });
  const { log, deviation } = reference.runs[form];
  if (!mistake.uncorrected) {
    logs.forEach((l, i) =>
      assert.ok(Math.abs(l.learning_rate - log.learning_rate[i]!) <= 1e-15, `lr of step ${i}`)
    );
  }
  assert.equal(logs.length, total);
  const largest = (f: (l: TrainLog, i: number) => number) => Math.max(...logs.map(f));
  let adapter = 0;
  for (const [name, t] of pages.tensors) {
    const want = source.readF32(`${form}/final.base_model.model.${name}`);
    adapter = Math.max(adapter, distance(await t.data(), want) / distance(before.get(name)!, want));
  }
  source.close();
  optimizer.dispose();
  dispose();
  gpu().check();
  return {
    loss: largest((l, i) => Math.abs(l.loss - log.loss[i]!)) / deviation.loss,
    norm: largest((l, i) => Math.abs(l.grad_norm - log.grad_norm[i]!) / log.grad_norm[i]!) /
      deviation.grad_norm,
    adapter: adapter / deviation.adapter,
  };
}

/** Puts the same adapter on with another alpha, as a scaling that is off by one would have it. */
async function rescale(model: Model, pages: ParameterPages, by: number): Promise<void> {
  const { config } = readAdapter(at("adapter"));
  const values = new Map<string, Float32Array<ArrayBuffer>>();
  for (const [name, t] of pages.tensors) values.set(name, await t.data());
  const wrong = { ...config, lora_alpha: config.lora_alpha + by, target_modules: config.target_modules! };
  addAdapter(model, wrong, pages.tensors, 0);
  for (const [name, t] of pages.tensors) t.write(values.get(name)!);
}

for (const form of ["f32", "nf4_double"] as const) {
  gpuTest(
    `fifty steps of AdamW with warm-up, clipping and accumulation follow PyTorch's, base in ${form}`,
    async () => {
      const errors = await trajectoryError(form);
      for (const [what, error] of Object.entries(errors)) {
        within(`trajectory in ${form}: ${what} over the yardstick`, "largest", error, FACTOR);
      }
    },
  );
}

/** {@link trajectoryError} with the kernels that a GPU takes, and the names of the matrix products that ran. */
async function onGpuKernels(form: "f32" | "nf4_double", change: (product: LaunchOptions) => LaunchOptions) {
  const { kernels } = gpu(), { launch } = kernels;
  const products = new Set<string>();
  kernels.launch = (kernel, options) => {
    if (!kernel.name.startsWith("matmul_")) return launch(kernel, options);
    products.add(kernel.name);
    launch(kernel, change(options));
  };
  try {
    return { errors: await asOnGpu(() => trajectoryError(form)), products };
  } finally {
    kernels.launch = launch;
  }
}

for (const form of ["f32", "nf4_double"] as const) {
  gpuTest(`the same fifty steps with the kernels of a GPU, base in ${form} (R28)`, async () => {
    const { errors, products } = await onGpuKernels(form, (options) => options);
    assert.ok(products.size > 0 && !products.has("matmul_texture"), [...products].join());
    for (const [what, error] of Object.entries(errors)) {
      within(`trajectory in ${form} with a GPU's kernels: ${what} over the yardstick`, "largest", error, FACTOR);
    }
  });

  gpuTest(`the comparison can fail: matrix products that err by a thousandth, base in ${form}`, async () => {
    const wrong = (o: LaunchOptions) => ({ ...o, params: { ...o.params, alpha: 1.001 * o.params!.alpha! } });
    const { errors } = await onGpuKernels(form, wrong);
    for (const [figure, error] of Object.entries(errors)) {
      assert.ok(error > 10 * FACTOR, `${figure} errs ${error} times as much as PyTorch's f32 only`);
    }
  });
}

for (
  const [what, mistake] of [
    ["lora_alpha off by one", { alpha: 1 }],
    ["Adam without bias correction", { uncorrected: true }],
    ["labels one position late", { late: 1 }],
  ] as [string, Mistake][]
) {
  for (const form of ["f32", "nf4_double"] as const) {
    gpuTest(`the comparison can fail: ${what}, base in ${form}`, async () => {
      // far outside, in all three: no tolerance in between would let it pass
      for (const [figure, error] of Object.entries(await trajectoryError(form, mistake))) {
        assert.ok(error > 100 * FACTOR, `${figure} errs ${error} times as much as PyTorch's f32 only`);
      }
    });
  }
}
