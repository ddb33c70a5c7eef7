import assert from "node:assert/strict";
import { join } from "@std/path";
import { openModel, readAdapter } from "../../lib/formats/mod.ts";
import {
  type Adapter,
  adapterShapes,
  addAdapter,
  type LoraConfig,
  targetModules,
} from "../../lib/lora/lora.ts";
import { writeModel } from "../../lib/lora/merge.ts";
import { loadAdapter, saveAdapter } from "../../lib/lora/peft.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, logits, type Model, modelInput } from "../../lib/model/model.ts";
import { createParameterPages, type ParameterPages } from "../../lib/optim/mod.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice } from "../model/tiny.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];
const CONFIG: LoraConfig = {
  r: 4,
  lora_alpha: 6,
  lora_dropout: 0,
  use_rslora: false,
  target_modules: "all-linear",
};

async function tiny(seed = 9, quantized = false): Promise<Model> {
  const raw = tinyConfig();
  return await buildModel(
    raw,
    memorySource(raw, tinyWeights(raw, seed)),
    quantized ? { quantization: { quantType: "nf4", blocksize: 64, doubleQuant: true } } : {},
  );
}

function adapt(
  model: Model,
  config: LoraConfig = CONFIG,
  seed = 1,
): { adapter: Adapter; pages: ParameterPages } {
  const pages = createParameterPages(
    adapterShapes(model, config).map((p) => ({ ...p, decay: true })),
    "adapter",
  );
  return { adapter: addAdapter(model, config, pages.tensors, seed), pages };
}

/** B away from zero, so that the adapter says something. */
function stir(pages: ParameterPages): void {
  let n = 0;
  for (const [name, t] of pages.tensors) {
    if (name.includes("lora_B")) t.write(randoms(t.size, 30 + n++).map((v) => 0.2 * v));
  }
}

const folderFor = () => Deno.makeTempDirSync({ prefix: "nibble-lora-" });

gpuTest("target_modules by PEFT's rules", async () => {
  const model = await tiny();
  const of = (target_modules: LoraConfig["target_modules"]) => targetModules(model, { target_modules });
  const names = (t: LoraConfig["target_modules"]) => of(t).join(" ");
  assert.equal(of("all-linear").length, 14);
  assert.equal(of(["all-linear"]).length, 14);
  assert.equal(names(["v_proj"]), "model.layers.0.self_attn.v_proj model.layers.1.self_attn.v_proj");
  assert.equal(names(["layers.1.mlp.up_proj"]), "model.layers.1.mlp.up_proj", "a path's end");
  assert.equal(names("model\\.layers\\.0\\..*_proj").split(" ").length, 7, "a regular expression");
  assert.equal(
    names(".*\\.0\\.mlp\\.(up|down)_proj"),
    "model.layers.0.mlp.up_proj model.layers.0.mlp.down_proj",
  );
  // the expression stands for the whole path, and a list for whole names
  refused(() => names("self_attn"), "lora/no-target", /q_proj, k_proj.*all-linear/s);
  refused(() => names(["proj"]), "lora/no-target", /"proj"/);
  refused(() => names(["lm_head"]), "lora/no-target", /lm_head/);
  model.dispose();
});

gpuTest("A starts uniform in ±1/sqrt(in), B at zero, and a seed repeats", async () => {
  const model = await tiny();
  const { pages } = adapt(model);
  const again = adapt(model), other = adapt(model, CONFIG, 2);
  let sum = 0, squares = 0, count = 0;
  for (const [name, t] of pages.tensors) {
    const values = await t.data();
    assert.deepEqual([...await again.pages.tensors.get(name)!.data()], [...values], `${name}: the same seed`);
    if (name.includes("lora_B")) {
      assert.ok(values.every((v) => v === 0), name);
      continue;
    }
    const bound = 1 / Math.sqrt(t.columns);
    assert.ok(values.every((v) => Math.abs(v) <= bound), `${name}: within ${bound}`);
    assert.ok(
      values.some((v) => v > 0.9 * bound) && values.some((v) => v < -0.9 * bound),
      `${name}: fills it`,
    );
    assert.notDeepEqual(
      [...await other.pages.tensors.get(name)!.data()],
      [...values],
      `${name}: another seed`,
    );
    for (const v of values) {
      sum += v / bound;
      squares += (v / bound) ** 2;
      count++;
    }
  }
  // uniform in ±1: mean 0, variance 1/3 (of squares 4/45); five standard errors
  assert.ok(Math.abs(sum / count) < 5 * Math.sqrt(1 / 3 / count), `mean ${sum / count}`);
  assert.ok(Math.abs(squares / count - 1 / 3) < 5 * Math.sqrt(4 / 45 / count), `variance ${squares / count}`);
  const qs = [0, 1].map((l) => pages.tensors.get(`model.layers.${l}.self_attn.q_proj.lora_A.weight`)!);
  assert.notDeepEqual(await qs[0]!.data(), await qs[1]!.data(), "layers draw independently");
  model.dispose();
  for (const p of [pages, again.pages, other.pages]) p.dispose();
});

