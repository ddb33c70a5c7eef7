/**
 * Runs without their model: real shapes with generated weights, and stand-ins for a tokenizer and data that are out of
 * reach. They serve plans and measurements; the numbers of such a run mean nothing.
 * @module
 */
import { fromFileUrl } from "@std/path";
import type { Row } from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { fetchModel } from "../hub/mod.ts";
import { readConfig } from "../model/config.ts";
import type { RawConfig } from "../model/families.ts";
import { KNOWN_CONFIGS } from "../model/known_configs.ts";
import { repeatedSource } from "../model/random_source.ts";
import { createTokenizer } from "../text/mod.ts";
import { givenTemplate } from "./chat_template.ts";
import type { BaseFiles, OpenBaseOptions } from "./model_setup.ts";
import { evaluates, type Rows } from "./prepare.ts";
import type { TrainSettings } from "./settings.ts";

/** The tokenizer that comes with nibble. */
const EMBEDDED = new URL("../../assets/models/tiny/", import.meta.url);

type Json = Record<string, unknown>;

/** What lies beside a model's weights. */
interface SideFiles {
  path: string;
  config?: RawConfig | undefined;
  tokenizerJson?: Json | undefined;
  tokenizerConfig: Json;
}

/**
 * The shapes of a run's model with generated weights, quantized tensor by tensor as they are made. The config is the
 * recipe's `nibble_model_config`, else the model's own, else one of {@link KNOWN_CONFIGS}.
 *
 * @throws NibbleError `train/no-config` where none of them is to be had
 */
export async function generatedBase(s: TrainSettings, options: OpenBaseOptions): Promise<BaseFiles> {
  const id = s.model_name_or_path!;
  const note = (text: string) => options.onNote?.(text);
  const own = await sideFiles(id, s, options);
  const config = s.nibble_model_config ?? own?.config ?? KNOWN_CONFIGS[id];
  if (!config) {
    throw new NibbleError("train/no-config", `The shapes of ${id} are not known here`, {
      where: "model_name_or_path",
      remedy: `Give the keys of its config.json as nibble_model_config, or name one of ${
        Object.keys(KNOWN_CONFIGS).join(", ")
      }.`,
    });
  }
  const lender = own?.tokenizerJson ? own : readSide(fromFileUrl(EMBEDDED));
  if (lender !== own) note(`tokenizer   of ${id} is out of reach; nibble's own small one stands in`);
  const { tokenizerJson, tokenizerConfig, path } = lender;
  const template = await givenTemplate(s, options.base ? { base: options.base } : {});
  const tokenizer = createTokenizer(
    {
      ...{ tokenizerJson, tokenizerConfig, path },
      ...(template ? { chatTemplate: template } : {}),
    },
    lender === own
      ? {
        ...(s.eos_token ? { eos_token: s.eos_token } : {}),
        ...(s.pad_token ? { pad_token: s.pad_token } : {}),
      }
      : {},
  );
  note(`model       ${id} with generated weights: what is trained is of no use`);
  const files = {
    path: own?.path ?? id,
    config,
    source: repeatedSource(readConfig(config, id), s.seed),
    ...{ tokenizerJson, tokenizerConfig },
    generationConfig: {},
    chatTemplate: undefined,
  };
  return { files, tokenizer, hash: "generated", origin: { base: id, revision: s.model_revision } };
}

/** Config and tokenizer of a model, from this disk or the Hub; undefined where they are out of reach. */
async function sideFiles(
  id: string,
  s: TrainSettings,
  options: OpenBaseOptions,
): Promise<SideFiles | undefined> {
  try {
    const path = await fetchModel(id, {
      weights: false,
      revision: s.model_revision,
      ...(options.base ? { base: options.base } : {}),
    });
    return readSide(path);
  } catch (error) {
    if (error instanceof NibbleError && error.code.startsWith("hub/")) return undefined;
    throw error;
  }
}

function readSide(path: string): SideFiles {
  const read = (name: string): Json | undefined => {
    try {
      return JSON.parse(Deno.readTextFileSync(`${path}/${name}`));
    } catch {
      return undefined;
    }
  };
  return {
    path,
    config: read("config.json"),
    tokenizerJson: read("tokenizer.json"),
    tokenizerConfig: read("tokenizer_config.json") ?? {},
  };
}

/**
 * Rows as long as the recipe allows, in place of data that are out of reach, for a run with generated weights.
 *
 * @throws the error, in every other run
 */
export function standInRows(s: TrainSettings, error: unknown, note?: (text: string) => void): Rows {
  const code = error instanceof NibbleError ? error.code : "";
  if (!s.nibble_random_weights || !/^hub\/(not-found|no-repository|gated)$/.test(code)) throw error;
  note?.("data        are out of reach; generated rows of the longest length stand in");
  const words = (n: number) => "the quick brown fox ".repeat(n);
  const length = s.max_length ?? 1024; // at least a token a word
  const row = (): Row => {
    const prompt = { role: "user", content: words(Math.ceil(length / 8)) };
    const answer = (text: string) => [prompt, { role: "assistant", content: text }];
    return {
      text: words(length),
      messages: answer(words(length)),
      chosen: answer(words(length)),
      rejected: answer(`no ${words(length)}`),
    };
  };
  const count = Math.max(16, s.per_device_train_batch_size * s.gradient_accumulation_steps);
  const rows = (n: number) => Array.from({ length: n }, row);
  return { train: rows(count), test: evaluates(s) ? rows(s.per_device_eval_batch_size) : undefined };
}
