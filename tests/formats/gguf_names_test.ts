import assert from "node:assert/strict";
import fc from "fast-check";
import { hfTensorName, storedRow } from "../../lib/formats/gguf_names.ts";

Deno.test("storedRow undoes llama.cpp's permutation, for any head size", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 6 }), (half, heads) => {
    // The permutation as documented: view rows as (head, 2, half), swap the last two.
    const stored: number[] = [];
    for (let h = 0; h < heads; h++) {
      for (let j = 0; j < half; j++) {
        for (let two = 0; two < 2; two++) stored.push(h * 2 * half + two * half + j);
      }
    }
    for (let row = 0; row < stored.length; row++) assert.equal(stored[storedRow(row, 2 * half)], row);
  }));
});

Deno.test("tensor names of the other architectures", () => {
  const cases = [
    ["qwen2", "blk.11.attn_k.bias", "model.layers.11.self_attn.k_proj.bias"],
    ["qwen3", "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"],
    ["gemma", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"],
    ["gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"],
    ["gemma3", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"],
    ["gemma3", "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight"],
    ["phi3", "blk.2.attn_qkv.weight", "model.layers.2.self_attn.qkv_proj.weight"],
    ["phi3", "blk.2.ffn_up.weight", "model.layers.2.mlp.gate_up_proj.weight"],
    ["starcoder2", "blk.2.ffn_down.bias", "model.layers.2.mlp.c_proj.bias"],
    ["llama", "output.weight", "lm_head.weight"],
    ["llama", "rope_freqs.weight", undefined],
    ["llama", "blk.0.toString.weight", undefined],
    ["llama", "toString.weight", undefined],
  ] as const;
  for (const [arch, name, expected] of cases) assert.equal(hfTensorName(arch, name), expected);
});