for (const quantized of [false, true]) {
  gpuTest(
    `untrained, switched off or removed, an adapter changes no bit (${quantized ? "NF4" : "f32"})`,
    async () => {
      const model = await tiny(9, quantized);
      const base = await logits(model, IDS);
      const { adapter, pages } = adapt(model);
      assert.deepEqual(await logits(model, IDS), base, "B is zero");
      stir(pages);
      const adapted = await logits(model, IDS);
      const moved = adapted.reduce((a, v, i) => Math.max(a, Math.abs(v - base[i]!)), 0);
      assert.ok(moved > 0.01, `the adapter must say something, moved ${moved}`);
      adapter.enabled = false;
      assert.deepEqual(await logits(model, IDS), base, "off");
      adapter.enabled = true;
      assert.deepEqual(await logits(model, IDS), adapted, "on again");
      adapter.remove();
      assert.deepEqual(await logits(model, IDS), base, "removed");
      model.dispose();
      pages.dispose();
    },
  );
}

gpuTest("scaling is alpha / r, and alpha / sqrt(r) with rsLoRA", async () => {
  const model = await tiny();
  const scalings = [false, true].map((use_rslora) => {
    const { adapter, pages } = adapt(model, { ...CONFIG, r: 9, lora_alpha: 6, use_rslora });
    const values = new Set([...adapter.layers.values()].map((l) => l.scaling));
    pages.dispose();
    return [...values];
  });
  assert.deepEqual(scalings, [[6 / 9], [2]]);
  model.dispose();
});

gpuTest("dropout thins the adapter's input while training only, and repeats with its seed", async () => {
  const model = await tiny();
  const { pages } = adapt(model, { ...CONFIG, lora_dropout: 0.5 });
  stir(pages);
  const hidden = async (dropoutSeed: number | undefined) => {
    const out = scope(() => {
      const n = IDS.length;
      const input = modelInput({
        ids: Uint32Array.from(IDS),
        positions: Uint32Array.from(IDS.keys()),
        segments: new Uint32Array(n).fill(1),
        batch: 1,
        time: n,
      });
      return forward(model, input, { dropoutSeed });
    });
    const data = await out.data();
    out.dispose();
    return data;
  };
  const plain = await hidden(undefined);
  assert.deepEqual(await hidden(undefined), plain);
  const one = await hidden(1);
  assert.notDeepEqual(one, plain);
  assert.deepEqual(await hidden(1), one);
  assert.notDeepEqual(await hidden(2), one);
  model.dispose();
  pages.dispose();
});

for (
  const [what, config] of [
    ["all-linear", CONFIG],
    ["one layer's modules by path, rsLoRA", {
      ...CONFIG,
      use_rslora: true,
      target_modules: ["model.layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"],
    }],
    ["a regular expression", {
      ...CONFIG,
      r: 2,
      target_modules: "model\\.layers\\.0\\.self_attn\\.[qv]_proj",
    }],
    ["names", { ...CONFIG, target_modules: ["q_proj", "down_proj"] }],
  ] as [string, LoraConfig][]
) {
  gpuTest(`saved and loaded bit for bit: ${what}`, async () => {
    const folder = folderFor();
    const model = await tiny();
    const { adapter, pages } = adapt(model, config);
    stir(pages);
    const want = await logits(model, IDS);
    await saveAdapter(adapter, folder, { base: "some/base", provenance: { base_hash: "sha256:1" } });
    adapter.remove();
    const loaded = loadAdapter(model, folder, { base: { hash: "sha256:1" } });
    assert.deepEqual([...loaded.layers.keys()], [...adapter.layers.keys()]);
    for (const [module, { a, b, scaling }] of loaded.layers) {
      const before = adapter.layers.get(module)!;
      assert.equal(scaling, before.scaling);
      assert.deepEqual(await a.data(), await before.a.data(), `${module} A`);
      assert.deepEqual(await b.data(), await before.b.data(), `${module} B`);
    }
    assert.deepEqual(await logits(model, IDS), want);
    const { config: saved } = readAdapter(folder);
    assert.equal(saved.base_model_name_or_path, "some/base");
    assert.equal(saved.nibble?.base_hash, "sha256:1");
    loaded.remove();
    model.dispose();
    pages.dispose();
    Deno.removeSync(folder, { recursive: true });
  });
}

