/**
 * `adapter_config.json`: the settings of a LoRA adapter as PEFT writes them.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { isObject } from "./file.ts";

/** Ways of starting A and B that PEFT names; others are kept as they are. */
export type InitLoraWeights = boolean | string;

/** An adapter that was merged into a base. */
export interface MergedAdapter {
  /** Its folder or Hub name. */
  adapter: string;
  /** SHA-256 of its weights' file. */
  adapter_hash: string;
  /** `base_model_name_or_path` and `revision` that it was trained on. */
  base: string | null;
  base_revision: string | null;
  /** `contentHash` of that base, where it was recorded. */
  base_hash?: string;
}

/**
 * Where an adapter comes from: what nibble records beyond PEFT's fields. It stands in `auto_mapping`, the one field
 * that all versions of PEFT read as a free map and ignore where there is a `task_type`; a key of its own is refused
 * by older versions.
 */
export interface AdapterProvenance {
  /** `contentHash` of the base model. */
  base_hash?: string;
  /** How the base was held in training, e.g. `nf4` or `nf4+double`. */
  base_quantization?: string;
  /** Adapters that had been merged into the base before, oldest first. */
  parents?: MergedAdapter[];
  /** How A and B began, where the file must say `true` because their beginning is already accounted for. */
  init_lora_weights?: InitLoraWeights;
}

/** Key of config.json under which a merged model lists its {@link MergedAdapter}s. */
export const MERGED_ADAPTERS = "nibble_merged_adapters";

/**
 * PEFT's `LoraConfig`, the fields that all its versions since 0.9 read (newer fields have defaults there, while
 * older versions refuse fields that they don't know).
 */
export interface AdapterConfig {
  /** Kind of adapter. */
  peft_type: "LORA";
  /** `CAUSAL_LM` for language models. */
  task_type: string | null;
  /** Name or path of the base. */
  base_model_name_or_path: string | null;
  /** Revision of the base on the Hub. */
  revision: string | null;
  /** Always saved true; PEFT takes it as "do not train unless told". */
  inference_mode: boolean;
  /** For base classes that PEFT does not know. */
  auto_mapping: Record<string, unknown> | null;
  /** Rank. */
  r: number;
  /** Numerator of the scale. */
  lora_alpha: number;
  /** Dropped share of the input to A, in [0, 1). */
  lora_dropout: number;
  /** Module names or their ends, a regular expression, or `"all-linear"`. */
  target_modules: string[] | string | null;
  /** Whether the base's weights are stored `[in, out]` (GPT-2). */
  fan_in_fan_out: boolean;
  /** Which biases are trained and saved. */
  bias: "none" | "all" | "lora_only";
  /** Scale by alpha/√r. */
  use_rslora: boolean;
  /** Whether magnitude and direction are apart (DoRA). */
  use_dora: boolean;
  /** How A and B began. */
  init_lora_weights: InitLoraWeights;
  /** Modules left out of `target_modules`, named likewise. */
  exclude_modules: string[] | string | null;
  /** Modules trained and saved whole. */
  modules_to_save: string[] | null;
  /** Only these layers. */
  layers_to_transform: number[] | number | null;
  /** Name of the list of layers, for `layers_to_transform`. */
  layers_pattern: string[] | string | null;
  /** Ranks that differ from `r`, by regular expression. */
  rank_pattern: Record<string, number>;
  /** Alphas that differ from `lora_alpha`, by regular expression. */
  alpha_pattern: Record<string, number>;
  /** Settings of LoftQ. */
  loftq_config: Record<string, unknown>;
  /** Ranges of layers that are repeated. */
  layer_replication: [number, number][] | null;
  /** For Megatron; kept as it is. */
  megatron_config: Record<string, unknown> | null;
  /** For Megatron; kept as it is. */
  megatron_core: string | null;
  /** nibble's own record, `auto_mapping.nibble` in the file. */
  nibble?: AdapterProvenance;
}

/**
 * A whole config from the fields that matter, PEFT's defaults for the rest.
 *
 * @example
 * ```ts
 * import { adapterConfig } from "./peft_config.ts";
 * const config = adapterConfig({ r: 16, lora_alpha: 16, target_modules: ["q_proj", "v_proj"] });
 * if (config.peft_type !== "LORA" || config.bias !== "none") throw new Error("defaults");
 * ```
 */
