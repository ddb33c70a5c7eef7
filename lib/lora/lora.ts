/**
 * Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): adapters around linear layers, with the backward by hand.
 * @module
 */
import type { TensorSource } from "../formats/mod.ts";
import { baseBackward, baseForward, baseLinear, type LinearLayer } from "../model/linear.ts";
import type { Model } from "../model/model.ts";
import { hashText } from "../model/random_source.ts";
import type { Drop } from "../tensor/ops/dropout.ts";
import { biasGradient, product, productInto, type ProductOptions } from "../tensor/ops/linear.ts";
import { shareOperands } from "../tensor/ops/matmul_texture.ts";
import { add, mul } from "../tensor/ops/pointwise.ts";
import { noGrad, record } from "../tensor/tape.ts";
import { empty, keep, scope, type Tensor, tensor } from "../tensor/tensor.ts";
import { initOf, type LoraConfig } from "./config.ts";
import { type Dora, doraLinear, rowSquares, startMagnitude } from "./dora.ts";
import { fixedRanks, ofTraining, type RankMasks, rankMasks } from "./fixed_ranks.ts";
import { startLayer } from "./init.ts";
import { adapterShapes, rankAndScale, targetModules } from "./targets.ts";
import { modelSource, parameterShapes } from "../model/parameters.ts";
import { trainWhole, type WholeParameter } from "./whole.ts";

export type { LoraConfig } from "./config.ts";
export { adapterShapes, isAllLinear, targetModules, type TrainableSpec } from "./targets.ts";

/** One adapted layer. */
export interface LoraLayer {
  /** The linear layer under it. */
  readonly layer: LinearLayer;
  /** `[r, in]`. */
  readonly a: Tensor;
  /** `[out, r]`. */
  readonly b: Tensor;
  /** alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023, arXiv 2312.03732). */
  readonly scaling: number;
  /** Where some ranks hold a correction and do not train. */
  readonly masks: RankMasks | undefined;
  /** Magnitude and what its norm needs, with DoRA. */
  readonly dora: Dora | undefined;
  /**
   * A and B as they began, where that changed the base: then `W = base + s B A` of these is the model before
   * training.
   */
  readonly initial: { readonly a: Tensor; readonly b: Tensor } | undefined;
}

/** An adapter on a model. */
export interface Adapter {
  /** The model it is on. */
  readonly model: Model;
  /** Its settings. */
  readonly config: LoraConfig;
  /** The adapted layers by module path, such as `model.layers.0.mlp.up_proj`. */
  readonly layers: ReadonlyMap<string, LoraLayer>;
  /** Parameters of the base that train as copies (`modules_to_save`, `bias`), by name. */
  readonly whole: ReadonlyMap<string, WholeParameter>;
  /** Off: the model is its base again, which is DPO's reference. Unlike in PEFT, biases are the base's then too. */
  enabled: boolean;
  /** Takes it off the model. A base that the initialisation changed stays changed: load the model again. */
  remove(): void;
}

/** Options of {@link addAdapter}. */
export interface AddAdapterOptions {
  /** The base's files, which `pissa`, `olora` and `loftq` decompose. */
  weights?: TensorSource | undefined;
  /** Values follow, or do not matter: A and B need no start. A base that the initialisation changes is changed. */
  unstarted?: boolean;
  /** Nothing is decomposed: for planning. */
  rehearsal?: boolean | undefined;
}

/**
 * Puts adapters on a model.
 *
 * @param parameters the tensors by name, from {@link adapterShapes}; their values are written here, by default A
 *   uniform in ±1/sqrt(in), which is PEFT's Kaiming initialisation with a = sqrt(5), and B zero, so that training
 *   starts from the base
 * @throws NibbleError `lora/no-target`, `lora/pattern`, `lora/init`, `lora/needs-weights`, `lora/quantized`
 */
export function addAdapter(
  model: Model,
  config: LoraConfig,
  parameters: ReadonlyMap<string, Tensor>,
  seed: number,
  options: AddAdapterOptions = {},
): Adapter {
  const init = initOf(config);
  const layers = new Map<string, LoraLayer>();
  const own: Tensor[] = [];
  const mine = (t: Tensor) => (own.push(keep(t)), t);
  const whole = trainWhole(model, adapterShapes(model, config), parameters);
  const adapter = makeAdapter(model, config, layers, whole, own);
  const weights = options.weights && modelSource(options.weights, parameterShapes(model.config));
  try {
    for (const module of targetModules(model, config)) {
      const layer = model.linears.get(module)!;
      const { r, scaling } = rankAndScale(config, module);
      const a = parameters.get(`${module}.lora_A.weight`)!;
      const b = parameters.get(`${module}.lora_B.weight`)!;
      const start = startLayer(layer, r, scaling, init, seed, { ...options, weights });
      a.write(start.a);
      b.write(start.b);
      const initial = start.changedBase
        ? {
          a: mine(tensor(start.a, a.shape, "f32", "adapter")),
          b: mine(tensor(start.b, b.shape, "f32", "adapter")),
        }
        : undefined;
      let dora: Dora | undefined;
      if (config.use_dora) {
        const magnitude = parameters.get(`${module}.lora_magnitude_vector`)!;
        dora = { magnitude, squares: mine(rowSquares(layer.weight)) };
        startMagnitude({ layer, a, b, scaling }, dora);
      }
      const masks = rankMasks(fixedRanks(init, r), r, mine);
      layers.set(module, { layer, a, b, scaling, masks, dora, initial });
    }
  } catch (error) {
    adapter.remove();
    throw error;
  }
  for (const lora of layers.values()) install(lora, adapter);
  return adapter;
}

