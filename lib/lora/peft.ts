/**
 * Adapters in PEFT's folder: out of the device and in.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  type AdapterConfig,
  adapterConfig,
  adapterKey,
  type AdapterProvenance,
  type AdapterTensor,
  MERGED_ADAPTERS,
  type MergedAdapter,
  type ModelFiles,
  readAdapter,
  type TensorSource,
  writeAdapter,
} from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import type { Model } from "../model/model.ts";
import { fromStored, storedShape, toStored } from "../model/parameters.ts";
import { QuantizedTensor } from "../quant/mod.ts";
import { empty, keep, type Tensor } from "../tensor/tensor.ts";
import { initOf, type LoraConfig, loraConfigOf } from "./config.ts";
import { type Adapter, adapterShapes, addAdapter, isAllLinear, type LoraLayer } from "./lora.ts";
import { type BaseInHand, checkBase } from "./provenance.ts";
import { writeResidualBase } from "./residual.ts";
import { allParameters } from "./targets.ts";

/** What is recorded beside the weights. */
export interface SaveAdapterOptions {
  /** `base_model_name_or_path` in adapter_config.json. */
  base: string;
  revision?: string | undefined;
  provenance?: AdapterProvenance;
  /** Where the base that PiSSA or OLoRA left is written, when it must be; default `residual_base` in the folder. */
  residualBase?: string;
  /** Opens the base again for that; default the model's own path. */
  openBase?: (() => ModelFiles) | undefined;
}

/**
 * Writes `adapter_model.safetensors` and `adapter_config.json`, which PEFT's `from_pretrained` reads. One readback.
 *
 * Where the initialisation took A0 and B0 out of a dense base (PiSSA, OLoRA), the adapter is saved as PEFT converts
 * it: `s (B A − B0 A0)` as one of twice the rank, `[A; A0]` and `[B, −B0]`, for the base as it was. For a base in 4
 * bits that would not be the same function, since the rest was quantized without A0 and B0: there the base that
 * training saw is written beside the adapter, which then is saved as it is and names it.
 */
export async function saveAdapter(
  adapter: Adapter,
  folder: string,
  options: SaveAdapterOptions,
): Promise<void> {
  const { config, model } = adapter;
  const changed = [...adapter.layers.values()].some((l) => l.initial);
  const residual = changed &&
    [...adapter.layers.values()].some(({ layer }) => layer.weight instanceof QuantizedTensor);
  const values = await readBack(adapter);
  const origin = residual
    ? await writeResidualBase(adapter, options.residualBase ?? `${folder}/residual_base`, options.openBase)
    : { base: options.base, revision: options.revision ?? null, base_hash: options.provenance?.base_hash };
  const parents = model.rawConfig[MERGED_ADAPTERS] as MergedAdapter[] | undefined;
  const accounted = changed || CORRECTIONS.includes(initOf(config).kind);
  const nibble: AdapterProvenance = {
    ...options.provenance,
    ...(origin.base_hash ? { base_hash: origin.base_hash } : {}),
    ...(parents?.length ? { parents } : {}),
    ...(accounted ? { init_lora_weights: config.init_lora_weights! } : {}),
  };
  const { config: fields, tensors } = changed && !residual
    ? converted(settings(adapter), values)
    : { config: settings(adapter), tensors: values };
  for (const key of tensors.keys()) if (INITIAL.test(key)) tensors.delete(key);
  writeAdapter(
    folder,
    adapterConfig({
      ...fields,
      ...(accounted ? { init_lora_weights: true, loftq_config: {} } : {}),
      base_model_name_or_path: origin.base,
      revision: origin.revision,
      ...(Object.keys(nibble).length > 0 ? { nibble } : {}),
    }),
    tensors,
  );
}

/** `.initial` ends the keys of A0 and B0 on their way from the device to {@link converted}. */
const INITIAL = /\.initial$/;

