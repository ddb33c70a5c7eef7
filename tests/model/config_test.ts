import assert from "node:assert/strict";
import { ggufConfig, ggufMetadata } from "../../lib/formats/gguf_config.ts";
import { GGUF_ARCHITECTURES } from "../../lib/formats/gguf_names.ts";
import { NibbleError } from "../../lib/errors.ts";
import { blockLinears, parameterShapes, readConfig } from "../../lib/model/config.ts";

const MINIMAL = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 5,
  num_attention_heads: 8,
  vocab_size: 512,
};

const GGUF = {
  block_count: 4,
  embedding_length: 64,
  feed_forward_length: 96,
  context_length: 256,
  "attention.head_count": 4,
  "attention.head_count_kv": 2,
  "attention.layer_norm_rms_epsilon": 0.5,
  "attention.layer_norm_epsilon": 0.5,
};
const GPT2 = { model_type: "gpt2", n_embd: 64, n_layer: 2, n_head: 4, vocab_size: 100 };

const refused = (raw: Record<string, unknown>, code: string, pattern: RegExp) =>
  assert.throws(() => readConfig(raw, "some/config.json"), (e: unknown) => {
    assert.ok(e instanceof NibbleError);
    assert.equal(e.code, code);
    assert.match(e.message, pattern);
    assert.match(e.message, /some\/config\.json/, "the error names the file");
    return true;
  });

Deno.test("a Llama config has Transformers' defaults", () => {
  const c = readConfig(MINIMAL, "config.json");
  assert.equal(c.num_key_value_heads, 8);
  assert.equal(c.head_dim, 8);
  assert.equal(c.norm_eps, 1e-6);
  assert.equal(c.rope_theta, 10000);
  assert.equal(c.rope_scaling, undefined);
  assert.equal(c.max_position_embeddings, 2048);
  assert.equal(c.tie_word_embeddings, false);
  assert.deepEqual(c.layers[0], { rope: true, window: undefined, scale: undefined });
  assert.equal(c.initializer_range, 0.02);
  assert.equal(c.bos_token_id, undefined);
  assert.deepEqual(c.eos_token_id, []);
});

Deno.test("a Mistral config has its own defaults, and null switches the window off", () => {
  const raw = { ...MINIMAL, model_type: "mistral" };
  const c = readConfig(raw, "config.json");
  assert.deepEqual([c.num_key_value_heads, c.layers[4]!.window, c.max_position_embeddings], [
    8,
    4096,
    131072,
  ]);
  assert.equal(readConfig({ ...raw, sliding_window: null }, "c").layers[0]!.window, undefined);
  assert.equal(
    readConfig({ ...MINIMAL, sliding_window: 7 }, "c").layers[0]!.window,
    undefined,
    "Llama has none",
  );
});

Deno.test("both spellings of RoPE's settings, ids as number or list, null as absent", () => {
  const five = readConfig({ ...MINIMAL, rope_parameters: { rope_theta: 500, rope_type: "default" } }, "c");
  assert.equal(five.rope_theta, 500);
  assert.equal(five.rope_scaling, undefined);
  const llama3 = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 100,
  };
  assert.deepEqual(
    readConfig({ ...MINIMAL, rope_scaling: llama3, head_dim: null }, "c").rope_scaling,
    llama3,
  );
  assert.deepEqual(
    readConfig({ ...MINIMAL, rope_parameters: { ...llama3, rope_theta: 9 } }, "c").rope_scaling,
    { ...llama3, rope_theta: 9 },
  );
  assert.deepEqual(
    readConfig({ ...MINIMAL, rope_scaling: { type: "linear", factor: 2 } }, "c").rope_scaling,
    {
      type: "linear",
      rope_type: "linear",
      factor: 2,
      original_max_position_embeddings: 2048,
    },
  );
  assert.deepEqual(readConfig({ ...MINIMAL, eos_token_id: 3 }, "c").eos_token_id, [3]);
  assert.deepEqual(readConfig({ ...MINIMAL, eos_token_id: [3, 4] }, "c").eos_token_id, [3, 4]);
});

