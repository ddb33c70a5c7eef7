/**
 * Whether files and config belong together, before anything is loaded.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { TensorSource } from "../formats/mod.ts";
import type { ModelConfig } from "./config.ts";
import { blockLinears } from "./parameters.ts";

/**
 * Whether the checkpoint is in bitsandbytes' 4 bits.
 *
 * @throws NibbleError `model/unsupported` for another kind of quantization, whose numbers would be read as weights
 */
export function checkQuantized(raw: Record<string, unknown>, source: TensorSource): boolean {
  const stored = [...source.tensors.values()].some((t) => t.quantized);
  const given = raw["quantization_config"] as Record<string, unknown> | null | undefined;
  if (!given || stored) return stored;
  const { quant_method: method = "bitsandbytes", load_in_8bit: eight } = given;
  const what = method === "bitsandbytes" ? `bitsandbytes' ${eight ? 8 : 4} bits` : `'${method}'`;
  throw new NibbleError("model/unsupported", `config.json says that the weights are quantized by ${what}`, {
    where: `${source.path}, quantization_config`,
    remedy: method === "bitsandbytes" && !eight
      ? "No weight has a quant_state: if the weights are whole, remove quantization_config."
      : "Use the checkpoint in 16 bits; nibble reads bitsandbytes' 4 bits of the quantized kinds.",
  });
}

/** Every tensor present with the shape that the config implies, before anything is loaded. */
export function checkTensors(
  config: ModelConfig,
  source: TensorSource,
  shapes: readonly { name: string; shape: number[] }[],
): void {
  for (const { name, shape } of shapes) {
    const info = source.tensors.get(name);
    if (!info) {
      throw new NibbleError("model/missing-tensor", `The tensor '${name}' is missing`, {
        where: source.path,
        remedy: name === "lm_head.weight"
          ? "The config says tie_word_embeddings: false; set it to true if the model ties them."
          : `Check that the files are complete: ${config.num_hidden_layers} layers are expected.`,
      });
    }
    if (`${info.shape}` !== `${shape}`) {
      const { names } = config.family;
      const vocabulary = name === `${names.embed}.weight` && info.shape[1] === shape[1];
      const heads = [...names.qkv, names.o].some((module) => name.includes(`.${module}.`));
      throw new NibbleError("model/shape", `'${name}' is [${info.shape}], the config implies [${shape}]`, {
        where: source.path,
        remedy: vocabulary
          ? `vocab_size in config.json is ${shape[0]}, the embedding has ${
            info.shape[0]
          } rows; they must agree.`
          : heads
          ? `In config.json head_dim is ${config.head_dim}, with ${config.num_attention_heads} heads of queries and ` +
            `${config.num_key_value_heads} of keys and values: one of them is another in the weights.`
          : `config.json and the weights do not belong together (linear layers of a block: ${
            blockLinears(config).map((l) => l.module).join(", ")
          }).`,
      });
    }
  }
}
