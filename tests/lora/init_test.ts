import assert from "node:assert/strict";
import { join } from "@std/path";
import { openModel, readAdapter } from "../../lib/formats/mod.ts";
import { adapterShapes, addAdapter, type LoraConfig } from "../../lib/lora/lora.ts";
import { loadAdapter, saveAdapter } from "../../lib/lora/peft.ts";
import { buildModel, type BuildOptions } from "../../lib/model/load.ts";
import { logits } from "../../lib/model/model.ts";
import { createParameterPages } from "../../lib/optim/mod.ts";
import { assertClose, EPS, gpuTest, randoms, refused, rejected } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { adapt, type Adapted, BASE, CONFIG, NF4 } from "./adapt_helper.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];

async function plain(options: BuildOptions = {}): Promise<Float32Array> {
  const files = openModel(BASE);
  const model = await buildModel(files.config, files.source, options);
  files.source.close();
  const out = await logits(model, IDS);
  model.dispose();
  return out;
}

/** Everything trained moves a little. */
async function stir({ pages }: Adapted): Promise<void> {
  let n = 0;
  for (const t of pages.tensors.values()) {
    const before = await t.data(), move = randoms(t.size, 40 + n++);
    t.write(before.map((v, i) => v + 0.1 * move[i]!));
  }
}

const largest = (x: ArrayLike<number>) => Array.from(x).reduce((a, v) => Math.max(a, Math.abs(v)), 0);
const distance = (x: Float32Array, y: Float32Array) => largest(x.map((v, i) => v - y[i]!));
/** As in tests/parity/adapters_test.ts. */
const tolerance = (x: ArrayLike<number>) => 2 * 440 * EPS * largest(x);

gpuTest("gaussian: A normal with deviation 1/r; false: A and B uniform", async () => {
  using gaussian = await adapt({ init_lora_weights: "gaussian", r: 8 });
  const a: number[] = [];
  for (const [name, t] of gaussian.pages.tensors) {
    const values = await t.data();
    if (name.includes("lora_B")) assert.ok(values.every((v) => v === 0), name);
    else a.push(...values);
  }
  const scaled = a.map((v) => 8 * v), n = scaled.length;
  const moment = (p: number) => scaled.reduce((sum, v) => sum + v ** p, 0) / n;
  // standard normal: mean 0, variance 1 (of squares 2), fourth moment 3 (of fourth powers 96); five standard errors
  assert.ok(Math.abs(moment(1)) < 5 / Math.sqrt(n), `mean ${moment(1)}`);
  assert.ok(Math.abs(moment(2) - 1) < 5 * Math.sqrt(2 / n), `variance ${moment(2)}`);
  assert.ok(Math.abs(moment(4) - 3) < 5 * Math.sqrt(96 / n), `fourth moment ${moment(4)}`);
  using both = await adapt({ init_lora_weights: false });
  for (const [name, t] of both.pages.tensors) {
    const bound = 1 / Math.sqrt(t.columns), values = await t.data();
    assert.ok(values.every((v) => Math.abs(v) <= bound) && values.some((v) => v > 0.8 * bound), name);
  }
});

for (const init of ["pissa", "pissa_niter_4", "olora"]) {
  for (
    const more of [{}, { use_dora: true }, { use_rslora: true, rank_pattern: { q_proj: 2 } }] as Partial<
      LoraConfig
    >[]
  ) {
    gpuTest(
      `${init} ${
        JSON.stringify(more)
      }: the function is the base's at first, and the saved folder is the trained one`,
      async () => {
        const base = await plain();
        const folder = Deno.makeTempDirSync();
        let want: Float32Array;
        {
          using a = await adapt({ init_lora_weights: init, ...more });
          assertClose(await logits(a.model, IDS), base, tolerance(base), "before training");
          for (const { initial, b } of a.adapter.layers.values()) {
            assert.ok(initial && largest(await b.data()) > 0.01, "B does not begin at zero");
          }
          await stir(a);
          want = await logits(a.model, IDS);
          assert.ok(distance(want, base) > 100 * tolerance(base), "the adapter moves");
          a.adapter.enabled = false;
          assertClose(await logits(a.model, IDS), base, tolerance(base), "off");
          a.adapter.enabled = true;
          await saveAdapter(a.adapter, folder, { base: BASE });
        }
        const { config } = readAdapter(folder);
        assert.equal(config.init_lora_weights, true, "PEFT has nothing to take out of the base again");
        assert.equal(config.nibble?.init_lora_weights, init);
        assert.equal(config.r, 8, "twice the rank");
        const files = openModel(BASE);
        const model = await buildModel(files.config, files.source);
        files.source.close();
        const adapter = loadAdapter(model, folder);
        assertClose(await logits(model, IDS), want, tolerance(want), "loaded on the base as it was");
        adapter.remove();
        model.dispose();
        Deno.removeSync(folder, { recursive: true });
      },
    );
  }

  gpuTest(`${init} on a base in NF4: saved with the base that training saw, bit for bit`, async () => {
    const folder = Deno.makeTempDirSync();
    let want: Float32Array;
    {
      using a = await adapt({ init_lora_weights: init }, NF4);
      await stir(a);
      want = await logits(a.model, IDS);
      await saveAdapter(a.adapter, folder, {
        base: BASE,
        provenance: { base_hash: "sha256:original", base_quantization: "nf4+double" },
      });
    }
    const { config } = readAdapter(folder);
    assert.equal(config.base_model_name_or_path, join(folder, "residual_base"));
    assert.match(config.nibble!.base_hash!, /^sha256-sampled:/, "the hash is the written base's");
    assert.equal(config.r, 4);
    const files = openModel(config.base_model_name_or_path!);
    assert.equal(
      files.source.tensors.get("model.layers.0.self_attn.q_proj.weight")!.dtype,
      init === "olora" ? "F32" : "BF16",
    );
    const model = await buildModel(files.config, files.source, NF4);
    files.source.close();
    const adapter = loadAdapter(model, folder, { base: { hash: config.nibble!.base_hash } });
    assert.deepEqual(await logits(model, IDS), want);
    adapter.remove();
    model.dispose();
    Deno.removeSync(folder, { recursive: true });
  });
}

