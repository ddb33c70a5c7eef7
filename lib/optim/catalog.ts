/**
 * Which optimizers there are, by Transformers' names (`OptimizerNames`), and what each takes. No device is needed.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { nearest } from "../nearest.ts";

/** Values of `optim_args`. */
export type OptimArgs = Readonly<Record<string, number | boolean>>;

interface Rule {
  /** Keys that Trainer reads from `optim_args`, with PyTorch's defaults. */
  args: OptimArgs;
  /** Settings of the run that it reads beside `learning_rate`, `weight_decay` and `max_grad_norm`. */
  reads: readonly string[];
}

/** Update rules. */
export const RULES = {
  adamw: { args: {}, reads: ["adam_beta1", "adam_beta2", "adam_epsilon"] },
  lion: { args: {}, reads: ["adam_beta1", "adam_beta2"] },
  sgd: { args: { momentum: 0, dampening: 0, nesterov: false }, reads: [] },
  rmsprop: { args: { momentum: 0, alpha: 0.99, eps: 1e-8, centered: false }, reads: [] },
  adagrad: { args: { lr_decay: 0, eps: 1e-10 }, reads: [] },
  adafactor: { args: {}, reads: [] },
} as const satisfies Record<string, Rule>;

/** Name of an update rule. */
export type RuleName = keyof typeof RULES;

/** An optimizer: a rule, the width of its state, and where the state lives. */
export interface OptimizerEntry {
  readonly rule: RuleName;
  /** Bits of the state of large parameters. */
  readonly bits: 32 | 8;
  /** Whether state that the device has no room for lies in host memory. */
  readonly paged: boolean;
}

const entry = (rule: RuleName, bits: 32 | 8 = 32, paged = false): OptimizerEntry => ({ rule, bits, paged });

const TABLE = {
  adamw_torch: entry("adamw"),
  adamw_bnb_8bit: entry("adamw", 8),
  paged_adamw_32bit: entry("adamw", 32, true),
  paged_adamw_8bit: entry("adamw", 8, true),
  rmsprop: entry("rmsprop"),
  sgd: entry("sgd"),
  adafactor: entry("adafactor"),
  adagrad: entry("adagrad"),
  lion_32bit: entry("lion"),
  lion_8bit: entry("lion", 8),
  paged_lion_32bit: entry("lion", 32, true),
  paged_lion_8bit: entry("lion", 8, true),
};

/** Name of an optimizer, aliases resolved. */
export type OptimizerName = keyof typeof TABLE;

/** All optimizers. */
export const OPTIMIZERS = Object.keys(TABLE) as readonly OptimizerName[];

/** Other names of the same numbers. The fused form of PyTorch computes what the plain one does. */
export const OPTIMIZER_ALIASES: Readonly<Record<string, OptimizerName>> = {
  adamw_torch_fused: "adamw_torch",
  adamw_8bit: "adamw_bnb_8bit",
  paged_adamw: "paged_adamw_32bit",
};

/**
 * Resolves a value of `optim`.
 *
 * @throws NibbleError `optim/unknown` with the nearest name
 * @example
 * ```ts
 * import { findOptimizer } from "./catalog.ts";
 * const { name, bits, paged } = findOptimizer("adamw_8bit");
 * if (name !== "adamw_bnb_8bit" || bits !== 8 || paged) throw new Error("Trainer's other name for it");
 * ```
 */
export function findOptimizer(optim: string): OptimizerEntry & { name: OptimizerName } {
  const name = Object.hasOwn(OPTIMIZER_ALIASES, optim) ? OPTIMIZER_ALIASES[optim]! : optim;
  if (Object.hasOwn(TABLE, name)) return { name: name as OptimizerName, ...TABLE[name as OptimizerName] };
  const all = [...OPTIMIZERS, ...Object.keys(OPTIMIZER_ALIASES)];
  const near = nearest(optim, all);
  throw new NibbleError("optim/unknown", `Unknown optimizer '${optim}'`, {
    where: "optim",
    remedy: `${near ? `Did you mean ${near}? ` : ""}Use one of: ${all.join(", ")}.`,
  });
}

/**
 * Reads `optim_args` as Trainer does: `name=value,name=value`, blanks ignored; `true`, `1` and `yes` are true. Keys
 * that Trainer would pass over in silence are refused.
 *
 * @returns all arguments of the optimizer, those not given at PyTorch's defaults
 * @throws NibbleError `optim/unknown`, `optim/args`
 * @example
 * ```ts
 * import { readOptimArgs } from "./catalog.ts";
 * const args = readOptimArgs("sgd", "momentum=0.9, nesterov=true");
 * if (args.momentum !== 0.9 || args.nesterov !== true || args.dampening !== 0) throw new Error("sgd's three");
 * ```
 */
export function readOptimArgs(optim: string, text: string | null | undefined): OptimArgs {
  const { name, rule } = findOptimizer(optim);
  const known: OptimArgs = RULES[rule].args;
  const refuse = (what: string, remedy: string): never => {
    throw new NibbleError("optim/args", what, { where: `optim_args: ${text}`, remedy });
  };
  const args: Record<string, number | boolean> = { ...known };
  for (const part of (text ?? "").replaceAll(" ", "").split(",").filter(Boolean)) {
    const [key, value, ...rest] = part.split("=") as [string, string?, ...string[]];
    if (value === undefined || rest.length > 0) {
      refuse(`'${part}' is not name=value`, "Write momentum=0.9,nesterov=true.");
    }
    if (key === "weight_decay") {
      refuse("weight_decay in optim_args has no effect in Trainer", "Use the setting weight_decay.");
    }
    if (!Object.hasOwn(known, key)) {
      const takes = Object.keys(known);
      refuse(
        `${name} takes no argument '${key}'`,
        takes.length ? `It takes ${takes.join(", ")}.` : "It takes none.",
      );
    }
    args[key] = typeof known[key] === "boolean"
      ? ["true", "1", "yes"].includes(value!.toLowerCase())
      : value === ""
      ? NaN
      : Number(value);
    if (Number.isNaN(args[key])) {
      refuse(`${key} must be a number, got '${value}'`, `Write ${key}=${known[key]}.`);
    }
  }
  const negative = Object.keys(args).find((key) => (args[key] as number) < 0);
  if (negative && negative !== "dampening") {
    refuse(`${negative} must not be negative`, `Write ${negative}=${known[negative]}.`);
  }
  if (args.nesterov && !((args.momentum as number) > 0 && args.dampening === 0)) {
    refuse("nesterov needs a momentum above 0 and no dampening", "Add momentum=0.9, or remove nesterov.");
  }
  return args;
}
