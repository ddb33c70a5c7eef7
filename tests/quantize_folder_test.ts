import assert from "node:assert/strict";
import { join } from "@std/path";
import { addLora, loadModel, saveAdapter } from "../lib/api.ts";
import { openModel, openSafetensors } from "../lib/formats/mod.ts";
import { gpu } from "../lib/gpu/mod.ts";
import { writeModel } from "../lib/lora/merge.ts";
import { readConfig } from "../lib/model/config.ts";
import { buildModel, describeLoad } from "../lib/model/load.ts";
import { applyHead, forward, type Model, modelInput } from "../lib/model/model.ts";
import { randomSource } from "../lib/model/random_source.ts";
import { QuantizedTensor, toQuantState } from "../lib/quant/mod.ts";
import { quantizeFolder } from "../lib/quantize_folder.ts";
import { scope, zeros } from "../lib/tensor/tensor.ts";
import { gpuTest, rejected } from "./gpu_helper.ts";
import { tinyConfig, warmDevice } from "./model/tiny.ts";

await warmDevice();

const NF4 = { quantType: "nf4", blocksize: 64, doubleQuant: true } as const;
const IDS = [1, 5, 9, 33, 60, 2, 2];

async function logits(model: Model): Promise<Float32Array> {
  const time = IDS.length;
  const batch = { ids: Uint32Array.from(IDS), positions: Uint32Array.from(IDS.keys()), batch: 1, time };
  const input = { ...batch, segments: new Uint32Array(time).fill(1) };
  const out = scope(() => applyHead(model, forward(model, modelInput(input))));
  const values = await out.data();
  out.dispose();
  return values;
}

/** A tiny base on disk, gone at the end of the block. */
async function baseFolder(raw = tinyConfig({ initializer_range: 0.2 })) {
  const path = Deno.makeTempDirSync();
  const model = await buildModel(raw, randomSource(readConfig(raw, path), 3));
  await writeModel(model, undefined, join(path, "base"), { dtype: "F32" });
  model.dispose();
  return {
    base: join(path, "base"),
    out: join(path, "out"),
    again: join(path, "again"),
    [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }),
  };
}

gpuTest("a folder is not quantized into itself, under no name", async () => {
  using at = await baseFolder();
  const before = Deno.readFileSync(join(at.base, "model.safetensors")),
    linked = join(at.base, "..", "linked");
  Deno.symlinkSync(at.base, linked);
  for (const output of [at.base, `${at.base}/../base`, linked]) {
    await rejected(
      () => quantizeFolder({ model: at.base, output }),
      "formats/overwrites",
      /Name another folder/,
    );
  }
  assert.deepEqual(Deno.readFileSync(join(at.base, "model.safetensors")), before);
});

gpuTest(
  "what was quantized and written is loaded code for code, with the same logits, and writes the same file",
  async () => {
    for (const quantType of ["nf4", "fp4"] as const) {
      using at = await baseFolder();
      const skipModules = ["o_proj"];
      const options = { quantType, dtype: "F32", skipModules } as const;
      const [file] = await quantizeFolder({ model: at.base, output: at.out, ...options });
      const fresh = await loadModel(at.base, { quantization: { ...NF4, quantType, skipModules } });
      // the file's settings win over these
      const stored = await loadModel(at.out, { quantization: "int4" });
      assert.equal(stored.summary.asStored, true);
      assert.equal(stored.summary.quantizedLayers, fresh.summary.quantizedLayers);
      assert.match(describeLoad(stored), /12 linear layers in 4 bits as stored/);
      for (const [module, { weight }] of fresh.linears) {
        const got = stored.linears.get(module)!.weight;
        assert.equal(got instanceof QuantizedTensor, !module.endsWith("o_proj"), module);
        if (!(got instanceof QuantizedTensor)) continue;
        assert.deepEqual(await toQuantState(got), await toQuantState(weight as QuantizedTensor), module);
      }
      assert.deepEqual(await logits(stored), await logits(fresh), "the same numbers in the same order");
      fresh.dispose();
      stored.dispose();
      const [again] = await quantizeFolder({ model: at.out, output: at.again, dtype: "F32" });
      assert.deepEqual(Deno.readFileSync(again!), Deno.readFileSync(file!));
      assert.equal(
        Deno.readTextFileSync(join(at.again, "config.json")),
        Deno.readTextFileSync(join(at.out, "config.json")),
      );
    }
  },
);

