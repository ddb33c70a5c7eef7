/**
 * Models in 4 bits, as `deno task quantize` writes them, with nibble's logits of what it reads back.
 * @module
 */
import { join } from "@std/path";
import { quantizeFolder, type QuantizeFolderOptions } from "../../../lib/quantize_folder.ts";
import { folder } from "../checks.ts";
import { writeLogits, writeRandomModel } from "../nibble.ts";

const LLAMA = {
  architectures: ["LlamaForCausalLM"],
  ...{ model_type: "llama", vocab_size: 96, hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 64, rms_norm_eps: 1e-5 },
  ...{
    rope_theta: 10000,
    tie_word_embeddings: true,
    initializer_range: 0.2,
    bos_token_id: 1,
    eos_token_id: 2,
  },
};
// GPT-2 holds its weights [in, out], and bitsandbytes turns them before it quantizes
const GPT2 = {
  architectures: ["GPT2LMHeadModel"],
  ...{ model_type: "gpt2", vocab_size: 96, n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64, n_inner: 160 },
  ...{ initializer_range: 0.2, bos_token_id: 1, eos_token_id: 2, tie_word_embeddings: true },
};

const out = folder();
const bases = { llama: LLAMA, gpt2: GPT2 };
for (const [name, config] of Object.entries(bases)) await writeRandomModel(config, join(out, "base", name));

type Case = Omit<QuantizeFolderOptions, "model" | "output"> & { base: keyof typeof bases };
const cases: Record<string, Case> = {
  nf4_double: { base: "llama", dtype: "F32" },
  nf4: { base: "llama", dtype: "F32", doubleQuant: false },
  fp4_128: { base: "llama", dtype: "F32", quantType: "fp4", blocksize: 128 },
  fp4: { base: "llama", dtype: "F32", quantType: "fp4", doubleQuant: false },
  fp4_double: { base: "llama", dtype: "F32", quantType: "fp4" },
  nf4_bf16: { base: "llama", dtype: "BF16" },
  bf16_storage: { base: "llama", dtype: "F32", quantStorage: "BF16" },
  skipping: { base: "llama", dtype: "F32", skipModules: ["down_proj", "v_proj"] },
  gpt2: { base: "gpt2", dtype: "F32" },
};
for (const [name, { base, ...options }] of Object.entries(cases)) {
  const output = join(out, "nibble", name);
  await quantizeFolder({ model: join(out, "base", base), output, ...options });
  const { asStored, quantizedLayers, denseLayers } = await writeLogits(output);
  if (!asStored) throw new Error(`${name} was quantized again`);
  Deno.writeTextFileSync(join(output, "case.json"), JSON.stringify({ base, quantizedLayers, denseLayers }));
}
Deno.exit(0);
