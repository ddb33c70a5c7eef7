/**
 * Settings of the model, its tokenizer, its quantization and its adapters.
 * @module
 */
import type { Setting } from "./kinds.ts";

// deno-fmt-ignore
/** Which model, tokenizer and chat template. */
export const MODEL = {
  model_name_or_path: { type: "string?", default: null, from: "TRL 0.19",
    doc: "Hub name, local folder or .gguf file of the model." },
  model_revision: { type: "string", default: "main", from: "TRL 0.19",
    doc: "Branch, tag or commit of the model on the Hub." },
  base_model_revision: { type: "string?", default: null, from: "handbook",
    doc: "Revision of the base model where model_name_or_path is an adapter." },
  torch_dtype: { type: "choice?", default: null, from: "TRL 0.19",
    choices: ["auto", "bfloat16", "float16", "float32"],
    doc: "Dtype of the frozen base's dense weights; auto: as the files store them; null: float32." },
  tokenizer_name_or_path: { type: "string?", default: null, from: "handbook",
    doc: "Tokenizer from elsewhere; null: the model's own." },
  chat_template: { type: "string?", default: null, from: "handbook",
    doc: "Jinja template that turns messages into text; null: the tokenizer's own." },
  chat_template_path: { type: "string?", default: null, from: "TRL 0.19",
    doc: "Where that template is: a .jinja or .j2 file, or a model's folder or Hub name; null: the tokenizer's own." },
  eos_token: { type: "string?", default: null, from: "TRL 0.19",
    doc: "Token that ends an answer; null: the tokenizer's own." },
  pad_token: { type: "string?", default: null, from: "TRL 0.19",
    doc: "Token that fills a batch up; null: the tokenizer's own, else its end token." },
  nibble_model_config: { type: "map?", default: null, from: "nibble",
    doc: "A config.json's keys: weights start fresh; model_name_or_path only lends the tokenizer." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** How the base is stored in 4 bits. */
export const QUANTIZATION = {
  load_in_4bit: { type: "bool", default: false, from: "TRL 0.19",
    doc: "Keep the frozen base in 4 bits. Together with use_peft this is QLoRA." },
  bnb_4bit_quant_type: { type: "choice", default: "nf4", from: "TRL 0.19",
    choices: ["nf4", "fp4", "int4"], needs: "load_in_4bit",
    doc: "Code book of the 4-bit values." },
  bnb_4bit_blocksize: { type: "int", default: 64, from: "bitsandbytes",
    choices: [32, 64, 128, 256, 512, 1024, 2048, 4096],
    needs: "load_in_4bit", doc: "Weights that share one scale." },
  use_bnb_nested_quant: { type: "bool", default: false, from: "TRL 0.19", needs: "load_in_4bit",
    doc: "Double quantization: the scales are quantized too, 0.37 bit a weight less." },
} as const satisfies Record<string, Setting>;

// deno-fmt-ignore
/** The low-rank adapters. */
export const ADAPTER = {
  use_peft: { type: "bool", default: false, from: "TRL 0.19",
    doc: "Train low-rank adapters (LoRA) on a frozen base; false trains every weight." },
  lora_r: { type: "int", default: 16, from: "TRL 0.19", min: 1, needs: "use_peft",
    doc: "Rank R of the adapters." },
  lora_alpha: { type: "float", default: 32, from: "TRL 0.19", above: 0, needs: "use_peft",
    doc: "The adapter's output is scaled by lora_alpha / lora_r." },
  lora_dropout: { type: "float", default: 0.05, from: "TRL 0.19", min: 0, below: 1, needs: "use_peft",
    doc: "Share of the adapter's inputs zeroed while training." },
  lora_target_modules: { type: "names?", default: null, from: "TRL 0.19", needs: "use_peft",
    doc: "Modules with an adapter: names, all-linear or a regular expression; null: PEFT's choice." },
  lora_modules_to_save: { type: "list?", default: null, from: "TRL 0.19", needs: "use_peft",
    doc: "Modules trained in full and saved beside the adapters." },
  use_rslora: { type: "bool", default: false, from: "TRL 0.19", needs: "use_peft",
    doc: "Scale by lora_alpha / sqrt(lora_r) instead." },
  use_dora: { type: "bool", default: false, from: "TRL 0.19", needs: "use_peft",
    doc: "Decompose each weight into magnitude and direction (DoRA)." },
  init_lora_weights: { type: "string", default: "true", from: "PEFT", needs: "use_peft",
    doc: "How adapters begin: true, false, gaussian, pissa, pissa_niter_N, olora, loftq, qera, qera_rank_N (N of " +
      "lora_r's ranks, or half, correct the quantization and stay fixed)." },
  rank_pattern: { type: "map?", default: null, from: "PEFT", needs: "use_peft",
    doc: "Ranks that differ from lora_r, by a regular expression for the end of a module's path." },
  alpha_pattern: { type: "map?", default: null, from: "PEFT", needs: "use_peft",
    doc: "Alphas that differ from lora_alpha, likewise." },
  exclude_modules: { type: "names?", default: null, from: "PEFT", needs: "use_peft",
    doc: "Modules without an adapter, named as in lora_target_modules." },
  layers_to_transform: { type: "list?", default: null, from: "PEFT", needs: "use_peft",
    doc: "Numbers of the layers that get adapters; with a list of lora_target_modules." },
  layers_pattern: { type: "list?", default: null, from: "PEFT", needs: "use_peft",
    doc: "Name of the list of layers, where a layer's number is not the first in a path." },
  bias: { type: "choice", default: "none", from: "PEFT", needs: "use_peft",
    choices: ["none", "all", "lora_only"],
    doc: "Which biases of the base are trained beside the adapters." },
} as const satisfies Record<string, Setting>;
