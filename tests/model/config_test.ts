import assert from "node:assert/strict";
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
  assert.deepEqual([c.num_key_value_heads, c.layers[4]!.window, c.max_position_embeddings], [8, 4096, 131072]);
  assert.equal(readConfig({ ...raw, sliding_window: null }, "c").layers[0]!.window, undefined);
  assert.equal(readConfig({ ...MINIMAL, sliding_window: 7 }, "c").layers[0]!.window, undefined, "Llama has none");
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

Deno.test("what cannot be run is refused by name", () => {
  refused({ ...MINIMAL, model_type: "gpt2" }, "model/unsupported", /'gpt2'.*Supported: llama, mistral/s);
  refused({ ...MINIMAL, model_type: undefined }, "model/unsupported", /architecture ''/);
  refused({ ...MINIMAL, attention_bias: true }, "model/unsupported", /attention_bias/);
  refused({ ...MINIMAL, hidden_act: "gelu" }, "model/unsupported", /hidden_act: gelu/);
  refused({ ...MINIMAL, vocab_size: undefined }, "model/config", /'vocab_size' is undefined/);
  refused({ ...MINIMAL, hidden_size: "64" }, "model/config", /'hidden_size' is "64"/);
  refused({ ...MINIMAL, num_hidden_layers: 0 }, "model/config", /'num_hidden_layers' is 0/);
  refused({ ...MINIMAL, num_key_value_heads: 3 }, "model/config", /3 key-value heads do not fit/);
  refused({ ...MINIMAL, num_attention_heads: 7 }, "model/config", /7 heads/);
});

Deno.test("parameters under Hugging Face's names, with the head only where it is not tied", () => {
  const c = readConfig({ ...MINIMAL, num_key_value_heads: 2, head_dim: 10 }, "c");
  const shapes = new Map(parameterShapes(c).map((p) => [p.name, p.shape]));
  assert.equal(shapes.size, 1 + 5 * 9 + 2);
  assert.deepEqual(shapes.get("model.layers.4.self_attn.q_proj.weight"), [80, 64]);
  assert.deepEqual(shapes.get("model.layers.0.self_attn.k_proj.weight"), [20, 64]);
  assert.deepEqual(shapes.get("model.layers.0.self_attn.o_proj.weight"), [64, 80]);
  assert.deepEqual(shapes.get("model.layers.0.mlp.down_proj.weight"), [64, 172]);
  assert.deepEqual(shapes.get("lm_head.weight"), [512, 64]);
  const tied = parameterShapes(readConfig({ ...MINIMAL, tie_word_embeddings: true }, "c"));
  assert.ok(!tied.some((p) => p.name === "lm_head.weight"));
  assert.equal(blockLinears(c).length, 7);
});
