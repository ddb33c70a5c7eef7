/**
 * Which modules an adapter changes, and with what rank and scale: PEFT's rules.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { Model } from "../model/model.ts";
import { nearest } from "../nearest.ts";
import { isEmbedding, parameterShapes, type ParameterSpec } from "../model/parameters.ts";
import { decays } from "../optim/mod.ts";
import type { LoraConfig } from "./config.ts";

/**
 * Modules that `target_modules` names, by PEFT's rules: a list matches whole path ends, a string is a regular
 * expression for the whole path, `all-linear` is every linear layer but the head. What `exclude_modules` or
 * `modules_to_save` names is left out; `layers_to_transform` keeps only some layers of a list.
 *
 * @throws NibbleError `lora/no-target` when nothing matches, `lora/pattern` for settings that do not go together
 */
export function targetModules(
  model: Model,
  config: Omit<LoraConfig, "r" | "lora_alpha" | "lora_dropout" | "use_rslora">,
): string[] {
  const { target_modules: targets, exclude_modules: exclude, layers_to_transform: layers } = config;
  const all = [...model.linears.keys()];
  const free = all.filter((m) => !(exclude?.length && named(exclude, m)) && !isSaved(config, m));
  if (layers !== undefined && layers !== null && typeof targets === "string") {
    throw new NibbleError("lora/pattern", "layers_to_transform needs a list of target_modules", {
      where: `target_modules: ${targets}`,
      remedy: "List the modules' names, or put the layers' numbers into the regular expression.",
    });
  }
  const matched = isAllLinear(targets)
    ? free
    : free.filter((m) => named(targets, m) && (targets.includes(m) || inLayers(config, m)));
  if (matched.length === 0) {
    const names = [...new Set(all.map((m) => m.split(".").at(-1)!))];
    const also = [exclude?.length && "exclude_modules", config.modules_to_save?.length && "modules_to_save"];
    throw new NibbleError(
      "lora/no-target",
      `No module matches lora_target_modules ${JSON.stringify(targets)}`,
      {
        ...(also.some(Boolean) ? { where: `after ${also.filter(Boolean).join(" and ")}` } : {}),
        remedy: `This model has ${names.join(", ")}; or use all-linear.`,
      },
    );
  }
  return matched;
}

/**
 * A line about each name in a list of `target_modules` that no module of the model has: PEFT passes over it in silence,
 * and so does training.
 */
export function unmatchedTargets(
  modules: Iterable<string>,
  targets: readonly string[] | string,
): string[] {
  if (typeof targets === "string" || isAllLinear(targets)) return [];
  const all = [...modules], last = [...new Set(all.map((m) => m.split(".").at(-1)!))];
  return targets.filter((name) => !all.some((m) => named([name], m))).map((name) => {
    const near = nearest(name, name.includes(".") ? all : last);
    return `lora_target_modules: '${name}' matches no layer and is passed over; ` +
      (near === undefined ? `this model has ${last.join(", ")}` : `the nearest name is ${near}`);
  });
}

/** Whether `target_modules` is the word for every linear layer but the head, alone or in a list. */
export function isAllLinear(targets: readonly string[] | string): boolean {
  return typeof targets === "string"
    ? targets === "all-linear"
    : targets.length === 1 && targets[0] === "all-linear";
}

/** Whether a module's path is one of `names` or ends in one, or matches the regular expression as a whole. */
function named(names: readonly string[] | string, module: string): boolean {
  if (typeof names === "string") return pattern(`^(?:${names})$`, names).test(module);
  return names.some((n) => module === n || module.endsWith(`.${n}`));
}

/** PEFT's test for modules that are trained whole and therefore get no adapter. */
function isSaved({ modules_to_save: saved }: Pick<LoraConfig, "modules_to_save">, module: string): boolean {
  return (saved ?? []).some((m) => pattern(`^(?:.*\\.)?${m}(?:$|\\..*)`, m).test(module));
}

/** The layer is the first number in the path, or with `layers_pattern` the number after that name. */
function inLayers(
  { layers_to_transform: layers, layers_pattern }: Pick<LoraConfig, "layers_to_transform" | "layers_pattern">,
  module: string,
): boolean {
  if (layers === undefined || layers === null || (typeof layers !== "number" && layers.length === 0)) {
    return true;
  }
  const lists = typeof layers_pattern === "string" ? [layers_pattern] : layers_pattern ?? [];
  const found = lists.filter(Boolean).length === 0
    ? /^.*?\.[^.]*\.(\d+)\./.exec(module)
    : lists.map((l) => pattern(`^(?:|.*?\\.)${l}\\.(\\d+)\\.`, l).exec(module)).find((m) => m !== null);
  if (!found) return false;
  const index = Number(found.at(-1));
  return typeof layers === "number" ? index === layers : layers.includes(index);
}

