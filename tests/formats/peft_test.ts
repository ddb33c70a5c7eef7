import assert from "node:assert/strict";
import fc from "fast-check";
import { join } from "@std/path";
import {
  adapterKey,
  type AdapterPart,
  parseAdapterKey,
  readAdapter,
  writeAdapter,
} from "../../lib/formats/peft.ts";
import { adapterConfig, formatAdapterConfig, parseAdapterConfig } from "../../lib/formats/peft_config.ts";
import { openSafetensors } from "../../lib/formats/safetensors.ts";
import { writeSafetensors } from "../../lib/formats/safetensors_write.ts";
import { temporaryFolder, throwsCode } from "./support.ts";

const MODULE = "model.layers.0.self_attn.q_proj";

function pair(r = 2, module = MODULE) {
  const tensor = (shape: [number, number]) => ({
    shape,
    data: Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => Math.sin(i + r)),
  });
  return new Map([
    [adapterKey(module, "lora_A"), tensor([r, 6])],
    [adapterKey(module, "lora_B"), tensor([4, r])],
  ]);
}

Deno.test("an adapter comes back as it was written", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "adapter"); // made by the writer
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 9 }),
      fc.double({ min: 0, max: 0.9, noNaN: true }),
      fc.oneof(fc.uniqueArray(fc.string(), { minLength: 1 }), fc.constant("all-linear"), fc.constant(null)),
      fc.boolean(),
      (r, lora_dropout, target_modules, use_rslora) => {
        const config = adapterConfig({
          r,
          lora_dropout,
          target_modules: Array.isArray(target_modules) ? [...target_modules].sort() : target_modules,
          use_rslora,
          rank_pattern: { "^x": 4 },
          nibble: {
            base_hash: "sha256:ab",
            base_quantization: "nf4+double",
            parents: [{ adapter: "ä", adapter_hash: "sha256:1", base: "b", base_revision: null }],
          },
        });
        const tensors = pair(r);
        writeAdapter(path, config, tensors);
        const back = readAdapter(path);
        assert.deepEqual(back.config, config);
        assert.deepEqual(back.tensors, tensors);
      },
    ),
    { numRuns: 25 },
  );
});

Deno.test("the settings' file has PEFT's form, and only fields that old versions know", () => {
  const text = formatAdapterConfig(
    adapterConfig({ target_modules: ["v_proj", "q_proj"], nibble: { base_hash: "x" } }),
  );
  const json = JSON.parse(text);
  assert.deepEqual(Object.keys(json), Object.keys(json).toSorted());
  assert.deepEqual(json.target_modules, ["q_proj", "v_proj"]);
  assert.deepEqual(json.auto_mapping, { nibble: { base_hash: "x" } }, "a free map in every version of PEFT");
  assert.ok(text.startsWith('{\n  "alpha_pattern": {},\n'));
  // LoraConfig of PEFT 0.9 with its base classes.
  const known = `alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode
    init_lora_weights layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout
    megatron_config megatron_core modules_to_save peft_type r rank_pattern revision target_modules task_type use_dora
    use_rslora`.split(/\s+/);
  assert.deepEqual(Object.keys(json), known);
});

Deno.test("weights are f32 under PEFT's keys, with the metadata that transformers wants", () => {
  using folder = temporaryFolder();
  writeAdapter(folder.path, adapterConfig({ r: 2 }), pair());
  const source = openSafetensors(join(folder.path, "adapter_model.safetensors"));
  assert.equal(source.metadata["format"], "pt");
  assert.deepEqual([...source.tensors.values()].map((t) => [t.name, t.dtype, t.shape]), [
    [`base_model.model.${MODULE}.lora_A.weight`, "F32", [2, 6]],
    [`base_model.model.${MODULE}.lora_B.weight`, "F32", [4, 2]],
  ]);
  source.close();
});

Deno.test("bf16 adapters read as f32; a config of today's PEFT with its many new fields reads", () => {
  using folder = temporaryFolder();
  const tensors = [...pair()].map(([name, { shape, data }]) => ({
    name,
    shape,
    data,
    dtype: "BF16" as const,
  }));
  writeSafetensors(join(folder.path, "adapter_model.safetensors"), tensors);
  folder.file("adapter_config.json", {
    peft_type: "LORA",
    peft_version: "0.20.0",
    r: 2,
    lora_alpha: 32,
    target_modules: "all-linear",
    lora_bias: false,
    use_qalora: false,
    qalora_group_size: 16,
    eva_config: null,
    trainable_token_indices: null,
    ensure_weight_tying: false,
  });
  const { config, tensors: read } = readAdapter(folder.path);
  assert.equal(config.lora_alpha, 32);
  assert.equal(config.lora_dropout, 0);
  assert.ok(!("peft_version" in config));
  const a = read.get(adapterKey(MODULE, "lora_A"))!;
  a.data.forEach((x, i) => assert.ok(Math.abs(x - Math.sin(i + 2)) <= 2 ** -9)); // half a bf16 step below 1
});