/** All values under PEFT's keys, A0's and B0's with `.initial` behind. */
async function readBack(adapter: Adapter): Promise<Map<string, AdapterTensor>> {
  const layers = [...adapter.layers].flatMap(([module, { a, b, dora, initial }]) => [
    { key: adapterKey(module, "lora_A"), t: a },
    { key: adapterKey(module, "lora_B"), t: b },
    ...(dora ? [{ key: adapterKey(module, "lora_magnitude_vector"), t: dora.magnitude }] : []),
    ...(initial
      ? [
        { key: `${adapterKey(module, "lora_A")}.initial`, t: initial.a },
        { key: `${adapterKey(module, "lora_B")}.initial`, t: initial.b },
      ]
      : []),
  ]);
  const whole = [...adapter.whole].map(([name, { trained }]) => ({
    key: wholeKey(adapter, name),
    t: trained,
    name,
  }));
  const parts: { key: string; t: Tensor; name?: string }[] = [...layers, ...whole];
  const bytes = await gpu().stream.read(
    parts.map(({ t }) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
  );
  const specs = new Map(allParameters(adapter.model).map((s) => [s.name, s]));
  return new Map(parts.map((part, i) => {
    const data = new Float32Array(bytes[i]!);
    const spec = part.name === undefined ? undefined : specs.get(part.name);
    return spec
      ? [part.key, { shape: storedShape(spec), data: toStored(spec, data) }]
      : [part.key, { shape: [...part.t.shape], data }];
  }));
}

/** PEFT keeps the bias of an adapted layer inside the layer that it wraps. */
function wholeKey(adapter: { layers: ReadonlyMap<string, LoraLayer> }, name: string): string {
  const module = name.replace(/\.bias$/, "");
  return adapterKey(adapter.layers.has(module) ? `${module}.base_layer.bias` : name, "full");
}

/** The settings as PEFT's fields. */
function settings({ config, layers }: Adapter): Partial<AdapterConfig> {
  const list = (x: readonly string[] | string | null | undefined) =>
    typeof x === "string" ? x : x ? [...x] : null;
  const { r, lora_alpha, lora_dropout, use_rslora, use_dora = false, bias = "none" } = config;
  const { layers_to_transform: only = null, init_lora_weights = true } = config;
  return {
    ...{ r, lora_alpha, lora_dropout, use_rslora, use_dora, bias, init_lora_weights },
    // as it was asked for, so that a list of single layers loads onto those alone
    target_modules: isAllLinear(config.target_modules)
      ? [...new Set([...layers.keys()].map((m) => m.split(".").at(-1)!))]
      : list(config.target_modules),
    exclude_modules: config.exclude_modules?.length ? list(config.exclude_modules) : null,
    modules_to_save: config.modules_to_save?.length ? [...config.modules_to_save] : null,
    layers_to_transform: only === null || typeof only === "number" ? only : [...only],
    layers_pattern: list(config.layers_pattern),
    rank_pattern: { ...config.rank_pattern },
    alpha_pattern: { ...config.alpha_pattern },
    loftq_config: { ...config.loftq_config },
    fan_in_fan_out: [...layers.values()].some(({ layer }) => layer.transposed),
  };
}

/** The change since the beginning as an adapter of twice the rank, with the same scaling. */
function converted(
  config: Partial<AdapterConfig>,
  values: ReadonlyMap<string, AdapterTensor>,
): { config: Partial<AdapterConfig>; tensors: Map<string, AdapterTensor> } {
  const grow = (map: Record<string, number>, by: number) =>
    Object.fromEntries(Object.entries(map).map(([key, n]) => [key, by * n]));
  const byAlpha = config.use_rslora ? Math.SQRT2 : 2;
  const tensors = new Map<string, AdapterTensor>();
  for (const [key, value] of values) {
    const initial = values.get(`${key}.initial`);
    tensors.set(key, initial ? beside(key.includes(".lora_A."), value, initial) : value);
  }
  return {
    config: {
      ...config,
      r: 2 * config.r!,
      lora_alpha: byAlpha * config.lora_alpha!,
      rank_pattern: grow(config.rank_pattern!, 2),
      alpha_pattern: grow(config.alpha_pattern!, byAlpha),
    },
    tensors,
  };
}

/** `[A; A0]`, or `[B, −B0]`. */
function beside(isA: boolean, now: AdapterTensor, then: AdapterTensor): AdapterTensor {
  const [rows, columns] = now.shape as [number, number];
  const data = new Float32Array(2 * now.data.length);
  if (isA) {
    data.set(now.data);
    data.set(then.data, now.data.length);
    return { shape: [2 * rows, columns], data };
  }
  for (let i = 0; i < rows; i++) {
    data.set(now.data.subarray(i * columns, (i + 1) * columns), 2 * i * columns);
    for (let k = 0; k < columns; k++) data[(2 * i + 1) * columns + k] = -then.data[i * columns + k]!;
  }
  return { shape: [rows, 2 * columns], data };
}

/** Options of {@link loadAdapter}. */
export interface LoadAdapterOptions {
  /** What is known of the base in hand; refused when the adapter records another. */
  base?: Pick<BaseInHand, "name" | "revision" | "hash"> | undefined;
  /** Makes each parameter's tensor, for an adapter that trains on. */
  parameters?: ReadonlyMap<string, Tensor>;
  /** The base's files, for an adapter that PEFT saved with `init_lora_weights: pissa` or `olora`. */
  weights?: TensorSource | undefined;
}

/** Initialisations that begin as a correction of a base in 4 bits, which PEFT would do again when it loads them. */
const CORRECTIONS = ["loftq", "qera"];

/** Initialisations that leave the base as it is, so that nothing of them is needed once A and B are there. */
const FORGOTTEN = ["eva", "orthogonal", "mica", "gaussian", ...CORRECTIONS];

/** What a saved adapter asks for on this model. */
export function savedConfig(model: Model, saved: AdapterConfig): LoraConfig {
  const config = loraConfigOf(saved, model.config.family.loraTargets);
  const name = String(config.init_lora_weights).toLowerCase().replace(/_rank_\d+$/, "");
  const forgotten = FORGOTTEN.includes(name);
  return forgotten ? { ...config, init_lora_weights: true } : config;
}

/**
 * Puts an adapter from a PEFT folder on a model. Without `parameters` its tensors are the adapter's own, and
 * `remove()` gives them back.
 *
 * @throws NibbleError `lora/base-mismatch`, `lora/unsupported`, `lora/shape`, each naming folder and key
 */
export function loadAdapter(model: Model, folder: string, options: LoadAdapterOptions = {}): Adapter {
  const { config: saved, tensors } = readAdapter(folder);
  checkBase(folder, saved, { ...options.base, config: model.rawConfig });
  const config = savedConfig(model, saved);
  const shapes = adapterShapes(model, config);
  const specs = new Map(allParameters(model).map((s) => [s.name, s]));
  const placed = new Map<string, string>();
  for (const { module, name, shape } of shapes) {
    const spec = specs.get(name);
    const expected = spec ? storedShape(spec) : shape;
    const key = [name, `${name}.weight`, `${module}.base_layer.bias`].map((n) => adapterKey(n, "full"))
      .find((k) => tensors.has(k) && !placed.has(k) && (name.endsWith(".bias") || !k.endsWith(".bias")));
    const stored = key === undefined ? undefined : tensors.get(key);
    if (!stored || `${stored.shape}` !== `${expected}`) {
      throw new NibbleError(
        "lora/shape",
        `'${name}' is ${stored ? `[${stored.shape}]` : "missing"}, expected [${expected}]`,
        { where: folder, remedy: "The adapter belongs to a model of another size." },
      );
    }
    placed.set(key!, name);
  }
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
  const release = () => {
    for (const t of own) t.dispose();
  };
  let adapter: Adapter;
  try {
    adapter = addAdapter(model, config, parameters, 0, { weights: options.weights, unstarted: true });
  } catch (error) {
    release();
    throw error;
  }
  for (const [key, name] of placed) {
    const spec = specs.get(name), data = Float32Array.from(tensors.get(key)!.data);
    parameters.get(name)!.write(spec ? fromStored(spec, data) : data);
  }
  const detach = adapter.remove;
  adapter.remove = () => {
    detach();
    release();
  };
  return adapter;
}
