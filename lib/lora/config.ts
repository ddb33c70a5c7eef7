/**
 * Settings of an adapter, under PEFT's names.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { AdapterConfig, InitLoraWeights } from "../formats/mod.ts";

/** Settings of an adapter, under PEFT's names; what may be left out has PEFT's default. */
export interface LoraConfig {
  /** Rank: rows of A, columns of B. */
  r: number;
  /** The adapter's output is multiplied by `lora_alpha / r`, or with rsLoRA by `lora_alpha / sqrt(r)`. */
  lora_alpha: number;
  /** Share of the adapter's inputs that is zeroed in training, 0 to 1. */
  lora_dropout: number;
  /** Scale by the root of the rank (Kalajdzievski 2023, arXiv 2312.03732). */
  use_rslora: boolean;
  /** Module names, a regular expression for the whole path, or `all-linear`. */
  target_modules: readonly string[] | string;
  /** Modules left out, named as in `target_modules`. */
  exclude_modules?: readonly string[] | string | null;
  /** Ranks that differ from `r`, by a regular expression for the end of a module's path. */
  rank_pattern?: Readonly<Record<string, number>>;
  /** Alphas that differ from `lora_alpha`, likewise. */
  alpha_pattern?: Readonly<Record<string, number>>;
  /** Only these layers; with a list of `target_modules`. */
  layers_to_transform?: readonly number[] | number | null;
  /** Name of the list of layers, where the first number in a path is not the layer's. */
  layers_pattern?: readonly string[] | string | null;
  /** Modules trained in full, as copies beside the base. */
  modules_to_save?: readonly string[] | null;
  /** Which biases of the base train: none, all, or those of adapted layers. */
  bias?: "none" | "all" | "lora_only";
  /** Magnitude and direction apart (DoRA, Liu et al. 2024, arXiv 2402.09353). */
  use_dora?: boolean;
  /** How A and B begin; see {@link initOf}. */
  init_lora_weights?: InitLoraWeights;
  /** Kept beside `init_lora_weights: loftq`: 4 bits and one iteration are what there is. */
  loftq_config?: Readonly<Record<string, unknown>>;
}

/** How A and B begin, read from `init_lora_weights`. */
export type Init =
  | { kind: "default" }
  | { kind: "gaussian" }
  | { kind: "random" }
  | { kind: "olora" }
  /** The largest singular triplets; `niter` power iterations of a random start, or to convergence. */
  | { kind: "pissa"; niter: number | undefined }
  | { kind: "loftq" }
  /** Begins plainly; `correctQuantization` overwrites so many ranks, or half, once there is something to read. */
  | { kind: "qera"; ranks: number | undefined };

/**
 * Reads `init_lora_weights`: `true` (A Kaiming-uniform, B zero), `false` (both random, for tests), `gaussian`,
 * `pissa`, `pissa_niter_N`, `olora`, `loftq`, `qera`, `qera_rank_N`.
 *
 * @throws NibbleError `lora/init` for another name, and for LoftQ other than of 4 bits and one iteration
 */
export function initOf(config: LoraConfig): Init {
  const given = config.init_lora_weights ?? true;
  if (given === true) return { kind: "default" };
  if (given === false) return { kind: "random" };
  const name = given.toLowerCase();
  if (name === "gaussian" || name === "olora") return { kind: name };
  const pissa = /^pissa(?:_niter_(\d+))?$/.exec(name);
  if (pissa) return { kind: "pissa", niter: pissa[1] === undefined ? undefined : Number(pissa[1]) };
  const qera = /^qera(?:_rank_([1-9]\d*))?$/.exec(name);
  if (qera) return { kind: "qera", ranks: qera[1] === undefined ? undefined : Number(qera[1]) };
  const { loftq_bits: bits = 4, loftq_iter: iterations = 1 } = config.loftq_config ?? {};
  if (name === "loftq" && bits === 4 && iterations === 1) return { kind: "loftq" };
  throw new NibbleError(
    "lora/init",
    name === "loftq"
      ? `loftq_config ${JSON.stringify(config.loftq_config)} is not supported`
      : `init_lora_weights: ${given} is not supported`,
    {
      remedy: name === "loftq"
        ? "loftq_bits is 4 and loftq_iter 1: then the base stays what the files say, in 4 bits."
        : "Supported: true, false, gaussian, pissa, pissa_niter_N, olora, loftq, qera, qera_rank_N.",
    },
  );
}

/** The settings of a saved adapter. `targets` are the family's own where it names none, as in PEFT. */
export function loraConfigOf(saved: AdapterConfig, targets: readonly string[]): LoraConfig {
  const { r, lora_alpha, lora_dropout, use_rslora, use_dora, bias, rank_pattern, alpha_pattern } = saved;
  const { exclude_modules, layers_to_transform, layers_pattern, modules_to_save } = saved;
  const { init_lora_weights, loftq_config } = saved;
  return {
    ...{ r, lora_alpha, lora_dropout, use_rslora, use_dora, bias, rank_pattern, alpha_pattern },
    ...{ exclude_modules, layers_to_transform, layers_pattern, modules_to_save },
    ...{ init_lora_weights, loftq_config },
    target_modules: saved.target_modules ?? targets,
  };
}
