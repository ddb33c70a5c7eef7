/** A small model with an adapter on it, as tests of adapters' beginnings use them. */
import { type ModelFiles, openModel } from "../../lib/formats/mod.ts";
import { type Adapter, adapterShapes, addAdapter, type LoraConfig } from "../../lib/lora/lora.ts";
import { buildModel, type BuildOptions } from "../../lib/model/load.ts";
import type { Model } from "../../lib/model/model.ts";
import { createParameterPages, type ParameterPages } from "../../lib/optim/mod.ts";

/** Folder of the model that PEFT's reference numbers are of: hidden size 32, two layers, vocabulary 61. */
export const BASE = new URL("../parity/adapters/base", import.meta.url).pathname;
export const NF4 = { quantization: { quantType: "nf4", blocksize: 64, doubleQuant: true } } as const;
export const CONFIG: LoraConfig = {
  ...{ r: 4, lora_alpha: 6, lora_dropout: 0, use_rslora: false },
  target_modules: ["q_proj", "v_proj", "gate_proj", "down_proj"],
};

/** The model with its adapter; `using` gives everything back. */
export interface Adapted {
  model: Model;
  adapter: Adapter;
  pages: ParameterPages;
  /** The base's files, open. */
  files: ModelFiles;
  [Symbol.dispose](): void;
}

/**
 * Loads the base and puts an adapter on it: {@link CONFIG}, but for what `config` says.
 *
 * @param change keys of config.json that are other than in the folder
 */
export async function adapt(
  config: Partial<LoraConfig>,
  options: BuildOptions = {},
  change: Record<string, unknown> = {},
): Promise<Adapted> {
  const made: { dispose(): void }[] = []; // given back in reverse
  const note = <T extends { dispose(): void }>(thing: T): T => (made.unshift(thing), thing);
  const dispose = () => made.forEach((m) => m.dispose());
  const files = openModel(BASE);
  note({ dispose: () => files.source.close() });
  try {
    const model = note(
      await buildModel({ ...files.config, ...change }, files.source, { path: BASE, ...options }),
    );
    const all = { ...CONFIG, ...config };
    const pages = note(createParameterPages(adapterShapes(model, all), "adapter"));
    const adapter = addAdapter(model, all, pages.tensors, 1, { weights: files.source });
    note({ dispose: () => adapter.remove() });
    return { model, adapter, pages, files, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}
