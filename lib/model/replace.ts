/**
 * Other tensors in the place of a model's parameters, for those that an adapter trains whole.
 * @module
 */
import type { Tensor } from "../tensor/tensor.ts";
import type { Norm } from "./block.ts";
import type { LinearLayer } from "./linear.ts";
import type { Model } from "./model.ts";

/** Where the forward pass looks a parameter up. */
export interface ParameterPlace {
  get(): LinearLayer["weight"] | undefined;
  set(t: Tensor): void;
}

/**
 * The place of a parameter by Hugging Face's name; `lm_head.weight` is the head's, also where it is tied to the
 * embedding: filling it unties the two. `model.parameters` and what it disposes stay as they were loaded.
 *
 * @returns undefined for a name that the model does not have
 */
export function parameterPlace(model: Model, name: string): ParameterPlace | undefined {
  const module = name.replace(/\.(weight|bias)$/, "");
  const field = name.slice(module.length + 1);
  const { names } = model.config.family;
  const top: Record<string, keyof Model> = {
    [names.embed]: "embed",
    lm_head: "head",
    ...(names.positions ? { [names.positions]: "positionEmbed" } : {}),
  };
  if (Object.hasOwn(top, module) && field === "weight") return placeIn(model, top[module]!);
  const layer = model.linears.get(module);
  if (layer) return placeIn(layer, field as "weight" | "bias");
  const norms = new Map<string, Norm | undefined>([[names.norm, model.norm]]);
  model.blocks.forEach((block, i) => {
    const at = `${names.layers}.${i}.`;
    norms.set(at + names.inputNorm, block.inputNorm);
    norms.set(at + names.postNorm, block.postNorm);
    if (names.qNorm) norms.set(at + names.qNorm, block.qNorm);
    if (names.kNorm) norms.set(at + names.kNorm, block.kNorm);
  });
  const norm = norms.get(module);
  return norm && placeIn(norm, field as keyof Norm);
}

function placeIn<T extends object>(owner: T, key: keyof T): ParameterPlace {
  const place = owner as Record<keyof T, unknown>;
  return {
    get: () => place[key] as Tensor | undefined,
    set: (t) => place[key] = t,
  };
}
