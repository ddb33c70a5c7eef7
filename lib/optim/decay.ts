/**
 * Which parameters weight decay passes over.
 * @module
 */

/**
 * Trainer's own patterns (`get_decay_parameter_names`), and `ln_1`, `ln_2`, `ln_f`: GPT-2's names of layer norms,
 * which Trainer knows by their class.
 */
const UNDECAYED = [/bias/, /layernorm/, /rmsnorm/, /(^|\.)norm($|\.)/, /_norm($|\.)/, /(^|\.)ln_\w+\./];

/**
 * Whether Trainer decays the parameter of that name: all but biases and norms.
 *
 * @example
 * ```ts
 * import { decays } from "./decay.ts";
 * const names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "transformer.h.0.ln_1.weight"];
 * if (names.filter(decays).length !== 1) throw new Error("norms are exempt");
 * ```
 */
export function decays(name: string): boolean {
  return !UNDECAYED.some((pattern) => pattern.test(name.toLowerCase()));
}
