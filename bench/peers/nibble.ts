/**
 * nibble's side of `bench/peers.ts`: the same tasks on its own device.
 * @module
 */
import { generate, loadModel, loadTokenizer } from "../../lib/api.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { baseForward } from "../../lib/model/linear.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, modelInput } from "../../lib/model/model.ts";
import { createOptimizer, createParameterPages } from "../../lib/optim/mod.ts";
import { dequantize, quantize } from "../../lib/quant/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { matmulInto } from "../../lib/tensor/ops/matmul_kernel.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { empty, scope, tensor } from "../../lib/tensor/tensor.ts";
import { fenced } from "../interleave.ts";
import { numbers, operands, type Product } from "../shapes.ts";
import type { Work } from "./serve.ts";
import {
  adapterValues,
  LORA_SCALE,
  MODULES,
  RANK,
  type StepTask,
  type Task,
  tokensOf,
  weightsOf,
} from "./task.ts";

/** @param idle milliseconds of a fence with nothing before it */
export function nibbleProduct(product: Product, idle: number): Work {
  const { layout, M, N, K } = product, shapes = operands(product);
  const x = tensor(numbers(M * K, 1), shapes.x), w = tensor(numbers(N * K, 2), shapes.w), y = empty([M, N]);
  const run = () => matmulInto({ layout, x, w, y });
  return {
    time: fenced(run, idle),
    async values(at) {
      run();
      return pick(await y.data(), at);
    },
    close: () => [x, w, y].forEach((t) => t.dispose()),
  };
}

/** x Wᵀ with W in NF4, double quantization; `weight` is W as it is then, in f32. */
export async function nibbleProduct4(
  { M, N, K }: Product,
  idle: number,
): Promise<Work & { weight: Float32Array<ArrayBuffer> }> {
  const x = tensor(numbers(M * K, 1), [M, K]), w = tensor(numbers(N * K, 2), [N, K]), q = quantize(w);
  const decoded = dequantize(q), weight = await decoded.data() as Float32Array<ArrayBuffer>;
  for (const t of [w, decoded]) t.dispose();
  return {
    weight,
    time: fenced(() => scope(() => void baseForward(q, x)), idle),
    async values(at) {
      const y = baseForward(q, x), data = await y.data();
      y.dispose();
      return pick(data, at);
    },
    close: () => [x, q].forEach((t) => t.dispose()),
  };
}

export async function nibbleStep(task: StepTask, idle: number): Promise<Work> {
  const { config, batch, time } = task;
  const quantization = { quantType: "nf4", blocksize: 64, doubleQuant: true } as const;
  const model = await buildModel(config, weightsOf(config), {
    ...task.quantized && { quantization },
    maxPositions: time,
  });
  const lora = { r: RANK, lora_alpha: LORA_SCALE * RANK, lora_dropout: 0, use_rslora: false };
  const settings = { ...lora, target_modules: "all-linear" };
  const pages = createParameterPages(adapterShapes(model, settings), "adapter");
  const { layers } = addAdapter(model, settings, pages.tensors, 1);
  for (const [module, { a, b }] of layers) {
    const [, index, name] = /layers\.(\d+)\.(.*)$/.exec(module)!;
    const i = Number(index) * MODULES.length + MODULES.indexOf(name!);
    a.write(adapterValues(i, "a", a.size));
    b.write(adapterValues(i, "b", b.size));
  }
  const optimizer = task.optimizer ? createOptimizer(pages, {}) : undefined;
  const ids = tokensOf(task), n = ids.length;
  const labels = Int32Array.from({ length: n }, (_, i) => (i + 1) % time ? ids[i + 1]! : -100);
  const input = modelInput({
    ...{ ids, batch, time, segments: new Uint32Array(n).fill(1) },
    positions: Uint32Array.from({ length: n }, (_, i) => i % time),
  });
  const tokens = batch * (time - 1);
  const pass = () => {
    pages.zeroGrad();
    return differentiate(() => linearCrossEntropy(forward(model, input), model.head, labels).stats, undefined)
      .output;
  };
  let step = 0;
  return {
    time: fenced(() => {
      scope(() => void pass());
      void optimizer?.step({ lr: 1e-4, step: ++step, gradScale: 1 / tokens });
    }, idle),
    /** The loss, then the norm of all gradients; `at` has no meaning. */
    async values() {
      const stats = pass();
      const loss = (await stats.data())[0]! / tokens;
      stats.dispose();
      let squares = 0;
      for (const { a, b } of layers.values()) {
        for (const half of [a, b]) for (const v of await half.grad!.data()) squares += (v / tokens) ** 2;
      }
      return [loss, Math.sqrt(squares)];
    },
    close() {
      optimizer?.dispose();
      pages.dispose();
      model.dispose();
    },
  };
}

/** Generation with a model's linear layers in NF4. */
export async function nibbleGenerate(task: Extract<Task, { kind: "generate" }>): Promise<Work> {
  const [model, tokenizer] = [
    await loadModel(task.model, { quantization: "nf4" }),
    await loadTokenizer(task.model),
  ];
  // no end token: both write as many as asked for
  const options = { max_new_tokens: task.tokens, temperature: 0, eos_token_id: [] };
  return {
    async time(repeats) {
      const started = performance.now();
      for (let i = 0; i < repeats; i++) await generate(model, tokenizer, task.prompt, options);
      return performance.now() - started;
    },
    values: () => Promise.resolve([]),
    close: () => model.dispose(),
  };
}

function pick(data: ArrayLike<number>, at: readonly number[]): number[] {
  return at.map((i) => data[i]!);
}
