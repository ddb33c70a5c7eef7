import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import fc from "fast-check";
import { Tokenizer } from "@huggingface/tokenizers";
import { bytesOf } from "../../lib/formats/dtype.ts";
import { openGguf } from "../../lib/formats/gguf.ts";
import { storedRow } from "../../lib/formats/gguf_names.ts";
import { openModel } from "../../lib/formats/model_files.ts";
import {
  buildGguf,
  type BuiltTensor,
  EMBEDDING,
  fromBase64,
  golden,
  llamaMetadata,
  skippable,
  temporaryFolder,
} from "./support.ts";

Deno.test("a model of the reference writer: names, shapes, row order, config", () => {
  using folder = temporaryFolder();
  const file = fromBase64(golden<{ gguf: string }>("small_files.json").gguf);
  const source = openGguf(folder.file("tiny.gguf", file));
  const layer = "model.layers.0.";
  assert.deepEqual([...source.tensors].map(([name, t]) => [name, t.dtype, t.shape.join("x")]), [
    ["model.embed_tokens.weight", "F16", "10x32"],
    ["model.norm.weight", "F32", "32"],
    [layer + "input_layernorm.weight", "F32", "32"],
    [layer + "post_attention_layernorm.weight", "F32", "32"],
    [layer + "self_attn.q_proj.weight", "F16", "32x32"],
    [layer + "self_attn.q_proj.bias", "F32", "32"],
    [layer + "self_attn.k_proj.weight", "F16", "16x32"],
    [layer + "self_attn.v_proj.weight", "F16", "16x32"],
    [layer + "self_attn.o_proj.weight", "Q8_0", "32x32"],
    [layer + "mlp.gate_proj.weight", "Q8_0", "64x32"],
    [layer + "mlp.up_proj.weight", "Q8_0", "64x32"],
    [layer + "mlp.down_proj.weight", "F16", "32x64"],
  ]);
  // Each element of these is the number of its row in Hugging Face's order.
  const rowNumbers = (rows: number, columns: number) =>
    Float32Array.from({ length: rows * columns }, (_, i) => Math.floor(i / columns));
  for (const [name, rows] of [["q_proj", 32], ["k_proj", 16], ["v_proj", 16]] as const) {
    assert.deepEqual(source.readF32(`${layer}self_attn.${name}.weight`), rowNumbers(rows, 32), name);
  }
  assert.deepEqual(source.readF32(layer + "self_attn.q_proj.bias"), rowNumbers(32, 1));
  // Control: the stored order is another.
  assert.notDeepEqual(source.readBytes(layer + "self_attn.q_proj.bias"), bytesOf(rowNumbers(32, 1)));
  assert.deepEqual(source.config, {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    max_position_embeddings: 128,
    vocab_size: 10,
    tie_word_embeddings: true,
    hidden_act: "silu",
    rope_theta: 100000,
    rope_scaling: null,
    bos_token_id: 0,
    eos_token_id: 1,
    pad_token_id: null,
    rms_norm_eps: 1e-5,
    attention_bias: true,
    mlp_bias: false,
  });
  source.close();
});

Deno.test("any range of any tensor equals that range of the whole", () => {
  using folder = temporaryFolder();
  const path = folder.file("tiny.gguf", fromBase64(golden<{ gguf: string }>("small_files.json").gguf));
  const source = openGguf(path);
  const wholes = new Map([...source.tensors.keys()].map((name) => [name, source.readF32(name)]));
  fc.assert(fc.property(fc.constantFrom(...wholes.keys()), fc.nat(), fc.nat(), (name, a, b) => {
    const whole = wholes.get(name)!;
    const [start, end] = [a % (whole.length + 1), b % (whole.length + 1)].sort((x, y) => x - y);
    assert.deepEqual(source.readF32(name, start, end), whole.slice(start, end));
  }));
  source.close();
});

Deno.test("a quantized tensor longer than the reading piece decodes without seams, also un-permuted", () => {
  using folder = temporaryFolder();
  // 2048 x 4096 values of Q4_1 are 5.2 MB: more than one piece of 4 MiB.
  const [rows, columns] = [2048, 4096];
  const data = new Uint8Array(rows * columns / 32 * 20);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let block = 0; block < columns / 32; block++, at += 20) {
      new Float16Array(data.buffer, at, 2).set([1, row]); // value = q + row
      data.fill((block % 16) * 17, at + 4, at + 20);
    }
  }
  const t: BuiltTensor = { shape: [rows, columns], type: "Q4_1", data };
  const metadata = llamaMetadata({ "llama.attention.head_count": { u32: 16 } });
  const file = buildGguf(metadata, { ...EMBEDDING, "blk.0.attn_v.weight": t, "blk.0.attn_q.weight": t });
  const source = openGguf(folder.file("long.gguf", file));
  const v = source.readF32("model.layers.0.self_attn.v_proj.weight");
  const q = source.readF32("model.layers.0.self_attn.q_proj.weight");
  source.close();
  for (let row = 0; row < rows; row++) {
    const from = storedRow(row, rows / 16);
    for (let c = 0; c < columns; c += 31) {
      const code = (c >> 5) % 16;
      assert.ok(v[row * columns + c] === row + code, `v [${row}, ${c}]`);
      assert.ok(q[row * columns + c] === from + code, `q [${row}, ${c}]`);
    }
  }
});

