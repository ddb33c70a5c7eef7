import assert from "node:assert/strict";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, logits, type Model, modelInput } from "../../lib/model/model.ts";
import { createParameterPages, type ParameterPages } from "../../lib/optim/mod.ts";
import { dequantize, QuantizedTensor } from "../../lib/quant/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice, type Weights } from "./tiny.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];
const CONFIG = { r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false, target_modules: "all-linear" };

function withAdapter(model: Model): ParameterPages {
  const pages = createParameterPages(
    adapterShapes(model, CONFIG).map((p) => ({ ...p, decay: true })),
    "adapter",
  );
  addAdapter(model, CONFIG, pages.tensors, 1);
  let n = 0;
  for (const t of pages.tensors.values()) t.write(randoms(t.size, 70 + n++).map((v) => 0.3 * v));
  pages.zeroGrad();
  return pages;
}

function backward(model: Model): void {
  const n = IDS.length;
  const batch = {
    ids: Uint32Array.from(IDS),
    positions: Uint32Array.from(IDS.keys()),
    segments: new Uint32Array(n).fill(1),
    batch: 1,
    time: n,
  };
  const labels = Int32Array.from([...IDS.slice(1), -100]);
  scope(() => {
    const input = modelInput(batch);
    differentiate(() => linearCrossEntropy(forward(model, input), model.head, labels).stats, undefined);
  });
}

for (
  const [quantType, blocksize, doubleQuant] of [
    ["nf4", 64, true],
    ["nf4", 128, false],
    ["fp4", 32, false],
    ["int4", 64, true],
  ] as const
) {
  gpuTest(`a ${quantType} base of blocks of ${blocksize} acts as its dequantized weights do`, async () => {
    const raw = tinyConfig(), weights = tinyWeights(raw, 8);
    const model = await buildModel(raw, memorySource(raw, weights), {
      quantization: { quantType, blocksize, doubleQuant },
    });
    const decoded: Weights = new Map(weights);
    for (const { module, weight } of model.linears.values()) {
      assert.ok(weight instanceof QuantizedTensor);
      const dense = dequantize(weight);
      decoded.set(`${module}.weight`, await dense.data());
      dense.dispose();
    }
    const twin = await buildModel(raw, memorySource(raw, decoded));
    const original = await buildModel(raw, memorySource(raw, weights));
    const pages = withAdapter(model), twinPages = withAdapter(twin);
    // both sum the same products in f32, in another order at most: 2 blocks of 7 products of up to 44 terms
    const tolerance = 400 * EPS;
    for (const length of [IDS.length, 3]) { // 3 rows take the matrix-vector kernel
      const got = await logits(model, IDS.slice(0, length)), want = await logits(twin, IDS.slice(0, length));
      const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      assertClose(got, want, tolerance * size, `logits of ${length} tokens`);
      const dense = await logits(original, IDS.slice(0, length));
      const off = dense.reduce((a, v, i) => Math.max(a, Math.abs(v - got[i]!)), 0);
      assert.ok(off > 100 * tolerance * size, "four bits differ from the original by far more than that");
    }
    backward(model);
    backward(twin);
    for (const [name, t] of pages.tensors) {
      const got = await t.grad!.data(), want = await twinPages.tensors.get(name)!.grad!.data();
      const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      assert.ok(size > 0, `${name} has a gradient`);
      assertClose(got, want, 4 * tolerance * size, `d ${name}`);
    }
    for (const { weight } of model.linears.values()) {
      assert.ok(
        !("requiresGrad" in weight) && !("grad" in weight),
        "a quantized base has no place for a gradient",
      );
    }
    for (const t of [model.head, ...model.parameters.values()]) {
      assert.ok(!t.requiresGrad && t.grad === undefined, `${t.name} is frozen`);
    }
    for (const m of [model, twin, original]) m.dispose();
    for (const p of [pages, twinPages]) p.dispose();
  });
}