Deno.test("keys: every part there and back, with and without the prefix", () => {
  const parts: AdapterPart[] = [
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
  ];
  for (const part of parts) {
    assert.deepEqual(parseAdapterKey(adapterKey(MODULE, part)), { module: MODULE, part });
  }
  assert.equal(adapterKey("lm_head.weight", "full"), "base_model.model.lm_head.weight");
  assert.deepEqual(parseAdapterKey("base_model.model.lm_head.weight"), {
    module: "lm_head.weight",
    part: "full",
  });
  assert.deepEqual(parseAdapterKey("h.0.c_attn.lora_A.weight"), { module: "h.0.c_attn", part: "lora_A" });
  assert.deepEqual(parseAdapterKey("m.lora_magnitude_vector.weight").part, "lora_magnitude_vector");
});

Deno.test("faults of the files are named", () => {
  using folder = temporaryFolder();
  const read = () => readAdapter(folder.path);
  throwsCode(read, "formats/missing-file", "adapter_config.json", folder.path);
  folder.file("adapter_config.json", "{");
  throwsCode(read, "formats/bad-json");
  folder.file("adapter_config.json", { peft_type: "LORA" });
  throwsCode(read, "formats/missing-file", "adapter_model.safetensors", "incomplete");
  folder.file("adapter_model.bin");
  throwsCode(read, "formats/missing-file", "pickle");
  folder.file("adapter_model.safetensors", new Uint8Array(3));
  throwsCode(read, "formats/safetensors-truncated");
  const weights = (tensors: Iterable<[string, number[]]>, metadata?: Record<string, string>) =>
    writeSafetensors(
      join(folder.path, "adapter_model.safetensors"),
      [...tensors].map(([name, shape]) => ({
        name,
        shape,
        dtype: "F32",
        data: new Float32Array(shape.reduce((n, d) => n * d, 1)),
      })),
      metadata,
    );
  const [a, b] = [adapterKey(MODULE, "lora_A"), adapterKey(MODULE, "lora_B")];
  weights([]);
  throwsCode(read, "formats/adapter-tensors", "no tensors");
  weights([[a, [2, 6]]]);
  throwsCode(read, "formats/adapter-tensors", a, b, "missing");
  weights([[b, [2, 6]]]);
  throwsCode(read, "formats/adapter-tensors", a, b, "missing");
  weights([[a, [2, 6]], [b, [4, 3]]]);
  throwsCode(read, "formats/adapter-tensors", "Ranks differ");
  weights([[a, [12]], [b, [4, 2]]]);
  throwsCode(read, "formats/adapter-tensors", "matrix");
});

Deno.test("faults of the settings are named", () => {
  const refuse = (fields: Record<string, unknown>, ...words: string[]) =>
    throwsCode(
      () => parseAdapterConfig({ peft_type: "LORA", ...fields }, "adapter_config.json"),
      "formats/adapter-config",
      ...words,
    );
  refuse({ peft_type: "IA3" }, "IA3", "peft_type");
  refuse({ peft_type: undefined }, "peft_type");
  refuse({ r: 0 }, '"r"');
  refuse({ r: 1.5 }, '"r"');
  refuse({ lora_alpha: "16" }, "lora_alpha");
  refuse({ lora_dropout: 1 }, "lora_dropout");
  refuse({ target_modules: [1] }, "target_modules");
  refuse({ rank_pattern: { a: "b" } }, "rank_pattern");
  refuse({ bias: "some" }, "bias", "lora_only");
  refuse({ ensure_weight_tying: true }, "ensure_weight_tying");
  refuse({ use_qalora: true }, "use_qalora");
  refuse({ trainable_token_indices: [1, 2] }, "trainable_token_indices");
  throwsCode(() => parseAdapterConfig([], "a.json"), "formats/adapter-config", "a.json");
});

Deno.test("writing a pair that does not match is refused before the folder is touched", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "new");
  const tensors = pair();
  tensors.delete(adapterKey(MODULE, "lora_B"));
  throwsCode(() => writeAdapter(path, adapterConfig(), tensors), "formats/adapter-tensors");
  assert.throws(() => Deno.statSync(path));
});
