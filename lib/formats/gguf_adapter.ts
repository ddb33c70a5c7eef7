/**
 * An adapter as a GGUF file that llama.cpp adds to a model at run time.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { architectureOf, FILE_TYPES, type GgufModelFacts, permuted } from "./gguf_export.ts";
import { ggufTensorName, restoreOf } from "./gguf_names.ts";
import { type GgufWritableTensor, writeGguf } from "./gguf_write.ts";
import { type Adapter, parseAdapterKey } from "./peft.ts";

/** Options of {@link writeGgufAdapter}. */
export interface WriteGgufAdapterOptions {
  /** How A and B are stored; default F32, as llama.cpp's converter has it. */
  type?: "F32" | "F16";
  /** Rank and scale of a module, where patterns or rsLoRA make them differ from `lora_alpha / r`. */
  scalingOf: (module: string) => number;
}

/**
 * Writes an adapter as GGUF for `llama-cli --lora`, beside a GGUF of its base. There is one alpha for all: where
 * modules differ in scale, B takes the difference.
 *
 * @throws NibbleError `formats/gguf-adapter` for what llama.cpp cannot add to a model at run time: magnitudes (DoRA),
 *   biases and modules that were trained whole
 */
export function writeGgufAdapter(
  adapter: Adapter,
  facts: GgufModelFacts,
  path: string,
  options: WriteGgufAdapterOptions,
): void {
  const { type = "F32", scalingOf } = options;
  const { config, tensors } = adapter;
  const where = config.base_model_name_or_path ?? path;
  const arch = architectureOf(facts.model_type, where);
  const alpha = config.use_rslora ? config.lora_alpha * Math.sqrt(config.r) : config.lora_alpha;
  const heads = { query: facts.num_attention_heads, keyValue: facts.num_key_value_heads };
  const out: GgufWritableTensor[] = [];
  for (const [key, { shape, data }] of tensors) {
    const { module, part } = parseAdapterKey(key);
    const name = ggufTensorName(arch, `${module}.weight`);
    if (name === undefined || (part !== "lora_A" && part !== "lora_B")) {
      throw new NibbleError("formats/gguf-adapter", `'${key}' has no form in a GGUF adapter`, {
        where,
        remedy: "Merge the adapter and export the merged model instead.",
      });
    }
    const [rows, columns] = shape as [number, number];
    let values = data;
    if (part === "lora_B") {
      const restore = restoreOf(arch, `${module}.weight`, heads);
      const factor = scalingOf(module) * columns / alpha;
      if (factor !== 1) values = values.map((v) => v * factor);
      if (restore.kind === "unpermute") values = permuted(values, rows / restore.heads, columns);
    }
    out.push({
      name: `${name}.${part === "lora_A" ? "lora_a" : "lora_b"}`,
      type,
      shape,
      data: () => [values],
    });
  }
  writeGguf(path, [
    ["general.architecture", arch],
    ["general.type", "adapter"],
    ["adapter.type", "lora"],
    ["adapter.lora.alpha", { f32: alpha }],
    ["general.file_type", { u32: FILE_TYPES[type] }],
    ["general.quantization_version", { u32: 2 }],
  ], out);
}