gpuTest(
  "an adapter of another base or size is refused, and leaves model and memory as they were",
  async () => {
    const folder = folderFor();
    const model = await tiny();
    const base = await logits(model, IDS);
    const { adapter, pages } = adapt(model);
    stir(pages);
    await saveAdapter(adapter, folder, { base: "some/base", provenance: { base_hash: "sha256:1" } });
    adapter.remove();
    pages.dispose();
    refused(
      () => loadAdapter(model, folder, { base: { hash: "sha256:2" } }),
      "lora/base-mismatch",
      /some\/base, sha256:1; in hand sha256:2/,
    );
    const raw = tinyConfig({ intermediate_size: 40 });
    const other = await buildModel(raw, memorySource(raw, tinyWeights(raw, 1)));
    refused(
      () => loadAdapter(other, folder, {}),
      "lora/shape",
      /layers\.0\.mlp\.gate_proj\.lora_B\.weight' is \[44,4\], expected \[40,4\]/,
    );
    other.dispose();
    const shallow = tinyConfig({ num_hidden_layers: 1 });
    const small = await buildModel(shallow, memorySource(shallow, tinyWeights(shallow, 1)));
    refused(() => loadAdapter(small, folder, {}), "lora/unsupported", /layers\.1\..*no place in this model/);
    small.dispose();
    assert.deepEqual(await logits(model, IDS), base);
    model.dispose();
    Deno.removeSync(folder, { recursive: true });
  },
);

for (const quantized of [false, true]) {
  gpuTest(
    `merged into ${quantized ? "the dequantized NF4" : "the f32"} base, an adapter gives its logits`,
    async () => {
      const folder = folderFor();
      const model = await tiny(9, quantized);
      const { adapter, pages } = adapt(model);
      stir(pages);
      const want = await logits(model, IDS);
      const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
      const merged = async (dtype: "F32" | "BF16" | "F16") => {
        const into = join(folder, dtype);
        await writeModel(model, adapter, into, { dtype, maxShardBytes: 20000 });
        const files = openModel(into);
        const plain = await buildModel(files.config, files.source);
        const got = await logits(plain, IDS);
        plain.dispose();
        files.source.close();
        return got;
      };
      // rounding W + sBA once to f32 adds to each product what an f32 sum errs by anyway
      assertClose(await merged("F32"), want, 640 * EPS * size, "F32");
      // BF16 rounds each weight by 2^-9 of itself at most, of random sign: through 2 blocks of 4 products in a row,
      // head and embedding (10 in all) the errors add like a root, and the largest of 700 logits lies at 4 deviations;
      // rounding errors spread evenly have a deviation of 2^-9 / sqrt(3)
      const bf16 = Math.sqrt(10) * 4 * 2 ** -9 / Math.sqrt(3);
      const worst = (got: Float32Array) =>
        got.reduce((a, v, i) => Math.max(a, Math.abs(v - want[i]!)), 0) / size;
      const errors = { BF16: worst(await merged("BF16")), F16: worst(await merged("F16")) };
      assert.ok(errors.BF16 < bf16, `BF16 errs by ${errors.BF16}, bound ${bf16}`);
      assert.ok(errors.F16 < bf16 / 8, `F16 has three bits more: ${errors.F16}`);
      assert.ok(errors.BF16 > 2 ** -13, "and rounding did happen");
      adapter.enabled = false;
      const base = await logits(model, IDS);
      const moved = base.reduce((a, v, i) => Math.max(a, Math.abs(v - want[i]!)), 0) / size;
      assert.ok(moved > 3 * bf16, `the adapter itself moves logits by more than the tolerance: ${moved}`);
      model.dispose();
      pages.dispose();
      Deno.removeSync(folder, { recursive: true });
    },
  );
}

gpuTest("an adapter that trains on keeps its own tensors", async () => {
  const folder = folderFor();
  const model = await tiny();
  const { adapter, pages } = adapt(model);
  stir(pages);
  await saveAdapter(adapter, folder, { base: "b" });
  const want = await logits(model, IDS);
  for (const t of pages.tensors.values()) t.write(new Float32Array(t.size));
  adapter.remove();
  loadAdapter(model, folder, { parameters: pages.tensors });
  assert.deepEqual(await logits(model, IDS), want);
  model.dispose();
  pages.dispose();
  Deno.removeSync(folder, { recursive: true });
});