Deno.test("only llama and smollm3 files have permuted rows; Gemma's norms lose their 1", () => {
  using folder = temporaryFolder();
  const numbers = bytesOf(Float32Array.from({ length: 32 }, (_, i) => i));
  const tensors = {
    ...EMBEDDING,
    "blk.0.attn_q.bias": { shape: [32], data: numbers },
    "blk.0.attn_norm.weight": { shape: [32], data: numbers },
    "blk.0.attn_v.bias": { shape: [32], data: numbers },
  };
  for (const arch of ["llama", "smollm3", "qwen2", "gemma", "gemma2", "gemma3"] as const) {
    const source = openGguf(folder.file("m.gguf", buildGguf(llamaMetadata({}, arch), tensors)));
    const permuted = arch === "llama" || arch === "smollm3";
    const first = (name: string) => [...source.readF32(`model.layers.0.${name}`, 0, 3)];
    assert.deepEqual(first("self_attn.q_proj.bias"), permuted ? [0, 2, 4] : [0, 1, 2], arch);
    assert.deepEqual(
      first("input_layernorm.weight"),
      arch.startsWith("gemma") ? [-1, 0, 1] : [0, 1, 2],
      arch,
    );
    assert.deepEqual(first("self_attn.v_proj.bias"), [0, 1, 2], arch);
    source.close();
  }
});

Deno.test("un-permuted ranges that begin and end inside rows", () => {
  using folder = temporaryFolder();
  const data = bytesOf(Float32Array.from({ length: 32 * 32 }, (_, i) => i));
  const file = buildGguf(llamaMetadata(), { ...EMBEDDING, "blk.0.attn_q.weight": { shape: [32, 32], data } });
  const source = openGguf(folder.file("q.gguf", file));
  const name = "model.layers.0.self_attn.q_proj.weight";
  // 4 heads of 8 rows: row 4 + j of a head lies at 2 j + 1.
  const expected = Float32Array.from({ length: 32 * 32 }, (_, i) => {
    const [row, column] = [i >> 5, i & 31];
    const [head, two, j] = [row >> 3, (row >> 2) & 1, row & 3];
    return (head * 8 + 2 * j + two) * 32 + column;
  });
  assert.deepEqual(source.readF32(name), expected);
  fc.assert(fc.property(fc.nat(1024), fc.nat(1024), (a, b) => {
    const [start, end] = [Math.min(a, b), Math.max(a, b)];
    assert.deepEqual(source.readF32(name, start, end), expected.slice(start, end));
  }));
  source.close();
});

/** The real file, if the one who runs the tests names it. */
const real = Deno.env.get("NIBBLE_TEST_GGUF") ?? "";
Deno.test({
  ...skippable(
    "SmolLM2-135M-Instruct Q4_1: values and token ids of the reference",
    real === "",
    "NIBBLE_TEST_GGUF",
  ),
  fn() {
    const expected = golden<{ sha256: Record<string, string>; tokens: { text: string; ids: number[] }[] }>(
      "smollm2_q4_1.json",
    );
    const model = openModel(real);
    for (const [name, hash] of Object.entries(expected.sha256)) {
      const bytes = bytesOf(model.source.readF32(name));
      assert.equal(createHash("sha256").update(bytes).digest("hex"), hash, name);
    }
    assert.equal(model.config["rms_norm_eps"], 1e-5);
    assert.equal(model.config["rope_theta"], 100000);
    assert.equal(model.config["tie_word_embeddings"], true);
    assert.equal(model.tokenizerConfig["eos_token"], "<|im_end|>");
    assert.ok(model.chatTemplate?.includes("SmolLM"));
    const tokenizer = new Tokenizer(model.tokenizerJson as object, {});
    for (const { text, ids } of expected.tokens) {
      assert.deepEqual(tokenizer.encode(text, { add_special_tokens: false }).ids, ids, text);
      const back = tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
      assert.equal(back, text);
    }
    model.source.close();
  },
});
