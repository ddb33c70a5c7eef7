/**
 * What every family must do beside its forward pass: four bits, merging, adapters, documents, fresh weights, planning.
 * The forward pass, generation and gradients are compared with Transformers in tests/parity/families_test.ts.
 */
import assert from "node:assert/strict";
import { openModel, openSafetensors, readAdapter } from "../../lib/formats/mod.ts";
import { gpu, rehearse } from "../../lib/gpu/mod.ts";
import { adapterShapes, addAdapter, targetModules } from "../../lib/lora/lora.ts";
import { writeModel } from "../../lib/lora/merge.ts";
import { loadAdapter, saveAdapter } from "../../lib/lora/peft.ts";
import { parameterShapes, readConfig } from "../../lib/model/config.ts";
import { FAMILIES } from "../../lib/model/families.ts";
import { generate } from "../../lib/model/generate.ts";
import { buildModel } from "../../lib/model/load.ts";
import { applyHead, forward, logits, type Model, modelInput } from "../../lib/model/model.ts";
import { modelSource, storedShape, toStored } from "../../lib/model/parameters.ts";
import { randomSource } from "../../lib/model/random_source.ts";
import { createParameterPages } from "../../lib/optim/mod.ts";
import { dequantize, dequantizeOracle, QuantizedTensor, quantizeOracle } from "../../lib/quant/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice, type Weights } from "./tiny.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];
const LORA = { r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false, target_modules: "all-linear" };
const NF4 = { quantType: "nf4", blocksize: 64, doubleQuant: true } as const;

/** A tiny config of each family, with what sets it apart. */
const CONFIGS: Record<string, Record<string, unknown>> = Object.fromEntries(
  Object.entries({
    llama: { attention_bias: true, mlp_bias: true, tie_word_embeddings: true },
    mistral: { sliding_window: 4 },
    mixtral: { num_local_experts: 3 },
    qwen2: {},
    qwen3: { head_dim: 12 },
    smollm3: { no_rope_layer_interval: 2 },
    gemma: { head_dim: 16, tie_word_embeddings: true },
    starcoder2: { sliding_window: 4, tie_word_embeddings: true },
    gpt2: { n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64, n_inner: 44, tie_word_embeddings: true },
    phi3: { partial_rotary_factor: 0.5 },
  }).map(([model_type, more]) => [model_type, tinyConfig({ model_type, ...more })]),
);

/** Adapter matrices away from zero. */
function adapt(model: Model) {
  const pages = createParameterPages(
    adapterShapes(model, LORA).map((p) => ({ ...p, decay: true })),
    "adapter",
  );
  const adapter = addAdapter(model, LORA, pages.tensors, 1);
  let n = 0;
  for (const t of pages.tensors.values()) t.write(randoms(t.size, 70 + n++).map((v) => 0.3 * v));
  return { adapter, pages };
}

/** A batch of rows of documents; every row as long as the first. */
function batchOf(...rows: number[][][]) {
  const flat = (f: (document: number[], n: number) => number[]) => rows.flatMap((row) => row.flatMap(f));
  return {
    ids: Uint32Array.from(flat((d) => d)),
    positions: Uint32Array.from(flat((d) => [...d.keys()])),
    segments: Uint32Array.from(flat((d, n) => d.map(() => n + 1))),
    batch: rows.length,
    time: rows[0]!.flat().length,
  };
}

async function batchLogits(model: Model, batch: ReturnType<typeof batchOf>): Promise<Float32Array> {
  const out = scope(() => applyHead(model, forward(model, modelInput(batch))));
  const data = await out.data();
  out.dispose();
  return data;
}

const largest = (x: ArrayLike<number>) => Array.from(x).reduce((a, v) => Math.max(a, Math.abs(v)), 0);

// Two blocks of about 8 operations with sums of at most 44 terms of the order of 1, roundings adding like their root:
// 2 * 8 * sqrt(44) is about 100 units; twice that, for both sides round.
const TOLERANCE = 200 * EPS;