Deno.test("each family reads its own keys and defaults", () => {
  const read = (model_type: string, more: Record<string, unknown> = {}) =>
    readConfig({ ...MINIMAL, model_type, ...more }, "c");
  const gpt2 = readConfig(GPT2, "c");
  assert.deepEqual(
    [gpt2.hidden_size, gpt2.intermediate_size, gpt2.num_hidden_layers, gpt2.max_position_embeddings],
    [64, 256, 2, 1024],
  );
  assert.equal(readConfig({ ...GPT2, n_inner: 96 }, "c").intermediate_size, 96);
  assert.deepEqual([gpt2.norm_eps, gpt2.hidden_act, gpt2.tie_word_embeddings], [1e-5, "gelu_new", true]);
  assert.deepEqual(gpt2.bias, { qkv: true, o: true, mlp: true });
  assert.ok(gpt2.layers.every((l) => !l.rope && l.scale === 0.25));
  const gemma = read("gemma", { hidden_act: "gelu", num_key_value_heads: null });
  assert.deepEqual([gemma.hidden_act, gemma.head_dim, gemma.num_key_value_heads], [
    "gelu_pytorch_tanh",
    256,
    8,
  ]);
  assert.equal(
    read("mistral", { num_key_value_heads: null }).num_key_value_heads,
    8,
    "null is as many as heads",
  );
  assert.deepEqual(read("qwen2", { num_key_value_heads: 2 }).bias, { qkv: true, o: false, mlp: false });
  const sliding = {
    num_key_value_heads: 2,
    use_sliding_window: true,
    sliding_window: 9,
    max_window_layers: 3,
  };
  const windows = (c: ReturnType<typeof readConfig>) => c.layers.map((l) => l.window);
  assert.deepEqual(windows(read("qwen2", sliding)), [undefined, undefined, undefined, 9, 9]);
  assert.deepEqual(
    windows(read("qwen2", { ...sliding, use_sliding_window: false })),
    Array(5).fill(undefined),
  );
  const layer_types = ["sliding_attention", ...Array(4).fill("full_attention")];
  assert.deepEqual(windows(read("qwen3", { ...sliding, layer_types })), [9, ...Array(4).fill(undefined)]);
  const smollm3 = read("smollm3", { num_key_value_heads: 2 });
  assert.deepEqual(smollm3.layers.map((l) => l.rope), [true, true, true, false, true]);
  assert.equal(smollm3.rope_theta, 2e6);
  const listed = read("smollm3", { num_key_value_heads: 2, no_rope_layers: [0, 1, 1, 1, 1] });
  assert.deepEqual(listed.layers.map((l) => l.rope), [false, true, true, true, true]);
  const starcoder2 = read("starcoder2", { use_bias: false, norm_epsilon: 1e-3 });
  assert.deepEqual([starcoder2.bias.mlp, starcoder2.norm_eps], [false, 1e-3]);
  const mixtral = read("mixtral");
  assert.deepEqual([mixtral.num_local_experts, mixtral.num_experts_per_tok, mixtral.rope_theta], [8, 2, 1e6]);
  assert.equal(mixtral.layers[0]!.window, undefined);
  const longrope = { type: "su", short_factor: [1], long_factor: [2] };
  const phi3 = read("phi3", {
    rope_scaling: longrope,
    partial_rotary_factor: 0.5,
    max_position_embeddings: 8192,
  });
  assert.equal(phi3.rotary_dim, 4);
  assert.deepEqual(phi3.rope_scaling, {
    ...longrope,
    rope_type: "longrope",
    original_max_position_embeddings: 4096,
    factor: 2,
  });
});

