import assert from "node:assert/strict";
import { Tokenizer } from "@huggingface/tokenizers";
import { join } from "@std/path";
import { openFile } from "../../lib/formats/file.ts";
import { openGguf } from "../../lib/formats/gguf.ts";
import { ggmlType } from "../../lib/formats/gguf_blocks.ts";
import { writeGgufAdapter } from "../../lib/formats/gguf_adapter.ts";
import { type GgufModelFacts, writeGgufModel } from "../../lib/formats/gguf_export.ts";
import { readGgufHeader } from "../../lib/formats/gguf_header.ts";
import { GGUF_ARCHITECTURES, ggufTensorName, hfTensorName } from "../../lib/formats/gguf_names.ts";
import { encodeQ8_0, type GgufEntries, writeGguf } from "../../lib/formats/gguf_write.ts";
import { type ModelFiles, openModel } from "../../lib/formats/model_files.ts";
import { adapterKey } from "../../lib/formats/peft.ts";
import { adapterConfig } from "../../lib/formats/peft_config.ts";
import { writeSafetensors } from "../../lib/formats/safetensors_write.ts";
import { byteLevel } from "./gguf_tokenizers.ts";
import { floats, fromBase64, golden, temporaryFolder, throwsCode } from "./support.ts";

/** Half a step of Q8_0 for numbers up to 1, and the rounding of the step to f16. */
const HALF_STEP = 1 / 254 + 2 ** -11;
const numbers = (n: number, seed = 1) =>
  Float32Array.from({ length: n }, (_, i) => Math.sin(i * seed + seed));

Deno.test("Q8_0 is encoded byte for byte as the reference encodes it", () => {
  const { types } = golden<{ types: Record<string, { bytes: string; quantized_from?: string }> }>(
    "ggml_blocks.json",
  );
  const { bytes, quantized_from } = types.Q8_0!;
  assert.deepEqual(encodeQ8_0(floats(quantized_from!)), fromBase64(bytes));
  assert.deepEqual(encodeQ8_0(new Float32Array(32)), new Uint8Array(34), "zeros have no scale");
  // 1 / 127 is no f32: 0.5 steps lie beside the half, and a tie goes away from zero as in ggml
  const halves = Float32Array.from({ length: 32 }, (_, i) => i === 0 ? 127 : (i % 2 ? 1 : -1) * (i + 0.5));
  const signed = new Int8Array(encodeQ8_0(halves).buffer, 2);
  assert.deepEqual([...signed.subarray(1, 5)], [2, -3, 4, -5]);
});

Deno.test("what is written reads back: values of every kind, tensors of every type", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "a.gguf");
  const entries: GgufEntries = [
    ["general.architecture", "llama"],
    ["flag", true],
    ["text", "ä\0🍋"],
    ["count", { u32: 2 ** 32 - 1 }],
    ["ratio", { f32: 0.1 }],
    ["types", { i32s: [1, -2, 3] }],
    ["scores", { f32s: [0.5, -1] }],
    ["tokens", { strings: ["", "a", "b".repeat(100_000)] }],
  ];
  const f32 = numbers(7), f16 = Float32Array.of(1, -0.5, 65504, 2 ** -24, 0, 3), q8 = numbers(96);
  writeGguf(path, entries, [
    { name: "f32", type: "F32", shape: [7], data: () => [f32.subarray(0, 3), f32.subarray(3)] },
    { name: "f16", type: "F16", shape: [2, 3], data: () => [f16] },
    { name: "q8", type: "Q8_0", shape: [3, 32], data: () => [q8.subarray(0, 32), q8.subarray(32)] },
  ]);
  const file = openFile(path);
  const { metadata, tensors, version } = readGgufHeader(file);
  assert.equal(version, 3);
  assert.deepEqual([...metadata].slice(1, 4), [["flag", true], ["text", "ä\0🍋"], ["count", 2 ** 32 - 1]]);
  assert.equal(metadata.get("ratio"), Math.fround(0.1));
  assert.deepEqual([...metadata.get("types") as Int32Array], [1, -2, 3]);
  assert.deepEqual((metadata.get("tokens") as string[]).map((t) => t.length), [0, 1, 100_000]);
  for (
    const [t, values, tolerance] of [[tensors[0]!, f32, 0], [tensors[1]!, f16, 0], [
      tensors[2]!,
      q8,
      1 / 254,
    ]] as const
  ) {
    assert.equal(t.offset % 32, 0);
    const bytes = new Uint8Array(t.bytes), out = new Float32Array(values.length);
    file.readInto(bytes, t.offset);
    ggmlType(t.type.name)!.decode(bytes, out);
    out.forEach((v, i) => assert.ok(Math.abs(v - values[i]!) <= tolerance, `${t.name} ${i}`));
  }
  file.close();
});

