/**
 * The base that PiSSA or OLoRA left behind, as a Hugging Face folder of its own.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import {
  contentHash,
  type ModelFiles,
  openModel,
  type WritableDtype,
  writeShardedSafetensors,
  writeText,
} from "../formats/mod.ts";
import { modelSource, parameterShapes, storedShape, toStored } from "../model/parameters.ts";
import { QuantizedTensor } from "../quant/mod.ts";
import { initOf } from "./config.ts";
import { asQuantized, minus, restType, rounded } from "./init.ts";
import type { Adapter } from "./lora.ts";

/** What adapter_config.json says of a base that was written. */
export interface ResidualBase {
  base: string;
  revision: null;
  base_hash: string;
}

const written = new WeakMap<Adapter, ResidualBase>();

/**
 * Writes the base as training saw it before it was quantized: `W − s B0 A0` for adapted layers, in the file's type (f32
 * for OLoRA), all else as it was, with the original's config and tokenizer files. Written once for an adapter, tensor
 * by tensor.
 */
export async function writeResidualBase(
  adapter: Adapter,
  folder: string,
  openBase: () => ModelFiles = () => openModel(adapter.model.path),
): Promise<ResidualBase> {
  const known = written.get(adapter);
  if (known?.base === folder) return known;
  const { model, layers, config } = adapter;
  const initial = new Map<string, { a: Float32Array<ArrayBuffer>; b: Float32Array<ArrayBuffer> }>();
  for (const [module, { initial: i }] of layers) {
    if (i) initial.set(module, { a: await i.a.data(), b: await i.b.data() });
  }
  const files = openBase();
  try {
    if (JSON.stringify(files.config) !== JSON.stringify(model.rawConfig)) {
      throw new NibbleError(
        "lora/residual-base",
        "The base's files are not those that the model was made from",
        {
          where: files.path,
          remedy: "Merge the parent adapter into a folder of its own first, and train on that.",
        },
      );
    }
    const specs = parameterShapes(model.config);
    const source = modelSource(files.source, specs);
    const init = initOf(config);
    const tensors = specs.map((spec) => {
      const module = spec.name.replace(/\.weight$/, "");
      const begun = initial.get(module), lora = layers.get(module);
      const filed = source.tensors.get(spec.name)!.dtype;
      const stored = begun ? restType(init, lora!.layer.weight, filed) : filed;
      const dtype: WritableDtype = stored === "BF16" || stored === "F16" ? stored : "F32";
      const data = () => {
        let values = source.readF32(spec.name) as Float32Array<ArrayBuffer>;
        if (begun) {
          const { layer: { weight }, a, scaling } = lora!;
          if (init.kind === "olora" && weight instanceof QuantizedTensor) {
            values = asQuantized(weight, values);
          }
          const [rows, columns] = spec.shape as [number, number];
          values = rounded(minus(values, begun, scaling, { rows, columns }, a.rows), stored);
        }
        return toStored(spec, values);
      };
      return { name: spec.name, dtype, shape: storedShape(spec), data };
    });
    Deno.mkdirSync(folder, { recursive: true });
    writeShardedSafetensors(folder, tensors);
    const json = (name: string, value: unknown) => {
      writeText(join(folder, name), JSON.stringify(value, null, 2) + "\n");
    };
    if (files.tokenizerJson !== undefined) {
      json("tokenizer.json", files.tokenizerJson);
      json("tokenizer_config.json", files.tokenizerConfig);
    }
    if (Object.keys(files.generationConfig).length > 0) {
      json("generation_config.json", files.generationConfig);
    }
    json("config.json", model.rawConfig); // last: without it the folder is no model
  } finally {
    files.source.close();
  }
  const made = { base: folder, revision: null, base_hash: contentHash(folder) };
  written.set(adapter, made);
  return made;
}
