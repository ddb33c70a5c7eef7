/**
 * What the handbook's recipes ask of the Hub, in miniature: random models of the right families, and data sets with
 * the configurations, splits and columns that the recipes name.
 * @module
 */
import { join } from "@std/path";
import { writeAdapter, writeSafetensors } from "../../lib/formats/mod.ts";
import { adapterConfig } from "../../lib/formats/mod.ts";
import { readConfig } from "../../lib/model/config.ts";
import { normal, randomSource } from "../../lib/model/random_source.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { datasetPlan } from "../../lib/train/settings.ts";
import type { FakeRepo } from "../hub/fake_hub.ts";

const TINY = new URL("../../assets/models/tiny/", import.meta.url);
const asset = (name: string) => Deno.readTextFileSync(new URL(name, TINY));

/** One size for all, so that kernels are compiled once: config.json's keys in Llama's words. */
const SIZES = {
  ...{ vocab_size: 2048, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8, max_position_embeddings: 1024 },
  ...{ initializer_range: 0.1, eos_token_id: 2, pad_token_id: 3 },
};

/** config.json of each family that the handbook trains. */
export const FAMILY_CONFIGS: Readonly<Record<string, Record<string, unknown>>> = {
  llama: { ...SIZES, model_type: "llama", tie_word_embeddings: true },
  mistral: { ...SIZES, model_type: "mistral", sliding_window: 16 },
  mixtral: { ...SIZES, model_type: "mixtral", num_local_experts: 3, num_experts_per_tok: 2 },
  gemma: { ...SIZES, model_type: "gemma", hidden_act: "gelu" },
  starcoder2: { ...SIZES, model_type: "starcoder2", sliding_window: 16 },
  smollm3: { ...SIZES, model_type: "smollm3", no_rope_layers: [1, 0] },
};

/** Family of each model that a recipe of the handbook names. */
const MODELS: [pattern: RegExp, family: string][] = [
  [/Mixtral/, "mixtral"],
  [/gemma/, "gemma"],
  [/starc/, "starcoder2"],
  [/SmolLM3/, "smollm3"],
  [/smollm/i, "llama"],
  [/mistral|zephyr/i, "mistral"],
];

/** The family of a model by its name on the Hub. */
export function familyOf(id: string): string {
  const found = MODELS.find(([pattern]) => pattern.test(id));
  if (!found) throw new Error(`No family is known for ${id}`);
  return found[1];
}