Deno.test("every supported family is tested here", () => {
  assert.deepEqual(Object.keys(CONFIGS).sort(), Object.keys(FAMILIES).sort());
});

for (const [family, raw] of Object.entries(CONFIGS)) {
  gpuTest(`${family} in 4 bits acts as its dequantized weights do`, async () => {
    const weights = tinyWeights(raw, 8), source = memorySource(raw, weights);
    const model = await buildModel(raw, source, { quantization: NF4 });
    const specs = new Map(parameterShapes(model.config).map((s) => [s.name, s]));
    const decoded: Weights = new Map(weights);
    for (const { module, weight } of model.linears.values()) {
      const isRouter = /block_sparse_moe\.gate$/.test(module);
      assert.equal(weight instanceof QuantizedTensor, !isRouter, `${module}: linear layers, but no router`);
      if (!(weight instanceof QuantizedTensor)) continue;
      const dense = dequantize(weight), name = `${module}.weight`, spec = specs.get(name)!;
      const values = await dense.data();
      dense.dispose();
      decoded.set(name, toStored(spec, values));
      // blocks lie along the rows of [out, in], also where files hold [in, out]; scales may be a few roundings off
      const oracle = quantizeOracle(modelSource(source, [spec]).readF32(name), weight.shape, {
        doubleQuant: true,
      });
      assertClose(values, dequantizeOracle(oracle), 16 * EPS, `${name}: the oracle's numbers`);
    }
    const twin = await buildModel(raw, memorySource(raw, decoded));
    const sides = [];
    for (const m of [model, twin]) {
      const { pages } = adapt(m);
      pages.zeroGrad();
      const labels = Int32Array.from([...IDS.slice(1), -100]);
      scope(() => {
        const input = modelInput(batchOf([IDS]));
        differentiate(() => linearCrossEntropy(forward(m, input), m.head, labels).stats, undefined);
      });
      const gradients = await Promise.all([...pages.tensors.values()].map((t) => t.grad!.data()));
      sides.push({ all: await logits(m, IDS), few: await logits(m, IDS.slice(0, 3)), gradients });
      pages.dispose();
    }
    const [got, want] = sides as [typeof sides[0], typeof sides[0]];
    assertClose(got.all, want.all, TOLERANCE * largest(want.all), "logits");
    assertClose(
      got.few,
      want.few,
      TOLERANCE * largest(want.few),
      "logits of 3 tokens, by the matrix-vector kernel",
    );
    got.gradients.forEach((g, i) => {
      const size = largest(want.gradients[i]!);
      assertClose(g, want.gradients[i]!, 4 * TOLERANCE * size, `gradient ${i}`);
    });
    assert.ok(got.gradients.some((g) => largest(g) > 1e-3));
    model.dispose();
    twin.dispose();
  });

  gpuTest(`${family}: adapter and merged model come back from their folders`, async () => {
    const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 9)));
    const { adapter, pages } = adapt(model);
    const want = await logits(model, IDS), size = largest(want);
    const folder = Deno.makeTempDirSync({ prefix: "nibble-family-" });
    await saveAdapter(adapter, `${folder}/adapter`, { base: "base" });
    assert.equal(readAdapter(`${folder}/adapter`).config.fan_in_fan_out, family === "gpt2");
    await writeModel(model, adapter, `${folder}/merged`, { dtype: "F32" });
    adapter.remove();
    const bare = await logits(model, IDS);
    assert.ok(
      largest(want.map((v, i) => v - bare[i]!)) > 100 * TOLERANCE * size,
      "the adapter says something",
    );
    const loaded = loadAdapter(model, `${folder}/adapter`);
    assertClose(await logits(model, IDS), want, 0, "the adapter loaded");
    loaded.remove();
    const file = openSafetensors(`${folder}/merged/model.safetensors`);
    const shapes = [...file.tensors].map(([name, { shape }]) => `${name} ${shape}`).sort();
    assert.deepEqual(shapes, parameterShapes(model.config).map((s) => `${s.name} ${storedShape(s)}`).sort());
    file.close();
    const files = openModel(`${folder}/merged`);
    const merged = await buildModel(files.config, files.source);
    files.source.close();
    // merging sums W + s B A first, and a mixture's router may thereby round another way
    assertClose(await logits(merged, IDS), want, 4 * TOLERANCE * size, "the merged model");
    for (const m of [model, merged, pages]) m.dispose();
    Deno.removeSync(folder, { recursive: true });
  });

  gpuTest(`${family}: packed documents do not see each other`, async () => {
    const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 10)));
    const a = IDS.slice(0, 7), b = IDS.slice(7);
    const packed = await batchLogits(model, batchOf([a, b], [b, a]));
    const alone = { a: await logits(model, a), b: await logits(model, b) };
    const want = [...alone.a, ...alone.b, ...alone.b, ...alone.a];
    assertClose(packed, want, TOLERANCE * largest(want), "logits");
    model.dispose();
  });

  gpuTest(
    `${family}: fresh weights are as Transformers starts them, and a model of them speaks`,
    async () => {
      const c = readConfig(raw, "test"), source = randomSource(c, 3);
      for (const spec of parameterShapes(c)) {
        const values = source.readF32(spec.name);
        const plusOne = c.family.norm === "rmsPlusOne";
        if (/norm\.weight$|ln_\w+\.weight$/.test(spec.name)) {
          assert.ok(values.every((v) => v === (plusOne ? 0 : 1)), spec.name);
        } else if (spec.name.endsWith(".bias")) {
          assert.ok(values.every((v) => v === 0), spec.name);
        } else {
          assert.ok(largest(values) > 0 && largest(values) < 6 * c.initializer_range, spec.name);
        }
      }
      const model = await buildModel(raw, source);
      const { ids } = await generate(model, IDS, { max_new_tokens: 3, eos_token_id: [] });
      assert.equal(ids.length, 3);
      model.dispose();
    },
  );
}