/** A Python regular expression in JavaScript; groups' names are the one difference that occurs. */
function pattern(source: string, given: string): RegExp {
  try {
    return new RegExp(source.replaceAll("(?P<", "(?<"));
  } catch (cause) {
    throw new NibbleError("lora/pattern", `'${given}' is not a regular expression`, {
      where: (cause as Error).message,
      remedy: "Correct it, or list the modules' names.",
      cause,
    });
  }
}

/** What a pattern map says of a module: the first key that matches the end of its path decides, as in PEFT. */
function lookUp(
  map: Readonly<Record<string, number>> | undefined,
  module: string,
  otherwise: number,
): number {
  const key = Object.keys(map ?? {}).find((k) => pattern(`^(?:.*\\.)?(?:${k})$`, k).test(module));
  return key === undefined ? otherwise : map![key]!;
}

/** Rank and scale of a module's adapter: alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732). */
export function rankAndScale(config: LoraConfig, module: string): { r: number; scaling: number } {
  const r = lookUp(config.rank_pattern, module, config.r);
  if (!Number.isInteger(r) || r < 1) {
    throw new NibbleError("lora/pattern", `The rank of '${module}' is ${r}`, {
      where: "rank_pattern",
      remedy: "Ranks are whole numbers from 1.",
    });
  }
  const alpha = lookUp(config.alpha_pattern, module, config.lora_alpha);
  return { r, scaling: alpha / (config.use_rslora ? Math.sqrt(r) : r) };
}

/** A parameter that an adapter trains. */
export interface TrainableSpec {
  /** Its module's path. */
  module: string;
  /** PEFT's name inside `base_model.model.`. */
  name: string;
  shape: number[];
  /** Whether weight decay applies: as in Trainer, not to biases and norms. */
  decay: boolean;
  /** 32 where Trainer keeps the optimizer's state in 32 bits: embeddings. */
  optim_bits?: 32 | undefined;
}

/**
 * Names and shapes of all that an adapter trains, in order, as PEFT names them inside `base_model.model.`: A and B
 * (and DoRA's magnitude) of every layer, then modules trained whole, then biases.
 *
 * @throws NibbleError `lora/no-target`, `lora/pattern`
 */
export function adapterShapes(model: Model, config: LoraConfig): TrainableSpec[] {
  const targets = targetModules(model, config);
  const factors = targets.flatMap((module): TrainableSpec[] => {
    const [out, into] = model.linears.get(module)!.shape;
    const { r } = rankAndScale(config, module);
    return [
      { module, name: `${module}.lora_A.weight`, shape: [r, into], decay: true },
      { module, name: `${module}.lora_B.weight`, shape: [out, r], decay: true },
      ...(config.use_dora
        ? [{ module, name: `${module}.lora_magnitude_vector`, shape: [out], decay: true }]
        : []),
    ];
  });
  return [...factors, ...wholeParameters(model, config, targets)];
}

/** Parameters of the base that train as copies: those of `modules_to_save`, and biases. */
function wholeParameters(model: Model, config: LoraConfig, targets: readonly string[]): TrainableSpec[] {
  const { modules_to_save: saved, bias = "none" } = config;
  const specs = allParameters(model);
  const chosen = new Set<string>();
  for (const wanted of saved ?? []) {
    // by the end of a module's path, whole name or not, and all that the module holds
    const held = specs.filter(({ name }) => modulesAround(name).some((m) => m.endsWith(wanted)));
    if (held.length === 0) {
      const { embed, norm } = model.config.family.names;
      throw new NibbleError("lora/no-target", `No module matches lora_modules_to_save '${wanted}'`, {
        remedy: `This model has ${embed}, ${norm}, lm_head, and those inside its layers.`,
      });
    }
    for (const { name } of held) chosen.add(name);
  }
  const biased = new Set(targets.map((m) => `${m}.bias`));
  for (const { name } of specs) {
    if (bias !== "none" && name.endsWith(".bias") && (bias === "all" || biased.has(name))) chosen.add(name);
  }
  return specs.filter(({ name }) => chosen.has(name)).map((spec) => ({
    module: spec.name.replace(/\.(weight|bias)$/, ""),
    name: spec.name,
    shape: spec.shape,
    decay: decays(spec.name),
    optim_bits: isEmbedding(spec) ? 32 : undefined,
  }));
}

/** Every parameter, and the head also where it is tied to the embedding: PEFT trains a copy of it then. */
export function allParameters(model: Model): ParameterSpec[] {
  const specs = parameterShapes(model.config);
  const { embed } = model.config.family.names;
  return model.config.tie_word_embeddings
    ? [...specs, { ...specs.find((s) => s.name === `${embed}.weight`)!, name: "lm_head.weight" }]
    : specs;
}

/** `a.b`, `a` for `a.b.weight`. */
function modulesAround(name: string): string[] {
  const parts = name.split(".");
  return parts.slice(1).map((_, i) => parts.slice(0, i + 1).join("."));
}