Deno.test("numbers beyond f16 and data of another size are refused, and leave nothing", () => {
  using folder = temporaryFolder();
  const write = (type: "F16" | "F32", data: Float32Array) => () =>
    writeGguf(join(folder.path, "a.gguf"), [], [{ name: "t", type, shape: [2], data: () => [data] }]);
  throwsCode(write("F16", Float32Array.of(1, 65520)), "formats/f16-range", '"t"', "65520", "Q8_0");
  throwsCode(write("F32", numbers(3)), "formats/size-mismatch", "12 bytes where 8 belong");
  assert.deepEqual([...Deno.readDirSync(folder.path)], []);
});

Deno.test("names: GGUF's of Hugging Face's and back", () => {
  const stems = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_up", "ffn_down"];
  for (const arch of GGUF_ARCHITECTURES) {
    for (const name of ["token_embd.weight", "output.weight", ...stems.map((s) => `blk.7.${s}.weight`)]) {
      const hf = hfTensorName(arch, name)!;
      assert.equal(ggufTensorName(arch, hf), name, `${arch} ${hf}`);
    }
  }
  assert.equal(ggufTensorName("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"), undefined);
  assert.equal(ggufTensorName("llama", "model.layers.0.self_attn.toString.weight"), undefined);
});

/** A model of random weights in a folder, and what its config comes to. */
function tinyModel(
  path: string,
  more: Partial<GgufModelFacts> = {},
): { files: ModelFiles; facts: GgufModelFacts } {
  const facts: GgufModelFacts = {
    ...{ model_type: "llama", hidden_size: 32, intermediate_size: 44, num_hidden_layers: 1 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8, vocab_size: 300, norm_eps: 1e-5 },
    ...{ rope_theta: 500000, rotary_dim: 8, max_position_embeddings: 64, rope_scaling: undefined },
    layers: [{ rope: true, window: undefined }],
    ...more,
  };
  const at = "model.layers.0.";
  const shapes: Record<string, number[]> = {
    "model.embed_tokens.weight": [300, 32],
    "model.norm.weight": [32],
    [`${at}input_layernorm.weight`]: [32],
    [`${at}post_attention_layernorm.weight`]: [32],
    [`${at}self_attn.q_proj.weight`]: [32, 32],
    [`${at}self_attn.q_proj.bias`]: [32],
    [`${at}self_attn.k_proj.weight`]: [16, 32],
    [`${at}self_attn.v_proj.weight`]: [16, 32],
    [`${at}self_attn.o_proj.weight`]: [32, 32],
    [`${at}mlp.gate_proj.weight`]: [44, 32],
    [`${at}mlp.up_proj.weight`]: [44, 32],
    [`${at}mlp.down_proj.weight`]: [32, 44],
  };
  writeSafetensors(
    join(path, "model.safetensors"),
    Object.entries(shapes).map(([name, shape], i) => ({
      name,
      shape,
      dtype: "F16",
      data: numbers(shape.reduce((a, b) => a * b, 1), i + 2),
    })),
  );
  Deno.writeTextFileSync(join(path, "config.json"), JSON.stringify({ model_type: facts.model_type }));
  Deno.writeTextFileSync(join(path, "tokenizer.json"), JSON.stringify(byteLevel()));
  Deno.writeTextFileSync(
    join(path, "tokenizer_config.json"),
    JSON.stringify({ bos_token: "<s>", eos_token: { content: "</s>" }, chat_template: "{{ messages }}" }),
  );
  Deno.writeTextFileSync(join(path, "generation_config.json"), JSON.stringify({ eos_token_id: [1, 2] }));
  return { files: openModel(path), facts };
}

