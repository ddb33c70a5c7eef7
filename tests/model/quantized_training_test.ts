/**
 * Training an adapter on a 4-bit base, whichever way the products with the base are computed.
 */
import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, type Model, modelInput } from "../../lib/model/model.ts";
import { createParameterPages } from "../../lib/optim/mod.ts";
import { QuantizedTensor } from "../../lib/quant/mod.ts";
import { quantizedFits, type QuantizedKernel } from "../../lib/quant/matmul.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice } from "./tiny.ts";

await warmDevice();

const STEPS = 4, RATE = 0.3, TOKENS = 40;
const ADAPTER = { r: 4, lora_alpha: 8, lora_dropout: 0, use_rslora: false, target_modules: "all-linear" };
// every product's rows and columns fill the blocks that the kernels ask for
const RAW = tinyConfig({
  hidden_size: 64,
  intermediate_size: 192,
  num_attention_heads: 1,
  num_key_value_heads: 1,
});

/** Losses of some steps of gradient descent on an adapter, the base's products computed in one way. */
async function losses(kernel: QuantizedKernel, spoil?: (model: Model) => Promise<void>): Promise<number[]> {
  const names = ["nt", "nn"].flatMap((layout) =>
    ["few", "some"].map((rows) => `matmul_4bit.${layout}.${rows}`)
  );
  gpu().choices = new Map(names.map((name) => [name, kernel]));
  const runner = gpu().kernels, { launch } = runner, launched = new Set<string>();
  runner.launch = (kernel, options) => {
    launched.add(kernel.name);
    launch(kernel, options);
  };
  const model = await buildModel(RAW, memorySource(RAW, tinyWeights(RAW, 8)), {
    quantization: { quantType: "nf4", blocksize: 64, doubleQuant: true },
  });
  await spoil?.(model);
  const pages = createParameterPages(
    adapterShapes(model, ADAPTER).map((p) => ({ ...p, decay: true })),
    "adapter",
  );
  try {
    addAdapter(model, ADAPTER, pages.tensors, 1);
    for (const { weight } of model.linears.values()) {
      assert.ok(weight instanceof QuantizedTensor);
      for (const layout of ["nt", "nn"] as const) assert.ok(quantizedFits(kernel, layout, weight, gpu()));
    }
    const ids = Uint32Array.from(randoms(TOKENS, 5), (v) => Math.floor(30 * (v + 1)));
    const labels = Int32Array.from([...ids.slice(1), -100]);
    const batch = {
      ...{ ids, positions: ids.map((_, i) => i), segments: ids.map(() => 1), batch: 1, time: TOKENS },
    };
    const seen: number[] = [];
    for (let step = 0; step < STEPS; step++) {
      pages.zeroGrad();
      const output = scope(() => {
        const input = modelInput(batch);
        return differentiate(
          () => linearCrossEntropy(forward(model, input), model.head, labels).stats,
          undefined,
        ).output;
      });
      seen.push((await output.data())[0]! / (TOKENS - 1));
      output.dispose();
      for (const t of pages.tensors.values()) {
        const value = await t.data(), grad = await t.grad!.data();
        t.write(value.map((v, i) => v - RATE / TOKENS * grad[i]!));
      }
    }
    const own = kernel === "scratch" ? "dequantize_4bit" : `matmul_4bit_${kernel.replace(/\d.*/, "")}`;
    for (const name of ["dequantize_4bit", "matmul_4bit_tile", "matmul_4bit_texture"]) {
      assert.equal(launched.has(name), name === own, `${kernel} launches ${[...launched]}`);
    }
    return seen;
  } finally {
    runner.launch = launch;
    gpu().choices = new Map();
    model.dispose();
    pages.dispose();
  }
}

/** Gives each block of one weight the scale of the one before. */
async function shiftScales(model: Model): Promise<void> {
  const { absmax } = model.linears.get("model.layers.1.mlp.up_proj")!.weight as QuantizedTensor;
  const [read] = await gpu().stream.read([{
    buffer: absmax.buffer,
    offset: absmax.offset,
    bytes: absmax.bytes,
  }]);
  new Uint8Array(read!).copyWithin(1, 0);
  absmax.write(new Uint32Array(read!));
}

/** Largest difference of two trajectories, in units of what rounding explains at its step. */
function apart(a: readonly number[], b: readonly number[]): number {
  // 2 blocks of 7 products, of up to 192 terms each, round in another order; a step's parameters carry the differences
  // of those before it
  const rounding = (step: number, loss: number) => (step + 1) * 14 * 192 * EPS * loss;
  return Math.max(...a.map((v, step) => Math.abs(v - b[step]!) / rounding(step, v)));
}

gpuTest("four steps of QLoRA lose alike through every way of multiplying with the base", async () => {
  const want = await losses("scratch");
  assert.ok(want[STEPS - 1]! < 0.8 * want[0]!, `the adapter learns: ${want}`);
  const lanes = /llvmpipe.*256 bits/.test(gpu().name) && gpu().features.subgroups;
  for (const kernel of ["tile16x64", "tile32", "tile64", ...(lanes ? ["texture" as const] : [])] as const) {
    const got = await losses(kernel);
    assert.ok(apart(got, want) <= 1, `${kernel}: ${got} for ${want}`);
    const spoilt = await losses(kernel, shiftScales);
    assert.ok(apart(spoilt, want) > 10, `${kernel}: scales one block off show: ${spoilt} for ${want}`);
  }
});
