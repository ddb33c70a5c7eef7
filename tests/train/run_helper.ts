/**
 * A run small enough for a test: two layers of width 32 with the embedded tokenizer, and a few conversations.
 * @module
 */
import { join } from "@std/path";
import { openGpu } from "../../lib/gpu/mod.ts";
import { sharedMap } from "../../lib/quant/quantized_tensor.ts";
import { train, type TrainOptions, type TrainResult } from "../../lib/train/run.ts";
import { defaultSettings, type TrainSettings } from "../../lib/train/settings.ts";

/** config.json of the model; its weights are fresh. */
export const MODEL_CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 2048,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  initializer_range: 0.1,
  tie_word_embeddings: true,
  eos_token_id: 2,
  pad_token_id: 3,
};

const SAYINGS = [
  "My lord, the night is long.",
  "Peace!",
  "I will go with thee to the gate and see the king return.",
  "No.",
];

/** Conversations of very different lengths. */
export function rowsOf(count: number, from = 0): unknown[] {
  return Array.from({ length: count }, (_, i) => {
    const n = from + i;
    return {
      messages: [
        { role: "user", content: `Speak of ${["love", "war", "the sea"][n % 3]} ${n}` },
        { role: "assistant", content: `${SAYINGS[n % 4]} ${n % 2 ? "" : SAYINGS[(n + 1) % 4]}` },
      ],
    };
  });
}

/** A folder with train.jsonl and test.jsonl. */
export function dataFolder(train: unknown[] = rowsOf(10), test: unknown[] = rowsOf(4, 100)): string {
  const folder = Deno.makeTempDirSync({ prefix: "nibble-data-" });
  const lines = (rows: unknown[]) => rows.map((r) => JSON.stringify(r) + "\n").join("");
  Deno.writeTextFileSync(join(folder, "train.jsonl"), lines(train));
  Deno.writeTextFileSync(join(folder, "test.jsonl"), lines(test));
  return folder;
}

/** Settings of a LoRA run of 6 steps over `data`. */
export function tinySettings(data: string, more: Partial<TrainSettings> = {}): TrainSettings {
  return {
    ...defaultSettings("sft"),
    model_name_or_path: new URL("../../assets/models/tiny", import.meta.url).pathname,
    nibble_model_config: MODEL_CONFIG,
    dataset_name: data,
    use_peft: true,
    lora_r: 4,
    lora_alpha: 8,
    lora_dropout: 0,
    lora_target_modules: ["all-linear"],
    assistant_only_loss: true,
    max_length: 64,
    learning_rate: 1e-2,
    lr_scheduler_type: "cosine",
    warmup_steps: 1,
    per_device_train_batch_size: 4,
    per_device_eval_batch_size: 4,
    max_steps: 6,
    logging_steps: 1,
    save_strategy: "no",
    report_to: ["none"],
    output_dir: Deno.makeTempDirSync({ prefix: "nibble-run-" }),
    ...more,
  };
}

/** A finished run and what it said. */
export interface QuietRun extends TrainResult {
  notes: string[];
}

/**
 * Trains without a word on the terminal.
 *
 * @param stopAt the look at the signal, of those after the model is there, at which it has come: the loop looks once a
 *   step, which then ends and is saved
 */
export async function quietTrain(
  s: TrainSettings,
  options: TrainOptions = {},
  stopAt = Infinity,
): Promise<QuietRun> {
  const notes: string[] = [];
  let loaded = false, looks = 0;
  const reporter = {
    ...{ step() {}, log() {}, note: (text: string) => void notes.push(text) },
    done: () => void (loaded = true), // first said when the model is there
  };
  const signal = {
    get aborted() {
      return loaded && ++looks >= stopAt;
    },
  } as AbortSignal;
  return { ...await train(s, { signal, ...options, reporter }), notes };
}

/** The bytes of a file of the output folder, as hexadecimal text for comparison. */
export function bytesOf(folder: string, file = "adapter_model.safetensors"): string {
  return Deno.readFileSync(join(folder, file)).toHex();
}

/** Makes what a device keeps for double quantization, so that checks for leaks do not count it. */
export async function warmDevice(): Promise<void> {
  await openGpu();
  sharedMap();
}

/** Removes folders. */
export function sweep(...folders: string[]): void {
  for (const folder of folders) Deno.removeSync(folder, { recursive: true });
}
