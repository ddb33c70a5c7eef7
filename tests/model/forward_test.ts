import assert from "node:assert/strict";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { readConfig } from "../../lib/model/config.ts";
import { buildModel } from "../../lib/model/load.ts";
import { parameterShapes } from "../../lib/model/config.ts";
import { applyHead, forward, type Model, modelInput } from "../../lib/model/model.ts";
import { createParameterPages } from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, type Tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { inDoubles, memorySource, naiveLogits, naiveLoss, tinyConfig, tinyWeights } from "./tiny.ts";

// Two documents and two positions of padding in a row; a second row of one short document.
const T = 13;
const BATCH = {
  ids: Uint32Array.from([
    5,
    9,
    60,
    0,
    7,
    31,
    2,
    8,
    8,
    44,
    12,
    3,
    3,
    17,
    1,
    9,
    33,
    33,
    20,
    3,
    3,
    3,
    3,
    3,
    3,
    3,
  ]),
  positions: Uint32Array.from([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0]),
  segments: Uint32Array.from([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
  labels: Int32Array.from(
    [9, 60, -100, 7, 31, -100, 8, 8, 44, 12, -100, -100, -100, -100, 9, 33, 33, 20, -100, -100, -100, -100]
      .concat([-100, -100, -100, -100]),
  ),
  batch: 2,
  time: T,
};
const row = (i: number) => ({
  ids: BATCH.ids.subarray(i * T, (i + 1) * T),
  positions: BATCH.positions.subarray(i * T, (i + 1) * T),
  segments: BATCH.segments.subarray(i * T, (i + 1) * T),
});

// Every logit passes 2 blocks of about 6 operations whose sums have at most 44 terms of the order of 1; errors of
// independent roundings add like sqrt(44), and 2 * 6 * sqrt(44) * 4 is about 320 units.
const LOGITS = 320 * EPS;

async function allLogits(model: Model): Promise<Float32Array> {
  const out = scope(() => applyHead(model, forward(model, modelInput(BATCH))));
  const data = await out.data();
  out.dispose();
  return data;
}

for (
  const [what, more] of [
    ["Llama with grouped heads", {}],
    ["tied embeddings", { tie_word_embeddings: true }],
    ["one head each, a head size that is not hidden / heads", { num_key_value_heads: 4, head_dim: 12 }],
    ["Mistral with a window of 3", { model_type: "mistral", sliding_window: 3 }],
  ] as const
) {
  gpuTest(`forward equals the naive model in f64: ${what}`, async () => {
    const raw = tinyConfig(more), weights = tinyWeights(raw, 1);
    const model = await buildModel(raw, memorySource(raw, weights));
    const got = await allLogits(model);
    model.dispose();
    const c = readConfig(raw, "test"), w = inDoubles(weights);
    for (const i of [0, 1]) {
      naiveLogits(c, w, row(i)).forEach((want, t) => {
        if (row(i).segments[t] === 0) return; // padding may hold anything
        const start = (i * T + t) * c.vocab_size;
        assertClose(got.subarray(start, start + c.vocab_size), want, LOGITS * 4, `row ${i}, position ${t}`);
      });
    }
    const finite = got.every((v) => Number.isFinite(v));
    assert.ok(finite, "padding must not make NaN");
  });
}

/** Central differences in f64 of the naive loss, at a few elements of each parameter. */
async function compareGradients(
  gradients: ReadonlyMap<string, Tensor>,
  variables: ReadonlyMap<string, Float64Array>,
  loss: () => number,
  each: number,
): Promise<void> {
  const h = 1e-4; // error h^2 + 2^-53 * loss / h: below 1e-7
  for (const [name, gradient] of gradients) {
    const got = await gradient.data();
    const largest = got.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    assert.ok(largest > 1e-4, `${name}: the gradient must not vanish`);
    const x = variables.get(name)!;
    for (let n = 0; n < each; n++) {
      // the element with the largest gradient, then a spread
      const i = n === 0
        ? got.findIndex((v) => Math.abs(v) === largest)
        : Math.floor((n / each) * x.length + 7 * n) % x.length;
      const value = x[i]!;
      x[i] = value + h;
      const up = loss();
      x[i] = value - h;
      const down = loss();
      x[i] = value;
      // forward and backward: twice the roundings of LOGITS, relative to the size of this gradient
      assertClose([got[i]!], [(up - down) / (2 * h)], 1e-6 + 4 * LOGITS * largest, `d ${name}[${i}]`);
    }
  }
}

for (const tied of [false, true]) {
  for (const checkpointing of [false, true]) {
    const title = `${tied ? "tied" : "untied"}${checkpointing ? ", checkpointed" : ""}`;
    gpuTest(`every parameter's gradient against central differences: full, ${title}`, async () => {
      const raw = tinyConfig({ tie_word_embeddings: tied }), weights = tinyWeights(raw, 2);
      const c = readConfig(raw, "test");
      const specs = parameterShapes(c).map(({ name, shape }) => ({ name, shape, decay: true }));
      const pages = createParameterPages(specs, "base");
      const model = await buildModel(raw, memorySource(raw, weights), {
        allocate: (name) => pages.tensors.get(name)!,
      });
      pages.zeroGrad();
      scope(() => {
        const input = modelInput(BATCH);
        differentiate(
          () => linearCrossEntropy(forward(model, input, { checkpointing }), model.head, BATCH.labels).stats,
          undefined,
        );
      });
      const w = inDoubles(weights);
      const loss = () =>
        naiveLoss(c, w, row(0), BATCH.labels.subarray(0, T)) +
        naiveLoss(c, w, row(1), BATCH.labels.subarray(T));
      const gradients = new Map([...pages.tensors].map(([name, t]) => [name, t.grad!]));
      await compareGradients(gradients, w, loss, checkpointing ? 1 : 3);
      model.dispose();
      pages.dispose();
    });
  }
}

gpuTest("LoRA gradients against central differences of the naive model with W + s B A", async () => {
  for (const use_rslora of [false, true]) {
    const raw = tinyConfig(), weights = tinyWeights(raw, 3);
    const c = readConfig(raw, "test");
    const model = await buildModel(raw, memorySource(raw, weights));
    const config = { r: 3, lora_alpha: 5, lora_dropout: 0, use_rslora, target_modules: "all-linear" };
    const shapes = adapterShapes(model, config);
    const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: true })), "adapter");
    addAdapter(model, config, pages.tensors, 1);
    const scaling = use_rslora ? 5 / Math.sqrt(3) : 5 / 3;
    const variables = new Map<string, Float64Array>();
    shapes.forEach(({ name, shape }, n) => {
      const values = randoms(shape[0] * shape[1], 50 + n).map((v) => Math.fround(0.3 * v));
      pages.tensors.get(name)!.write(values); // B too, so that A has a gradient
      variables.set(name, Float64Array.from(values));
    });
    pages.zeroGrad();
    scope(() => {
      const input = modelInput(BATCH);
      differentiate(
        () => linearCrossEntropy(forward(model, input), model.head, BATCH.labels).stats,
        undefined,
      );
    });
    const merged = () => {
      const w = inDoubles(weights);
      for (const [module, { shape: [out, into] }] of model.linears) {
        const a = variables.get(`${module}.lora_A.weight`)!, b = variables.get(`${module}.lora_B.weight`)!;
        const full = w.get(`${module}.weight`)!;
        for (let o = 0; o < out; o++) {
          for (let i = 0; i < into; i++) {
            for (let k = 0; k < 3; k++) full[o * into + i]! += scaling * b[o * 3 + k]! * a[k * into + i]!;
          }
        }
      }
      return w;
    };
    const loss = () => {
      const w = merged();
      return naiveLoss(c, w, row(0), BATCH.labels.subarray(0, T)) +
        naiveLoss(c, w, row(1), BATCH.labels.subarray(T));
    };
    const gradients = new Map([...pages.tensors].map(([name, t]) => [name, t.grad!]));
    await compareGradients(gradients, variables, loss, use_rslora ? 1 : 2);
    for (
      const t of [
        model.head,
        ...model.parameters.values(),
        ...[...model.linears.values()].map((l) => l.weight),
      ]
    ) {
      assert.ok(!("grad" in t) || t.grad === undefined, "the base is frozen");
    }
    model.dispose();
    pages.dispose();
  }
});
