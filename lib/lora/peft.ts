/**
 * Adapters in PEFT's folder: out of the device and in.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  adapterConfig,
  adapterKey,
  type AdapterProvenance,
  readAdapter,
  writeAdapter,
} from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import type { Model } from "../model/model.ts";
import { empty, keep, type Tensor } from "../tensor/tensor.ts";
import { type Adapter, adapterShapes, addAdapter, isAllLinear, type LoraConfig } from "./lora.ts";

/** What is recorded beside the weights. */
export interface SaveAdapterOptions {
  /** `base_model_name_or_path` in adapter_config.json. */
  base: string;
  revision?: string | undefined;
  provenance?: AdapterProvenance;
}

/** Writes `adapter_model.safetensors` and `adapter_config.json`, which PEFT's `from_pretrained` reads. One readback. */
export async function saveAdapter(
  adapter: Adapter,
  folder: string,
  options: SaveAdapterOptions,
): Promise<void> {
  const { config } = adapter;
  const parts = [...adapter.layers].flatMap(([module, { a, b }]) => [
    { key: adapterKey(module, "lora_A"), t: a },
    { key: adapterKey(module, "lora_B"), t: b },
  ]);
  const bytes = await gpu().stream.read(
    parts.map(({ t }) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
  );
  writeAdapter(
    folder,
    adapterConfig({
      base_model_name_or_path: options.base,
      revision: options.revision ?? null,
      r: config.r,
      lora_alpha: config.lora_alpha,
      lora_dropout: config.lora_dropout,
      use_rslora: config.use_rslora,
      // as it was asked for, so that a list of single layers loads onto those alone
      target_modules: isAllLinear(config.target_modules)
        ? [...new Set([...adapter.layers.keys()].map((m) => m.split(".").at(-1)!))]
        : typeof config.target_modules === "string"
        ? config.target_modules
        : [...config.target_modules],
      ...(options.provenance ? { nibble: options.provenance } : {}),
    }),
    new Map(parts.map(({ key, t }, i) => [key, { shape: t.shape, data: new Float32Array(bytes[i]!) }])),
  );
}

/** Options of {@link loadAdapter}. */
export interface LoadAdapterOptions {
  /** `contentHash` of the base in hand; refused when the adapter records another. */
  baseHash?: string | undefined;
  /** Makes each parameter's tensor, for an adapter that trains on. */
  parameters?: ReadonlyMap<string, Tensor>;
}

/**
 * Puts an adapter from a PEFT folder on a model. Without `parameters` its tensors are the adapter's own, and
 * `remove()` gives them back.
 *
 * @throws NibbleError `lora/base-mismatch`, `lora/unsupported`, `lora/shape`, each naming folder and key
 */
export function loadAdapter(model: Model, folder: string, options: LoadAdapterOptions = {}): Adapter {
  const { config: saved, tensors } = readAdapter(folder);
  const recorded = saved.nibble?.base_hash;
  if (recorded && options.baseHash && recorded !== options.baseHash) {
    throw new NibbleError("lora/base-mismatch", "The adapter was trained on another base model", {
      where: `${folder}: base ${saved.base_model_name_or_path}, ${recorded}; in hand ${options.baseHash}`,
      remedy: "Load the base that adapter_config.json names.",
    });
  }
  const unsupported = [
    saved.use_dora && "use_dora",
    saved.bias !== "none" && "bias",
    Object.keys(saved.rank_pattern).length > 0 && "rank_pattern",
    Object.keys(saved.alpha_pattern).length > 0 && "alpha_pattern",
    (saved.modules_to_save?.length ?? 0) > 0 && "modules_to_save",
    saved.layers_to_transform !== null && "layers_to_transform",
  ].filter(Boolean);
  if (unsupported.length > 0) {
    throw new NibbleError(
      "lora/unsupported",
      `Adapters with ${unsupported.join(", ")} cannot be loaded yet`,
      {
        where: `${folder}/adapter_config.json`,
      },
    );
  }
  const config: LoraConfig = {
    r: saved.r,
    lora_alpha: saved.lora_alpha,
    lora_dropout: saved.lora_dropout,
    use_rslora: saved.use_rslora,
    target_modules: saved.target_modules ?? ["q_proj", "v_proj"],
  };
  const shapes = adapterShapes(model, config);
  for (const { name, shape } of shapes) {
    const stored = tensors.get(`base_model.model.${name}`);
    if (!stored || `${stored.shape}` !== `${shape}`) {
      throw new NibbleError(
        "lora/shape",
        `'${name}' is ${stored ? `[${stored.shape}]` : "missing"}, expected [${shape}]`,
        { where: folder, remedy: "The adapter belongs to a model of another size." },
      );
    }
  }
  const placed = new Set(shapes.map(({ name }) => `base_model.model.${name}`));
  const homeless = [...tensors.keys()].find((key) => !placed.has(key));
  if (homeless) {
    throw new NibbleError("lora/unsupported", `'${homeless}' has no place in this model`, {
      where: folder,
      remedy:
        "The adapter belongs to a larger model, or adapts modules other than the blocks' linear layers.",
    });
  }
  const own = options.parameters ? [] : shapes.map(({ shape }) => keep(empty(shape, "f32", "adapter")));
  const parameters = options.parameters ?? new Map(shapes.map(({ name }, i) => [name, own[i]!]));
  const adapter = addAdapter(model, config, parameters, 0);
  for (const { name } of shapes) {
    parameters.get(name)!.write(Float32Array.from(tensors.get(`base_model.model.${name}`)!.data));
  }
  const detach = adapter.remove;
  adapter.remove = () => {
    detach();
    for (const t of own) t.dispose();
  };
  return adapter;
}
