/**
 * Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): adapters around linear layers, with the backward by hand.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  baseBackward,
  baseForward,
  baseLinear,
  type ForwardContext,
  type LinearLayer,
} from "../model/linear.ts";
import type { Model } from "../model/model.ts";
import { hashText, uniform } from "../model/random_source.ts";
import { dropoutOnly } from "../tensor/ops/dropout.ts";
import { biasGradient, product, productInto } from "../tensor/ops/linear.ts";
import { record } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Settings of an adapter, under PEFT's names. */
export interface LoraConfig {
  r: number;
  lora_alpha: number;
  lora_dropout: number;
  use_rslora: boolean;
  /** Module names, a regular expression for the whole path, or `all-linear`. */
  target_modules: readonly string[] | string;
}

/** One adapted layer. */
export interface LoraLayer {
  readonly layer: LinearLayer;
  /** `[r, in]`. */
  readonly a: Tensor;
  /** `[out, r]`. */
  readonly b: Tensor;
  /** alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023, arXiv 2312.03732). */
  readonly scaling: number;
}

/** An adapter on a model. */
export interface Adapter {
  readonly config: LoraConfig;
  readonly layers: ReadonlyMap<string, LoraLayer>;
  /** Off: the model is its base again, which is DPO's reference. */
  enabled: boolean;
  remove(): void;
}

/**
 * Modules that `target_modules` names, by PEFT's rules: a list matches whole path ends, a string is a regular
 * expression for the whole path, `all-linear` is every linear layer but the head.
 *
 * @throws NibbleError `lora/no-target` when nothing matches
 */
export function targetModules(model: Model, targets: readonly string[] | string): string[] {
  const all = [...model.linears.keys()];
  let matched: string[];
  if (isAllLinear(targets)) matched = all;
  else if (typeof targets === "string") matched = all.filter((m) => new RegExp(`^(?:${targets})$`).test(m));
  else matched = all.filter((m) => targets.some((t) => m === t || m.endsWith(`.${t}`)));
  if (matched.length === 0) {
    const names = [...new Set(all.map((m) => m.split(".").at(-1)!))];
    throw new NibbleError(
      "lora/no-target",
      `No module matches lora_target_modules ${JSON.stringify(targets)}`,
      {
        remedy: `This model has ${names.join(", ")}; or use all-linear.`,
      },
    );
  }
  return matched;
}

/** Whether `target_modules` is the word for every linear layer but the head, alone or in a list. */
export function isAllLinear(targets: readonly string[] | string): boolean {
  return typeof targets === "string"
    ? targets === "all-linear"
    : targets.length === 1 && targets[0] === "all-linear";
}

/** Names and shapes of an adapter's parameters, in order, as PEFT names them inside `base_model.model.`. */
export function adapterShapes(
  model: Model,
  config: LoraConfig,
): { module: string; name: string; shape: [number, number] }[] {
  return targetModules(model, config.target_modules).flatMap((module) => {
    const [out, into] = model.linears.get(module)!.shape;
    return [
      { module, name: `${module}.lora_A.weight`, shape: [config.r, into] as [number, number] },
      { module, name: `${module}.lora_B.weight`, shape: [out, config.r] as [number, number] },
    ];
  });
}

/**
 * Puts adapters on a model.
 *
 * @param parameters the tensors by name, from {@link adapterShapes}; their values are written here: A uniform in
 *   ±1/sqrt(in), which is PEFT's Kaiming initialisation with a = sqrt(5), and B zero, so that training starts
 *   from the base
 */
export function addAdapter(
  model: Model,
  config: LoraConfig,
  parameters: ReadonlyMap<string, Tensor>,
  seed: number,
): Adapter {
  const scaling = config.lora_alpha / (config.use_rslora ? Math.sqrt(config.r) : config.r);
  const layers = new Map<string, LoraLayer>();
  for (const module of targetModules(model, config.target_modules)) {
    const layer = model.linears.get(module)!;
    const a = parameters.get(`${module}.lora_A.weight`)!;
    const b = parameters.get(`${module}.lora_B.weight`)!;
    const key = hashText(module) ^ Math.imul(seed + 1, 0x9e3779b1);
    const bound = 1 / Math.sqrt(layer.shape[1]);
    a.write(Float32Array.from({ length: a.size }, (_, i) => (2 * uniform(key, i) - 1) * bound));
    b.write(new Float32Array(b.size));
    layers.set(module, { layer, a, b, scaling });
  }
  const adapter: Adapter = {
    config,
    layers,
    enabled: true,
    remove() {
      for (const { layer } of layers.values()) layer.adapter = undefined;
    },
  };
  for (const lora of layers.values()) {
    const seedOf = hashText(lora.layer.module);
    lora.layer.adapter = (x, context) =>
      adapter.enabled ? loraLinear(lora, x, config.lora_dropout, context, seedOf) : baseLinear(lora.layer, x);
  }
  return adapter;
}

/**
 * `y = x Wᵀ + bias + s (drop(x) Aᵀ) Bᵀ`. Bracketed through the rank in both directions, so nothing of the size of W is
 * ever made for the adapter: with h = drop(x) Aᵀ and dh = s dy B,
 * `dB += s dyᵀ h`, `dA += dhᵀ drop(x)`, `dx = dy W + dropᵀ(dh A)`.
 */
function loraLinear(
  lora: LoraLayer,
  x: Tensor,
  rate: number,
  context: ForwardContext,
  layerSeed: number,
): Tensor {
  const { layer: { weight, bias }, a, b, scaling: s } = lora;
  const seed = context.dropoutSeed === undefined ? undefined : (context.dropoutSeed ^ layerSeed) >>> 0;
  const dropping = rate > 0 && seed !== undefined;
  const dropped = dropping ? dropoutOnly(x, rate, seed) : x; // (M, in)
  const h = product("nt", dropped, a); // (M, r)
  const y = baseForward(weight, x, bias);
  productInto("nt", h, b, y, s);
  return record("loraLinear", y, [x, a, b, bias], (dy) => {
    const dBias = biasGradient(bias, dy);
    const dh = product("nn", dy, b, s); // (M, r)
    productInto("tn", dy, h, b.grad!, s);
    productInto("tn", dh, dropped, a.grad!);
    if (!x.requiresGrad) return [undefined, undefined, undefined, dBias];
    const dx = baseBackward(weight, dy);
    if (dropping) {
      return [dropoutOnly(product("nn", dh, a), rate, seed, dx), undefined, undefined, dBias];
    }
    productInto("nn", dh, a, dx);
    return [dx, undefined, undefined, dBias];
  });
}
