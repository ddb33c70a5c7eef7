/**
 * Linear layers of the models that the benchmarks of products go by.
 * @module
 */

/** A weight, `[out, in]`. */
export type LayerShape = readonly [name: string, out: number, in_: number];

/** Weights by model; `mistral-7b` are also those of most 7B models. */
export const LAYERS: Readonly<Record<string, readonly LayerShape[]>> = {
  "SmolLM2-135M": [["q, o", 576, 576], ["k, v", 192, 576], ["gate, up", 1536, 576], ["down", 576, 1536]],
  "Llama-3.2-1B": [["q, o", 2048, 2048], ["k, v", 512, 2048], ["gate, up", 8192, 2048], ["down", 2048, 8192]],
  "Mistral-7B": [["q, o", 4096, 4096], ["k, v", 1024, 4096], ["gate, up", 14336, 4096], [
    "down",
    4096,
    14336,
  ]],
};
