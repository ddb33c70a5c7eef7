import assert from "node:assert/strict";
import {
  bf16ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  openModel,
  type TensorSource,
} from "../../lib/formats/mod.ts";
import { gpu, rehearse } from "../../lib/gpu/mod.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { writeModel } from "../../lib/lora/merge.ts";
import { buildModel, type BuildOptions } from "../../lib/model/load.ts";
import { forward, logits, type Model, modelInput } from "../../lib/model/model.ts";
import { createParameterPages } from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms, rejected } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice, type Weights } from "./tiny.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];
const ROUND = {
  bfloat16: (w: Float32Array<ArrayBuffer>) => bf16ToF32(f32ToBf16(w)),
  float16: (w: Float32Array<ArrayBuffer>) => f16ToF32(f32ToF16(w)),
};

/** The weights as 16 bits hold them: matrices rounded, vectors as they are. */
function rounded(raw: Record<string, unknown>, weights: Weights, type: keyof typeof ROUND): Weights {
  const { tensors } = memorySource(raw, weights);
  return new Map(
    [...weights].map(([name, w]) => [name, tensors.get(name)!.shape.length > 1 ? ROUND[type](w) : w]),
  );
}

/** Loss and adapter gradients of a step. */
async function step(model: Model): Promise<Float32Array[]> {
  const config = { r: 2, lora_alpha: 4, lora_dropout: 0, use_rslora: false, target_modules: "all-linear" };
  const specs = adapterShapes(model, config).map((p) => ({ ...p, decay: true }));
  const pages = createParameterPages(specs, "adapter");
  const adapter = addAdapter(model, config, pages.tensors, 1);
  let n = 0;
  for (const t of pages.tensors.values()) t.write(randoms(t.size, 70 + n++).map((v) => 0.3 * v));
  const time = IDS.length;
  const labels = Int32Array.from([...IDS.slice(1), -100]);
  scope(() => {
    const input = modelInput({
      ids: Uint32Array.from(IDS),
      positions: Uint32Array.from(IDS.keys()),
      segments: new Uint32Array(time).fill(1),
      batch: 1,
      time,
    });
    differentiate(() => linearCrossEntropy(forward(model, input), model.head, labels).stats, undefined);
  });
  const gradients = await Promise.all([...pages.tensors.values()].map((t) => t.grad!.data()));
  adapter.remove();
  pages.dispose();
  return gradients;
}

for (const torch_dtype of ["bfloat16", "float16"] as const) {
  for (const quantized of [false, true]) {
    gpuTest(
      `a ${quantized ? "4-bit" : "dense"} base in ${torch_dtype} acts as its rounded weights do`,
      async () => {
        const raw = tinyConfig(), weights = tinyWeights(raw, 8);
        const quantization = quantized
          ? { quantType: "nf4", blocksize: 64, doubleQuant: false } as const
          : undefined;
        const model = await buildModel(raw, memorySource(raw, weights), { torch_dtype, quantization });
        // linear layers in 4 bits are quantized from the file's numbers, not from rounded ones
        const same = rounded(raw, weights, torch_dtype);
        if (quantized) {
          for (const { module } of model.linears.values()) {
            same.set(`${module}.weight`, weights.get(`${module}.weight`)!);
          }
        }
        const twin = await buildModel(raw, memorySource(raw, same), { quantization });
        const short = torch_dtype === "bfloat16" ? "bf16" : "f16";
        for (const [name, t] of model.parameters) {
          assert.equal(t.dtype, t.shape.length > 1 ? short : "f32", name);
        }
        assert.equal(model.embed.dtype, short);
        for (const { weight } of model.linears.values()) {
          if ("dtype" in weight && !quantized) {
            assert.equal(weight.dtype, short);
          }
        }
        // the same products in the same order, from the same numbers: at most fused differently
        const want = await logits(twin, IDS);
        assertClose(await logits(model, IDS), want, 64 * EPS * Math.max(...want.map(Math.abs)), "logits");
        const [got, expected] = [await step(model), await step(twin)];
        got.forEach((g, i) =>
          assertClose(
            g,
            expected[i]!,
            256 * EPS * Math.max(1, ...expected[i]!.map(Math.abs)),
            `gradient ${i}`,
          )
        );
        const unrounded = await buildModel(raw, memorySource(raw, weights), { quantization });
        const off = await logits(unrounded, IDS);
        assert.ok(
          off.some((v, i) => Math.abs(v - want[i]!) > 1e-4),
          "rounding shows, so the comparison can fail",
        );
        for (const m of [model, twin, unrounded]) m.dispose();
      },
    );
  }
}