function makeAdapter(
  model: Model,
  config: LoraConfig,
  layers: ReadonlyMap<string, LoraLayer>,
  whole: ReadonlyMap<string, WholeParameter>,
  own: Tensor[],
): Adapter {
  let enabled = true;
  const place = (on: boolean) => {
    for (const { place, trained, base } of whole.values()) place.set(on ? trained : base);
  };
  place(true);
  return {
    model,
    config,
    layers,
    whole,
    get enabled() {
      return enabled;
    },
    set enabled(on) {
      place(enabled = on);
    },
    remove() {
      place(false);
      for (const { layer } of layers.values()) layer.adapter = layer.low = undefined;
      for (const t of own.splice(0)) t.dispose();
    },
  };
}

/** The layer's forward from now on. */
function install(lora: LoraLayer, adapter: Adapter): void {
  const { layer, dora, initial, scaling } = lora;
  const rate = adapter.config.lora_dropout;
  const layerSeed = hashText(layer.module);
  const before = initial && { ...lora, ...initial, dora: undefined };
  if (!dora) {
    layer.low = () => {
      const { a, b } = adapter.enabled ? lora : initial ?? {};
      return a && b && { a, b, alpha: scaling };
    };
  }
  layer.adapter = (x, context) => {
    const { dropoutSeed, unread = false } = context;
    if (!adapter.enabled) {
      return before ? loraLinear(before, x, undefined, scaling, unread) : baseLinear(layer, x, unread);
    }
    const drop = rate > 0 && dropoutSeed !== undefined
      ? { rate, seed: (dropoutSeed ^ layerSeed) >>> 0 }
      : undefined;
    return dora ? doraLinear(lora, dora, x, drop, context) : loraLinear(lora, x, drop, scaling, unread);
  };
}

/**
 * `y = x Wᵀ + bias + s (drop(x) Aᵀ) Bᵀ`. Bracketed through the rank in both directions, so nothing of the size of W is
 * ever made for the adapter: with h = drop(x) Aᵀ and dh = s dy B,
 * `dB += s dyᵀ h`, `dA += dhᵀ drop(x)`, `dx = dropᵀ(dh A) + dy W`. What dropout left of x is drawn again in the backward
 * rather than kept, since it is as large as x. Where the kernel can, base and adapter are one pass.
 */
function loraLinear(
  lora: Pick<LoraLayer, "layer" | "a" | "b" | "masks">,
  x: Tensor,
  drop: Drop | undefined,
  s: number,
  unread: boolean,
): Tensor {
  const { layer: { weight, bias }, a, b, masks } = lora;
  const dropped = (operand: "x" | "w") => drop ? { drop: { ...drop, operand } } : {};
  const down = (options: ProductOptions) => product("nt", x, a, options);
  const [h, y] = shareOperands([x], () => {
    const h = drop && masks // dropout falls on a part of the ranks
      ? scope(() => noGrad(() => add(mul(down(dropped("x")), masks.train), mul(down({}), masks.stay))))
      : down(dropped("x")); // (M, r)
    return [h, unread ? empty([x.rows, b.rows]) : baseForward(weight, x, bias, { x: h, w: b, alpha: s })];
  }) as [Tensor, Tensor];
  return record("loraLinear", y, [x, a, b, bias], (dy) => {
    const dBias = biasGradient(bias, dy);
    const dx = shareOperands([dy], () => {
      const dh = product("nn", dy, b, { alpha: s }); // (M, r)
      if (b.grad) productInto("tn", dy, ofTraining(h, masks), b.grad, { alpha: s });
      const trained = ofTraining(dh, masks);
      if (a.grad) productInto("tn", trained, x, a.grad, dropped("w"));
      if (!x.requiresGrad) return undefined;
      const apart = drop && masks;
      const dx = baseBackward(weight, dy, { x: apart ? trained : dh, w: a, alpha: 1, drop });
      if (apart) productInto("nn", mul(dh, masks.stay), a, dx);
      return dx;
    });
    return [dx, undefined, undefined, dBias];
  }, false);
}