gpuTest("a rehearsal plans the bytes of fused, learned-position and mixture models", async () => {
  for (const family of ["gpt2", "phi3", "mixtral", "gemma"]) {
    const raw = CONFIGS[family]!;
    const source = memorySource(raw, tinyWeights(raw, 11));
    const labels = Int32Array.from([...IDS.slice(1), -100]);
    const run = async (rehearsal: boolean) => {
      const model = await buildModel(raw, source, { quantization: NF4, rehearsal });
      const { pages } = adapt(model);
      scope(() => {
        const input = modelInput(batchOf([IDS]));
        const options = { checkpointing: true };
        differentiate(
          () => linearCrossEntropy(forward(model, input, options), model.head, labels).stats,
          undefined,
        );
      });
      return { dispose: () => [model, pages].forEach((m) => m.dispose()) };
    };
    const { memory } = await rehearse(gpu(), Infinity, async () => void await run(true));
    gpu().pool.resetPeak();
    const before = gpu().pool.report().liveBytes;
    const done = await run(false);
    const measured = gpu().pool.report().peakBytes - before;
    done.dispose();
    assert.ok(
      Math.abs(memory.peakBytes - measured) <= 0.05 * measured,
      `${family}: ${memory.peakBytes}, ${measured}`,
    );
  }
});

Deno.test("PEFT's default targets of each family", () => {
  const targets = (family: string) => FAMILIES[family]!.loraTargets.join();
  assert.equal(targets("gpt2"), "c_attn");
  assert.equal(targets("phi3"), "qkv_proj");
  for (const family of Object.keys(FAMILIES)) {
    if (family !== "gpt2" && family !== "phi3") assert.equal(targets(family), "q_proj,v_proj");
  }
});

gpuTest("all-linear on a mixture takes router and experts, as PEFT does", async () => {
  const raw = CONFIGS.mixtral!;
  const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 1)));
  const ends = new Set(targetModules(model, LORA).map((m) => m.split(".").at(-1)));
  assert.deepEqual([...ends].sort(), ["gate", "k_proj", "o_proj", "q_proj", "v_proj", "w1", "w2", "w3"]);
  assert.equal(targetModules(model, LORA).length, 2 * (4 + 1 + 3 * 3));
  model.dispose();
});
