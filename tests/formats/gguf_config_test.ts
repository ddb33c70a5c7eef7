import assert from "node:assert/strict";
import { bytesOf } from "../../lib/formats/dtype.ts";
import { openGguf } from "../../lib/formats/gguf.ts";
import { decimal } from "../../lib/formats/gguf_config.ts";
import {
  buildGguf,
  type BuiltTensor,
  EMBEDDING,
  type Kv,
  llamaMetadata,
  temporaryFolder,
  throwsCode,
} from "./support.ts";

function configOf(arch: string, extra: Record<string, Kv> = {}, tensors: Record<string, BuiltTensor> = {}) {
  using folder = temporaryFolder();
  const file = buildGguf(llamaMetadata(extra, arch), { ...EMBEDDING, ...tensors });
  const source = openGguf(folder.file("m.gguf", file));
  source.close();
  return source.config;
}

const floats = (values: number[]): BuiltTensor => ({
  shape: [values.length],
  data: bytesOf(new Float32Array(values)),
});

Deno.test("every architecture gets its family's name", () => {
  const expected = {
    llama: "llama LlamaForCausalLM",
    qwen2: "qwen2 Qwen2ForCausalLM",
    qwen3: "qwen3 Qwen3ForCausalLM",
    gemma: "gemma GemmaForCausalLM",
    gemma2: "gemma2 Gemma2ForCausalLM",
    gemma3: "gemma3_text Gemma3ForCausalLM",
    phi3: "phi3 Phi3ForCausalLM",
    smollm3: "smollm3 SmolLM3ForCausalLM",
  };
  for (const [arch, name] of Object.entries(expected)) {
    const config = configOf(arch);
    assert.equal(`${config["model_type"]} ${(config["architectures"] as string[])[0]}`, name);
    assert.equal(config["vocab_size"], 8);
    assert.equal(config["head_dim"], 8);
  }
});

Deno.test("a llama file with a sliding window is a mistral", () => {
  const config = configOf("llama", { "llama.attention.sliding_window": { u32: 4096 } });
  assert.equal(config["model_type"], "mistral");
  assert.equal(config["sliding_window"], 4096);
  assert.ok(!("sliding_window" in configOf("llama")));
});

Deno.test("embeddings are tied exactly when there is no output tensor", () => {
  assert.equal(configOf("llama")["tie_word_embeddings"], true);
  assert.equal(configOf("llama", {}, { "output.weight": { shape: [8, 32] } })["tie_word_embeddings"], false);
});

Deno.test("head size: said outright, from the rotary size, or by division", () => {
  assert.equal(configOf("qwen3", { "qwen3.attention.key_length": { u32: 128 } })["head_dim"], 128);
  assert.equal(configOf("llama", { "llama.rope.dimension_count": { u32: 16 } })["head_dim"], 16);
  assert.equal(configOf("llama")["head_dim"], 8);
});

Deno.test("phi3: part of the head turns; long and short factors", () => {
  const config = configOf("phi3", {
    "phi3.rope.dimension_count": { u32: 6 },
    "phi3.rope.scaling.original_context_length": { u32: 32 },
  }, {
    "rope_factors_long.weight": floats([1, 2.5, 3.1]),
    "rope_factors_short.weight": floats([1, 1, 1.05]),
  });
  assert.equal(config["partial_rotary_factor"], 0.75);
  assert.ok(
    !("sliding_window" in configOf("phi3", { "phi3.attention.sliding_window": { u32: 0 } })),
    "0 is none",
  );
  assert.equal(config["original_max_position_embeddings"], 32);
  assert.deepEqual(config["rope_scaling"], {
    rope_type: "longrope",
    long_factor: [1, 2.5, 3.1],
    short_factor: [1, 1, 1.05],
  });
});

Deno.test("starcoder2: LayerNorm's epsilon and biases", () => {
  const config = configOf("starcoder2", { "starcoder2.attention.layer_norm_epsilon": { f32: 1e-5 } }, {
    "blk.0.attn_q.bias": { shape: [32] },
  });
  assert.equal(config["norm_epsilon"], 1e-5);
  assert.equal(config["use_bias"], true);
  assert.ok(!("rms_norm_eps" in config));
});