gpuTest("LoftQ halves what NF4 loses, leaves the base alone, and is saved as plain LoRA", async () => {
  const exact = await plain(), quantized = await plain(NF4);
  const folder = Deno.makeTempDirSync();
  for (const lora_alpha of [8, 16]) {
    using a = await adapt(
      { init_lora_weights: "loftq", r: 8, lora_alpha, target_modules: "all-linear" },
      NF4,
    );
    const got = await logits(a.model, IDS);
    const [with_, without] = [distance(got, exact), distance(quantized, exact)];
    // rank 8 of 32 holds about half of a random matrix's norm in its largest values
    assert.ok(with_ < 0.75 * without, `errs by ${with_}, NF4 alone by ${without}`);
    a.adapter.enabled = false;
    assert.deepEqual(await logits(a.model, IDS), quantized, "off");
    a.adapter.enabled = true;
    await saveAdapter(a.adapter, folder, { base: BASE });
    const { config } = readAdapter(folder);
    assert.equal(config.init_lora_weights, true);
    assert.equal(config.nibble?.init_lora_weights, "loftq");
    assert.equal(config.base_model_name_or_path, BASE);
  }
  Deno.removeSync(folder, { recursive: true });
});

gpuTest("a base held in bf16 loses to the rounding of what is left, no more", async () => {
  const base = await plain({ torch_dtype: "bfloat16" });
  using a = await adapt({ init_lora_weights: "pissa" }, { torch_dtype: "bfloat16" });
  const error = distance(await logits(a.model, IDS), base) / largest(base);
  assert.ok(error > 2 ** -14 && error < Math.sqrt(10) * 4 * 2 ** -9 / Math.sqrt(3), `${error}`); // as in lora_test.ts
});

gpuTest("what cannot be begun is refused, and gives its buffers back", async () => {
  const refuse = (config: Partial<LoraConfig>, code: string, pattern: RegExp, options: BuildOptions = {}) =>
    rejected(() => adapt(config, options), code, pattern);
  await refuse({ init_lora_weights: "eva" }, "lora/init", /eva.*Supported: true, false, gaussian, pissa/s);
  await refuse({ init_lora_weights: "loftq" }, "lora/init", /load_in_4bit/);
  await refuse(
    { init_lora_weights: "loftq", loftq_config: { loftq_iter: 3 } },
    "lora/init",
    /loftq_iter 1/,
    NF4,
  );
  await refuse(
    { init_lora_weights: "pissa", r: 33, target_modules: ["q_proj"] },
    "lora/rank",
    /Rank 33.*q_proj.*32,32/s,
  );
  await refuse({ rank_pattern: { q_proj: 1.5 } }, "lora/pattern", /q_proj' is 1.5/);
  await refuse({ rank_pattern: { "(": 2 } }, "lora/pattern", /not a regular expression/);
  await refuse({ modules_to_save: ["nothing"] }, "lora/no-target", /'nothing'.*embed_tokens/s);
  await refuse({ modules_to_save: ["up_proj"] }, "lora/quantized", /up_proj.weight' is in 4 bits/, NF4);
  await refuse({ target_modules: "all-linear", layers_to_transform: 1 }, "lora/pattern", /needs a list/);
  await refuse(
    { exclude_modules: ["q_proj"], target_modules: ["q_proj"] },
    "lora/no-target",
    /after exclude_modules/,
  );
  const files = openModel(BASE);
  const model = await buildModel(files.config, files.source);
  files.source.close();
  const config = { ...CONFIG, init_lora_weights: "pissa" };
  const pages = createParameterPages(adapterShapes(model, config), "adapter");
  refused(() => addAdapter(model, config, pages.tensors, 1), "lora/needs-weights", /q_proj/);
  pages.dispose();
  model.dispose();
});