for (const type of ["F16", "Q8_0"] as const) {
  Deno.test(`a model written as ${type} reads back: the same values in Hugging Face's order, config and tokenizer`, () => {
    using folder = temporaryFolder();
    const scaling = {
      ...{ rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
      original_max_position_embeddings: 8192,
    };
    const { files, facts } = tinyModel(folder.path, { rope_scaling: scaling, model_type: "mistral" });
    const path = join(folder.path, "out.gguf");
    let last = 0;
    writeGgufModel(files, facts, path, {
      type,
      name: "tiny",
      onProgress: (done, total) => last = done / total,
    });
    assert.equal(last, 1);
    const back = openModel(path);
    assert.deepEqual([...back.source.tensors.keys()].sort(), [...files.source.tensors.keys()].sort());
    for (const [name, { shape, dtype }] of back.source.tensors) {
      const [got, want] = [back.source.readF32(name), files.source.readF32(name)];
      const rough = dtype === "Q8_0";
      assert.equal(
        dtype,
        shape.length === 1 ? "F32" : shape[1] === 44 ? "F16" : type,
        `${name}: 44 are no whole blocks`,
      );
      got.forEach((v, i) => assert.ok(Math.abs(v - want[i]!) <= (rough ? HALF_STEP : 0), `${name}[${i}]`));
    }
    const { config } = back;
    assert.deepEqual(
      [
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_key_value_heads",
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
      ]
        .map((k) => config[k]),
      ["llama", 32, 44, 2, 8, 500000, 1e-5],
    );
    assert.deepEqual(config["rope_scaling"], scaling);
    assert.deepEqual(config["tie_word_embeddings"], true);
    assert.equal(back.chatTemplate, "{{ messages }}");
    assert.deepEqual(back.generationConfig["eos_token_id"], [1, 2], "the end of a text, and of a turn");
    assert.equal(back.tokenizerConfig["bos_token"], "<s>");
    assert.equal(back.tokenizerConfig["add_bos_token"], true);
    const [mine, theirs] = [files.tokenizerJson, back.tokenizerJson].map((json) =>
      new Tokenizer(json as never, {})
    );
    const encode = (t: Tokenizer, text: string) => t.encode(text, { add_special_tokens: true }).ids;
    for (const text of ["the cat</s><|end|>", "ä 🍋  x\n", "12 theth"]) {
      assert.deepEqual(encode(theirs!, text), encode(mine!, text), text);
    }
    assert.deepEqual(encode(mine!, "the").length, 2, "control: the merges are in use");
    back.source.close();
    files.source.close();
  });
}

Deno.test("q and k rows, biases too, lie in ggml's order in the file, and only there", () => {
  using folder = temporaryFolder();
  const { files, facts } = tinyModel(folder.path);
  const path = join(folder.path, "out.gguf");
  writeGgufModel(files, facts, path, { type: "F16" });
  const source = openGguf(path);
  const raw = new Float32Array(source.readBytes("model.layers.0.self_attn.q_proj.bias").buffer);
  const hf = files.source.readF32("model.layers.0.self_attn.q_proj.bias");
  // a head of 8: row 2j + half holds row half * 4 + j
  assert.deepEqual([...raw.subarray(0, 8)], [0, 4, 1, 5, 2, 6, 3, 7].map((r) => hf[r]));
  source.close();
  const { facts: qwen } = { facts: { ...facts, model_type: "qwen2" } };
  writeGgufModel(files, qwen, path, { type: "F16" });
  const other = openGguf(path);
  const plain = new Float32Array(other.readBytes("model.layers.0.self_attn.q_proj.bias").buffer);
  assert.deepEqual([...plain], [...hf]);
  other.close();
  files.source.close();
});

Deno.test("Gemma's norms get their 1, starcoder2 its names, smollm3 its layers without positions", () => {
  using folder = temporaryFolder();
  const { files, facts } = tinyModel(folder.path);
  const path = join(folder.path, "out.gguf");
  writeGgufModel(files, { ...facts, model_type: "gemma" }, path, { type: "F16" });
  const gemma = openGguf(path);
  const raw = new Float32Array(gemma.readBytes("model.norm.weight").buffer);
  const hf = files.source.readF32("model.norm.weight");
  raw.forEach((v, i) => assert.equal(v, Math.fround(hf[i]! + 1)));
  gemma.close();
  const refuse = (more: Partial<GgufModelFacts>, ...words: string[]) =>
    throwsCode(
      () => writeGgufModel(files, { ...facts, ...more }, path, { type: "F16" }),
      "formats/gguf-architecture",
      ...words,
    );
  refuse({ model_type: "gpt2" }, "gpt2");
  refuse({ model_type: "starcoder2" }, "in a starcoder2 model");
  refuse({ layers: [{ rope: false, window: undefined }] }, "without rotary");
  refuse({ rope_scaling: { rope_type: "dynamic", factor: 2 } }, "dynamic");
  files.source.close();
});

Deno.test("an adapter: B's rows permuted, differing scales folded into B, what llama.cpp lacks refused", () => {
  using folder = temporaryFolder();
  const { files, facts } = tinyModel(folder.path);
  files.source.close();
  const path = join(folder.path, "a.gguf");
  const q = "model.layers.0.self_attn.q_proj", up = "model.layers.0.mlp.up_proj";
  const tensors = new Map([
    [adapterKey(q, "lora_A"), { shape: [2, 32], data: numbers(64) }],
    [adapterKey(q, "lora_B"), { shape: [32, 2], data: numbers(64, 2) }],
    [adapterKey(up, "lora_A"), { shape: [4, 32], data: numbers(128) }],
    [adapterKey(up, "lora_B"), { shape: [44, 4], data: numbers(176, 3) }],
  ]);
  const config = adapterConfig({
    r: 2,
    lora_alpha: 6,
    rank_pattern: { up_proj: 4 },
    alpha_pattern: { up_proj: 2 },
  });
  writeGgufAdapter({ config, tensors }, facts, path, { scalingOf: (m) => m === q ? 3 : 0.5 });
  const file = openFile(path);
  const header = readGgufHeader(file);
  const values = (name: string) => {
    const t = header.tensors.find((t) => t.name === name)!;
    const bytes = new Uint8Array(t.bytes), out = new Float32Array(t.bytes / 4);
    file.readInto(bytes, t.offset);
    t.type.decode(bytes, out);
    return out;
  };
  assert.equal(header.metadata.get("adapter.lora.alpha"), 6);
  assert.deepEqual(values("blk.0.attn_q.weight.lora_a"), numbers(64));
  const b = tensors.get(adapterKey(q, "lora_B"))!.data;
  assert.deepEqual(
    [...values("blk.0.attn_q.weight.lora_b").subarray(0, 4)],
    [b[0], b[1], b[8], b[9]],
    "rows 0 and 4",
  );
  // llama.cpp scales by alpha / r = 6 / 4; 0.5 is wanted
  assert.deepEqual(values("blk.0.ffn_up.weight.lora_b"), numbers(176, 3).map((v) => v * (0.5 * 4 / 6)));
  file.close();
  for (const key of [adapterKey(q, "lora_magnitude_vector"), adapterKey("lm_head.weight", "full")]) {
    const more = new Map([...tensors, [key, { shape: [32], data: numbers(32) }]]);
    throwsCode(
      () => writeGgufAdapter({ config, tensors: more }, facts, path, { scalingOf: () => 1 }),
      "formats/gguf-adapter",
      key,
      "merged model",
    );
  }
});