gpuTest("merged into a base of 16 bits, an adapter gives its logits", async () => {
  const raw = tinyConfig(), weights = tinyWeights(raw, 8);
  const model = await buildModel(raw, memorySource(raw, weights), { torch_dtype: "bfloat16" });
  const config = {
    r: 2,
    lora_alpha: 4,
    lora_dropout: 0,
    use_rslora: false,
    target_modules: ["q_proj", "up_proj"],
  };
  const pages = createParameterPages(
    adapterShapes(model, config).map((p) => ({ ...p, decay: true })),
    "adapter",
  );
  const adapter = addAdapter(model, config, pages.tensors, 1);
  let n = 0;
  for (const t of pages.tensors.values()) t.write(randoms(t.size, 70 + n++).map((v) => 0.3 * v));
  const want = await logits(model, IDS);
  const folder = await Deno.makeTempDir();
  await writeModel(model, adapter, folder, { dtype: "F32" });
  const files = openModel(folder);
  const merged = await buildModel(files.config, files.source);
  files.source.close();
  // W + s B A rounds once where x W and s (x A) B round apart: a few roundings of sums of up to 64 numbers
  assertClose(await logits(merged, IDS), want, 64 * EPS * Math.max(...want.map(Math.abs)), "logits");
  await Deno.remove(folder, { recursive: true });
  adapter.remove();
  for (const m of [pages, model, merged]) m.dispose();
});

/** A source that says its tensors are of these types; the numbers stay as they are. */
function typed(source: TensorSource, type: (name: string) => string): TensorSource {
  const tensors = new Map([...source.tensors].map(([name, info]) => [name, { ...info, dtype: type(name) }]));
  return { ...source, tensors };
}

gpuTest("auto keeps each weight as its file does, null and float32 in f32, what trains in f32", async () => {
  const raw = tinyConfig({ tie_word_embeddings: true }), weights = tinyWeights(raw, 2);
  const source = typed(
    memorySource(raw, weights),
    (name) => name.includes("layers.0") ? "F16" : /embed/.test(name) ? "BF16" : "F32",
  );
  const types = async (options: BuildOptions) => {
    const model = await buildModel(raw, source, options);
    assert.equal(model.head, model.embed, "tied: the one tensor");
    const of = (module: string) => {
      const { weight } = model.linears.get(module)!;
      return "dtype" in weight ? weight.dtype : "";
    };
    const out = [model.embed.dtype, of("model.layers.0.mlp.up_proj"), of("model.layers.1.mlp.up_proj")];
    model.dispose();
    return out;
  };
  assert.deepEqual(await types({ torch_dtype: "auto" }), ["bf16", "f16", "f32"]);
  assert.deepEqual(await types({ torch_dtype: "float32" }), ["f32", "f32", "f32"]);
  assert.deepEqual(await types({}), ["f32", "f32", "f32"]);
  const pages = createParameterPages(
    [{ name: "model.embed_tokens.weight", shape: [61, 32], decay: true }],
    "base",
  );
  const allocate = (name: string) => pages.tensors.get(name);
  assert.deepEqual(await types({ torch_dtype: "bfloat16", allocate }), ["f32", "bf16", "bf16"]);
  pages.dispose();
});

gpuTest("float16 refuses what it cannot hold, by name, and leaves nothing behind", async () => {
  const raw = tinyConfig(), weights = tinyWeights(raw, 2);
  weights.get("model.layers.1.mlp.up_proj.weight")![7] = 7e4;
  const load = async (torch_dtype: "float16" | "bfloat16") =>
    await buildModel(raw, memorySource(raw, weights), { torch_dtype });
  await rejected(() => load("float16"), "model/f16-range", /up_proj\.weight' holds 70000.*bfloat16/s);
  (await load("bfloat16")).dispose();
});

gpuTest("a rehearsal asks for the bytes that loading takes", async () => {
  const raw = tinyConfig({ vocab_size: 6100 }), weights = tinyWeights(raw, 2);
  const source = memorySource(raw, weights);
  for (const torch_dtype of ["float32", "bfloat16"] as const) {
    const before = gpu().pool.report().live.base;
    const model = await buildModel(raw, source, { torch_dtype });
    const held = gpu().pool.report().live.base - before;
    model.dispose();
    const { memory } = await rehearse(gpu(), Infinity, async () => {
      await buildModel(raw, source, { torch_dtype, rehearsal: true });
    });
    assert.equal(memory.live.base, held);
    // embedding and head are all but everything here
    const share = held / (2 * 6100 * 32 * 4);
    assert.ok(torch_dtype === "float32" ? share > 1 && share < 1.1 : share > 0.5 && share < 0.6, `${share}`);
  }
});