export function adapterConfig(fields: Partial<AdapterConfig> = {}): AdapterConfig {
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: null,
    revision: null,
    inference_mode: true,
    auto_mapping: null,
    r: 8,
    lora_alpha: 8,
    lora_dropout: 0,
    target_modules: null,
    fan_in_fan_out: false,
    bias: "none",
    use_rslora: false,
    use_dora: false,
    init_lora_weights: true,
    exclude_modules: null,
    modules_to_save: null,
    layers_to_transform: null,
    layers_pattern: null,
    rank_pattern: {},
    alpha_pattern: {},
    loftq_config: {},
    layer_replication: null,
    megatron_config: null,
    megatron_core: "megatron.core",
    ...fields,
  };
}

/** Fields of newer PEFT that change what an adapter computes: with any of them set, ignoring it would be wrong. */
const CHANGES_MEANING = [
  "alora_invocation_tokens",
  "arrow_config",
  "ensure_weight_tying",
  "kasa_config",
  "lora_bias",
  "monteclora_config",
  "target_parameters",
  "trainable_token_indices",
  "use_bdlora",
  "use_qalora",
  "velora_config",
  "layer_replication",
];

/**
 * Check a parsed `adapter_config.json` and fill in PEFT's defaults. Unknown fields are dropped, as PEFT does.
 * @throws NibbleError `formats/adapter-config`, naming the field
 */
export function parseAdapterConfig(json: unknown, path: string): AdapterConfig {
  const bad = (key: string, what: string, remedy = "Correct the field.") =>
    new NibbleError("formats/adapter-config", what, { where: `${path}, key "${key}"`, remedy });
  if (!isObject(json)) throw bad("peft_type", "The file must hold a JSON object");
  if (json["peft_type"] !== "LORA") {
    throw bad(
      "peft_type",
      `Adapters of kind ${JSON.stringify(json["peft_type"])} cannot be read`,
      "Only LoRA adapters (peft_type LORA) can.",
    );
  }
  for (const key of CHANGES_MEANING) {
    const value = json[key];
    if (value !== undefined && value !== null && value !== false) {
      throw bad(key, "The adapter needs this, and nibble does not have it", "Use PEFT for this adapter.");
    }
  }
  const config = adapterConfig();
  for (const key of Object.keys(config) as (keyof AdapterConfig)[]) {
    if (json[key] !== undefined) Object.assign(config, { [key]: json[key] });
  }
  if (isObject(config.auto_mapping) && isObject(config.auto_mapping["nibble"])) {
    const { nibble, ...rest } = config.auto_mapping;
    config.nibble = nibble as AdapterProvenance;
    config.auto_mapping = Object.keys(rest).length > 0 ? rest : null;
  }
  const { r, lora_alpha: alpha, lora_dropout: dropout, target_modules: targets } = config;
  if (!Number.isInteger(r) || r < 1) throw bad("r", `The rank must be a whole number above 0, not ${r}`);
  if (!Number.isFinite(alpha)) throw bad("lora_alpha", `It must be a number, not ${JSON.stringify(alpha)}`);
  if (!(dropout >= 0 && dropout < 1)) throw bad("lora_dropout", `It must lie in [0, 1), not ${dropout}`);
  const named = Array.isArray(targets)
    ? targets.every((t) => typeof t === "string")
    : typeof targets === "string";
  if (targets !== null && !named) {
    throw bad("target_modules", "It must be a list of names, a string, or null");
  }
  if (!["none", "all", "lora_only"].includes(config.bias)) {
    throw bad("bias", `It must be none, all or lora_only, not ${JSON.stringify(config.bias)}`);
  }
  for (const key of ["rank_pattern", "alpha_pattern"] as const) {
    if (!isObject(config[key]) || Object.values(config[key]).some((v) => typeof v !== "number")) {
      throw bad(key, "It must map names to numbers");
    }
  }
  return config;
}

/** The text of `adapter_config.json`: PEFT's form, keys sorted. */
export function formatAdapterConfig(config: AdapterConfig): string {
  const { nibble, exclude_modules, ...fields } = config;
  const all = {
    ...fields,
    ...(nibble ? { auto_mapping: { ...fields.auto_mapping, nibble } } : {}),
    ...(exclude_modules === null ? {} : { exclude_modules }), // not known before PEFT 0.14
  };
  const sets = new Set(["exclude_modules", "target_modules", "modules_to_save"]);
  const sorted = Object.entries(all)
    .sort(([a], [b]) => a < b ? -1 : 1)
    .map(([key, value]) => [key, sets.has(key) && Array.isArray(value) ? [...value].sort() : value]);
  return JSON.stringify(Object.fromEntries(sorted), null, 2) + "\n";
}