/** A random model of a family, as a repository. */
function modelRepo(id: string, revision: string): FakeRepo {
  const config = FAMILY_CONFIGS[familyOf(id)]!;
  const source = randomSource(readConfig(config, id), 7);
  const folder = Deno.makeTempDirSync({ prefix: "nibble-model-" });
  try {
    const path = join(folder, "model.safetensors");
    writeSafetensors(
      path,
      [...source.tensors].map(([name, { shape }]) => ({
        name,
        shape,
        dtype: "BF16" as const,
        data: source.readF32(name),
      })),
    );
    const files = {
      "README.md": "---\nlicense: apache-2.0\n---\n",
      "config.json": JSON.stringify(config),
      "generation_config.json": '{"eos_token_id": 2}',
      "model.safetensors": Deno.readFileSync(path),
      "tokenizer.json": asset("tokenizer.json"),
      "tokenizer_config.json": asset("tokenizer_config.json"),
    };
    const revisions = revision === "main" ? {} : { revisions: { [revision]: files } };
    return {
      kind: "model",
      lfs: ["model.safetensors"],
      files: revision === "main" ? files : {},
      ...revisions,
    };
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** A random adapter of all linear layers on `base`, as SFT with QLoRA leaves it. */
function adapterRepo(base: string): FakeRepo {
  const config = readConfig(FAMILY_CONFIGS[familyOf(base)]!, base);
  const folder = Deno.makeTempDirSync({ prefix: "nibble-adapter-" });
  try {
    const modules = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"];
    const out: Record<string, number> = {
      "self_attn.q_proj": 32,
      "self_attn.v_proj": 16,
      "mlp.down_proj": 32,
    };
    const tensors = new Map<string, { shape: number[]; data: Float32Array }>();
    for (let layer = 0; layer < config.num_hidden_layers; layer++) {
      for (const module of modules) {
        const inside = module === "mlp.down_proj" ? 48 : 32;
        const key = `base_model.model.model.layers.${layer}.${module}`;
        const draw = (n: number, seed: number) =>
          Float32Array.from({ length: n }, (_, i) => 0.05 * normal(seed, i));
        tensors.set(`${key}.lora_A.weight`, { shape: [4, inside], data: draw(4 * inside, layer) });
        tensors.set(`${key}.lora_B.weight`, {
          shape: [out[module]!, 4],
          data: draw(out[module]! * 4, layer + 9),
        });
      }
    }
    const targets = modules.map((m) => m.split(".")[1]!);
    writeAdapter(
      folder,
      adapterConfig({
        base_model_name_or_path: base,
        r: 4,
        lora_alpha: 8,
        lora_dropout: 0,
        target_modules: targets,
      }),
      tensors,
    );
    return {
      kind: "model",
      lfs: ["adapter_model.safetensors"],
      files: {
        "adapter_config.json": Deno.readTextFileSync(join(folder, "adapter_config.json")),
        "adapter_model.safetensors": Deno.readFileSync(join(folder, "adapter_model.safetensors")),
        "tokenizer.json": asset("tokenizer.json"),
        "tokenizer_config.json": asset("tokenizer_config.json"),
      },
    };
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

const turn = (role: string, content: string) => ({ role, content });
const WORDS = ["love", "war", "the sea", "a king", "night"];

/** A row with the columns that the handbook's data sets have. */
function rowOf(n: number, preference: boolean): Record<string, unknown> {
  const prompt = `Speak of ${WORDS[n % 5]}`;
  const question = [turn("user", prompt)];
  const good = [...question, turn("assistant", `So be it ${n % 7}.`)];
  const bad = [...question, turn("assistant", `No ${n % 3}.`)];
  const more = { prompt, chat_template_kwargs: { enable_thinking: false } };
  return preference ? { ...more, chosen: good, rejected: bad } : { ...more, messages: good };
}

/** Rows of each split. */
const ROWS = 16;

/** Rows with `messages` as pyarrow writes them: the one data set that comes as Parquet. */
const PARQUET = Deno.readFileSync(new URL("../data/fixtures/chat-zstd.parquet", import.meta.url));

/** The data sets of a recipe: a card that says which files are which split of which configuration, as on the Hub. */
function dataRepos(s: TrainSettings): Record<string, FakeRepo> {
  const repos: Record<string, FakeRepo> = {};
  const wanted = new Map<string, Map<string, Set<string>>>();
  for (const { id, config, split } of datasetPlan({ ...s, do_eval: true }).parts) {
    const configs = wanted.get(id) ?? wanted.set(id, new Map()).get(id)!;
    const name = config ?? "default";
    (configs.get(name) ?? configs.set(name, new Set()).get(name)!).add(split);
  }
  for (const [id, configs] of wanted) {
    const files: FakeRepo["files"] = {};
    const card = [...configs].map(([name, splits]) =>
      `- config_name: ${name}\n  data_files:\n` +
      [...splits].map((split) => `  - split: ${split}\n    path: ${name}/${split}-*\n`).join("")
    );
    for (const [name, splits] of configs) {
      for (const split of splits) {
        const file = `${name}/${split}-00000-of-00001`;
        const preference = s.nibble_task !== "sft";
        const rows = Array.from({ length: ROWS }, (_, n) => JSON.stringify(rowOf(n, preference)) + "\n");
        if (id === "HuggingFaceH4/ultrachat_200k") files[`${file}.parquet`] = PARQUET;
        else files[`${file}.jsonl`] = rows.join("");
      }
    }
    files["README.md"] = `---\nconfigs:\n${card.join("")}---\n# ${id}\n`;
    repos[id] = { kind: "dataset", files };
  }
  return repos;
}

/** Everything that a recipe fetches. */
export function reposOf(s: TrainSettings): Record<string, FakeRepo> {
  const id = s.model_name_or_path!;
  const base = "mistralai/Mistral-7B-v0.1";
  const models = id === "alignment-handbook/zephyr-7b-sft-qlora"
    ? { [id]: adapterRepo(base), [base]: modelRepo(base, "main") }
    : { [id]: modelRepo(id, s.model_revision) };
  return { ...models, ...dataRepos(s) };
}