gpuTest("packed values stored as bfloat16 are the same bytes, and load to the same codes", async () => {
  using at = await baseFolder();
  const [bytes] = await quantizeFolder({ model: at.base, output: at.out, dtype: "BF16" });
  const [labelled] = await quantizeFolder({
    ...{ model: at.base, output: at.again, dtype: "BF16", quantStorage: "BF16" },
  });
  const name = "model.layers.0.mlp.up_proj.weight";
  const plain = openSafetensors(bytes!), stored = openSafetensors(labelled!);
  const { shape } = plain.tensors.get(name)!;
  assert.equal(stored.tensors.get(name)!.dtype, "BF16");
  assert.deepEqual(stored.tensors.get(name)!.shape, [shape[0]! / 2, 1]);
  assert.deepEqual(stored.readBytes(name), plain.readBytes(name));
  const types = [...stored.tensors.values()].filter((t) => !/quant|absmax/.test(t.name)).map((t) => t.dtype);
  assert.deepEqual([...new Set(types)], ["BF16"], "one type, as FSDP needs it");
  plain.close();
  stored.close();
  const { quantization_config } = JSON.parse(Deno.readTextFileSync(join(at.again, "config.json")));
  assert.equal(quantization_config.bnb_4bit_quant_storage, "bfloat16");
  const a = await loadModel(at.out), b = await loadModel(at.again);
  assert.equal(b.summary.asStored, true);
  assert.deepEqual(await logits(b), await logits(a));
  a.dispose();
  b.dispose();
});

gpuTest("GPT-2's turned weights come back turned the right way", async () => {
  const raw = {
    ...{
      model_type: "gpt2",
      vocab_size: 61,
      n_embd: 32,
      n_layer: 1,
      n_head: 4,
      n_positions: 16,
      n_inner: 44,
    },
    ...{ initializer_range: 0.2, eos_token_id: 2 },
  };
  using at = await baseFolder(raw);
  await quantizeFolder({ model: at.base, output: at.out, dtype: "F32" });
  const fresh = await loadModel(at.base, { quantization: NF4 }), stored = await loadModel(at.out);
  assert.deepEqual(await logits(stored), await logits(fresh));
  fresh.dispose();
  stored.dispose();
});

gpuTest(
  "a checkpoint in 4 bits: planned as it is held, not trained whole, decoded where an adapter is merged in",
  async () => {
    using at = await baseFolder();
    await quantizeFolder({ model: at.base, output: at.out });
    const files = openModel(at.out);
    const bytes = async (rehearsal: boolean) => {
      const before = gpu().pool.report().liveBytes;
      const model = await buildModel(files.config, files.source, { rehearsal });
      const taken = gpu().pool.report().liveBytes - before;
      model.dispose();
      return taken;
    };
    assert.equal(await bytes(true), await bytes(false));
    using pretend = zeros([1]);
    await rejected(
      () =>
        buildModel(files.config, files.source, {
          allocate: (name) => /q_proj/.test(name) ? pretend : undefined,
        }),
      "model/frozen",
      /q_proj\.weight' is stored in 4 bits.*use_peft: true/s,
    );
    files.source.close();

    const model = await loadModel(at.out);
    const adapter = addLora(model, { target_modules: ["q_proj", "down_proj"], r: 2 });
    for (const t of adapter.pages!.tensors.values()) {
      t.write(Float32Array.from({ length: t.size }, (_, i) => 0.1 * Math.sin(i)));
    }
    const want = await logits(model);
    await saveAdapter(adapter, at.again);
    adapter.dispose();
    assert.notDeepEqual(await logits(model), want);
    model.dispose();
    const merged = await loadModel(at.again);
    assert.equal(merged.summary.asStored, false);
    const got = await logits(merged), size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    // W + s B A in one product or in two: f32 sums of 44 terms
    got.forEach((v, i) => assert.ok(Math.abs(v - want[i]!) <= 1e-5 * size, `${v} for ${want[i]}`));
    merged.dispose();
  },
);

gpuTest(
  "another kind of quantization is refused by name, and a scale that is no number by its weight",
  async () => {
    using at = await baseFolder();
    const config = JSON.parse(Deno.readTextFileSync(join(at.base, "config.json")));
    const files = openModel(at.base);
    for (
      const [quantization_config, pattern] of [
        [{ quant_method: "gptq", bits: 4 }, /quantized by 'gptq'.*16 bits/s],
        [{ quant_method: "bitsandbytes", load_in_8bit: true }, /bitsandbytes' 8 bits/],
        [{ quant_method: "bitsandbytes", load_in_4bit: true }, /No weight has a quant_state/],
      ] as const
    ) {
      await rejected(
        () => buildModel({ ...config, quantization_config }, files.source),
        "model/unsupported",
        pattern,
      );
    }
    files.source.close();

    const [path] = await quantizeFolder({ model: at.base, output: at.out, doubleQuant: false });
    const stored = openModel(at.out);
    const name = "model.layers.1.mlp.up_proj.weight";
    const source = {
      ...stored.source,
      readQuantState: (asked: string) => {
        const state = stored.source.readQuantState!(asked);
        if (asked === name) state.absmax[0] = NaN;
        return state;
      },
    };
    const before = gpu().pool.report().liveBytes;
    await rejected(
      () => buildModel(stored.config, source),
      "model/nan",
      /layers\.1\.mlp\.up_proj\.weight' has a scale/,
    );
    assert.equal(gpu().pool.report().liveBytes, before, "a half-loaded model must go");
    stored.source.close();
    assert.ok(path!.endsWith("model.safetensors"));
  },
);