Deno.test("the configs of GGUF files are read, and Gemma 2's and 3's are refused by name", () => {
  const facts = { has: () => false, vocabSize: 100, values: () => undefined };
  const configOf = (arch: typeof GGUF_ARCHITECTURES[number]) => {
    const values = new Map<string, string | number>([["general.architecture", arch]]);
    for (const [key, value] of Object.entries(GGUF)) values.set(`${arch}.${key}`, value);
    return ggufConfig(ggufMetadata("model.gguf", values), arch, facts);
  };
  for (const arch of GGUF_ARCHITECTURES) {
    if (arch === "gemma2" || arch === "gemma3") {
      refused(configOf(arch), "model/unsupported", /gemma[23].*Supported model types: llama/s);
      continue;
    }
    const c = readConfig(configOf(arch), "model.gguf");
    assert.equal(c.model_type, arch);
    assert.deepEqual(
      [c.hidden_size, c.num_key_value_heads, c.head_dim, c.intermediate_size],
      [64, 2, 16, 96],
      arch,
    );
    assert.deepEqual([c.norm_eps, c.max_position_embeddings, c.num_hidden_layers], [0.5, 256, 4], arch);
  }
});

Deno.test("what cannot be run is refused by name", () => {
  refused(
    { ...MINIMAL, model_type: "falcon" },
    "model/unsupported",
    /'falcon'.*Supported model types: llama, mistral, mixtral, qwen2, .*Zephyr/s,
  );
  refused({ ...MINIMAL, model_type: undefined }, "model/unsupported", /architecture ''/);
  refused({ ...MINIMAL, model_type: "toString" }, "model/unsupported", /architecture 'toString'/);
  refused({ ...MINIMAL, hidden_act: "mish" }, "model/unsupported", /hidden_act: mish.*silu, gelu/s);
  refused({ ...MINIMAL, head_dim: 10 }, "model/unsupported", /head_dim: 10.*multiple of 4 up to 256/s);
  refused({ ...MINIMAL, head_dim: 260 }, "model/unsupported", /head_dim: 260/);
  const cross = { ...GPT2, add_cross_attention: true };
  refused(cross, "model/unsupported", /add_cross_attention: true/);
  const odd = { ...MINIMAL, model_type: "phi3", partial_rotary_factor: 0.4 };
  refused(odd, "model/config", /partial_rotary_factor: 0.4/);
  refused({ ...MINIMAL, vocab_size: undefined }, "model/config", /'vocab_size' is undefined/);
  refused({ ...MINIMAL, hidden_size: "64" }, "model/config", /'hidden_size' is "64"/);
  refused({ ...MINIMAL, num_hidden_layers: 0 }, "model/config", /'num_hidden_layers' is 0/);
  refused({ ...MINIMAL, num_key_value_heads: 3 }, "model/config", /3 key-value heads do not fit/);
  refused({ ...MINIMAL, num_attention_heads: 7 }, "model/config", /7 heads/);
});

Deno.test("parameters under Hugging Face's names, with the head only where it is not tied", () => {
  const c = readConfig({ ...MINIMAL, num_key_value_heads: 2, head_dim: 12 }, "c");
  const shapes = new Map(parameterShapes(c).map((p) => [p.name, p.shape]));
  assert.equal(shapes.size, 1 + 5 * 9 + 2);
  assert.deepEqual(shapes.get("model.layers.4.self_attn.q_proj.weight"), [96, 64]);
  assert.deepEqual(shapes.get("model.layers.0.self_attn.k_proj.weight"), [24, 64]);
  assert.deepEqual(shapes.get("model.layers.0.self_attn.o_proj.weight"), [64, 96]);
  assert.deepEqual(shapes.get("model.layers.0.mlp.down_proj.weight"), [64, 172]);
  assert.deepEqual(shapes.get("lm_head.weight"), [512, 64]);
  const tied = parameterShapes(readConfig({ ...MINIMAL, tie_word_embeddings: true }, "c"));
  assert.ok(!tied.some((p) => p.name === "lm_head.weight"));
  assert.equal(blockLinears(c).length, 7);
});