Deno.test("gemma2 and gemma3: caps, window, and the query scale", () => {
  const gemma2 = configOf("gemma2", {
    "gemma2.attn_logit_softcapping": { f32: 50 },
    "gemma2.final_logit_softcapping": { f32: 30 },
    "gemma2.attention.sliding_window": { u32: 4096 },
    "gemma2.attention.key_length": { u32: 256 },
  });
  assert.deepEqual(
    ["attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "query_pre_attn_scalar"].map((
      k,
    ) => gemma2[k]),
    [50, 30, 4096, 256],
  );
  const large = configOf("gemma2", {
    "gemma2.block_count": { u32: 46 },
    "gemma2.attention.key_length": { u32: 16 },
  });
  assert.equal(large["query_pre_attn_scalar"], 8);
  assert.equal(configOf("gemma3")["sliding_window_pattern"], 6);
});

Deno.test("smollm3: every fourth layer has no rotary positions", () => {
  const config = configOf("smollm3", { "smollm3.block_count": { u32: 8 } });
  assert.deepEqual(config["no_rope_layers"], [1, 1, 1, 0, 1, 1, 1, 0]);
});

Deno.test("rope scaling: linear, yarn, none, unknown", () => {
  const scaling = (extra: Record<string, Kv>) => configOf("llama", extra)["rope_scaling"];
  const type = (name: string): Record<string, Kv> => ({ "llama.rope.scaling.type": name });
  const factor: Record<string, Kv> = { "llama.rope.scaling.factor": { f32: 2.2 } };
  assert.equal(scaling({}), null);
  assert.equal(scaling(type("none")), null);
  assert.deepEqual(scaling({ ...type("linear"), ...factor }), { rope_type: "linear", factor: 2.2 });
  const original: Record<string, Kv> = { "llama.rope.scaling.original_context_length": { u32: 4096 } };
  assert.deepEqual(scaling({ ...type("yarn"), ...factor, ...original }), {
    rope_type: "yarn",
    factor: 2.2,
    original_max_position_embeddings: 4096,
  });
  throwsCode(() => scaling(type("linear")), "formats/gguf-metadata", "rope.scaling.factor");
  throwsCode(() => scaling({ ...type("mystery"), ...factor }), "formats/gguf-metadata", "mystery");
});

Deno.test("Llama 3's rotary divisors become its four numbers", () => {
  // As the converter computes them (formats of Llama 3.1: theta 500000, head size 128, factor 8).
  const divisors = (factor: number) =>
    Array.from({ length: 64 }, (_, i) => {
      const wavelength = 2 * Math.PI * 500000 ** (2 * i / 128);
      if (wavelength < 8192 / 4) return 1;
      if (wavelength > 8192) return factor;
      const smooth = (8192 / wavelength - 1) / 3;
      return 1 / ((1 - smooth) / factor + smooth);
    });
  const extra: Record<string, Kv> = {
    "llama.rope.dimension_count": { u32: 128 },
    "llama.rope.freq_base": { f32: 500000 },
  };
  for (const factor of [8, 32]) {
    assert.deepEqual(
      configOf("llama", extra, { "rope_freqs.weight": floats(divisors(factor)) })["rope_scaling"],
      {
        rope_type: "llama3",
        factor,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
    );
  }
  const other = divisors(8).map((d, i) => i === 40 ? d * 1.01 : d);
  throwsCode(
    () => configOf("llama", extra, { "rope_freqs.weight": floats(other) }),
    "formats/gguf-metadata",
    "rope_freqs.weight",
  );
});

Deno.test("f32 numbers get their shortest decimal", () => {
  for (const x of [1e-5, 1e-6, 100000, 10000, 0.1, 1 / 3, 500000, 1.0000001]) {
    const stored = Math.fround(x);
    assert.equal(Math.fround(decimal(stored)), stored);
    if (x !== 1 / 3) assert.equal(decimal(stored), x);
  }
});
