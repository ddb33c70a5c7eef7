/**
 * The files of a tokenizer: completing what was read, choosing special tokens and template, writing them again.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { writeText } from "../formats/file.ts";
import { CHATML_TEMPLATE, ZEPHYR_TEMPLATE } from "./template.ts";
import type { TemplateSource } from "./types.ts";

type Json = Record<string, unknown>;

/** A special token: its text and id. */
export interface SpecialToken {
  /** Text. */
  token: string;
  /** Id. */
  id: number;
}

/** An entry of tokenizer.json's `added_tokens`. */
export interface AddedTokenEntry {
  /** Id. */
  id: number;
  /** Text. */
  content: string;
  /** Control token rather than a word. */
  special?: boolean;
}

/** tokenizer.json with every section present, and the added tokens that only tokenizer_config.json lists. */
export function completeJson(value: unknown, config: Json, where: string | undefined): Json {
  if (typeof value !== "object" || value === null || !("model" in value)) {
    throw new NibbleError("text/no-tokenizer", "The model has no tokenizer.json, or it has no `model`", {
      ...(where === undefined ? {} : { where }),
      remedy:
        "Use a model folder with tokenizer.json (the fast tokenizer), or a GGUF that carries its vocabulary.",
    });
  }
  const blank = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  const json: Json = { ...blank, ...value };
  const added = [...(json.added_tokens as AddedTokenEntry[] | undefined ?? [])];
  const known = new Set(added.map((t) => t.id));
  for (const [id, entry] of Object.entries(config.added_tokens_decoder as Json | undefined ?? {})) {
    if (!known.has(Number(id))) added.push({ ...(entry as AddedTokenEntry), id: Number(id) });
  }
  json.added_tokens = added;
  return json;
}

/** Does a component of tokenizer.json, or one inside it, have this type? */
export function hasType(component: unknown, type: string): boolean {
  if (typeof component !== "object" || component === null) return false;
  return (component as Json).type === type || Object.values(component).some((part) => hasType(part, type));
}

/** The text of a token entry: a string, or an object with `content`. */
export function tokenText(entry: unknown): string | undefined {
  if (typeof entry === "string") return entry;
  const content = (entry as Json | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/**
 * `bos`, `eos` or `pad`: from tokenizer_config.json, else by id from generation_config.json. A named token that the
 * vocabulary lacks is an error, except for padding, which then falls back to EOS.
 */
export function specialToken(
  key: "bos" | "eos" | "pad",
  config: Json,
  generation: Json,
  vocabulary: { idOf(token: string): number | undefined; tokenOf(id: number): string | undefined },
  where: string | undefined,
): SpecialToken | undefined {
  const token = tokenText(config[`${key}_token`]);
  if (token !== undefined) {
    const id = vocabulary.idOf(token);
    if (id !== undefined) return { token, id };
    if (key === "pad") return undefined;
    throw new NibbleError(
      "text/unknown-token",
      `${key}_token ${JSON.stringify(token)} is not in the vocabulary`,
      {
        where: where === undefined ? "tokenizer_config.json" : `${where}/tokenizer_config.json`,
        remedy: `Name a token of the vocabulary; growing the vocabulary is not possible here.`,
      },
    );
  }
  const id = [generation[`${key}_token_id`]].flat()[0];
  const text = typeof id === "number" ? vocabulary.tokenOf(id) : undefined;
  return text === undefined ? undefined : { token: text, id: id as number };
}

/** The template in force, and where it came from. */
export function chooseTemplate(
  given: string | undefined,
  config: Json,
  chatml: boolean,
): [template: string, source: TemplateSource] {
  if (given !== undefined) return [given, "given"];
  const own = config.chat_template;
  if (typeof own === "string") return [own, "tokenizer_config"];
  if (Array.isArray(own) && own.length > 0) {
    const named = own as { name: string; template: string }[];
    return [(named.find((t) => t.name === "default") ?? named[0]).template, "tokenizer_config"];
  }
  return chatml ? [CHATML_TEMPLATE, "default-chatml"] : [ZEPHYR_TEMPLATE, "default-zephyr"];
}

/** Writes the four tokenizer files of a Hugging Face model folder. */
export function saveTokenizer(
  folder: string,
  files: { json: unknown; config: Json; template: string },
): void {
  Deno.mkdirSync(folder, { recursive: true });
  const map: Json = {};
  for (const [key, value] of Object.entries(files.config)) {
    if (/^(bos|eos|pad|unk|sep|cls|mask)_token$/.test(key) || key === "additional_special_tokens") {
      map[key] = value;
    }
  }
  const config = { ...files.config, chat_template: files.template };
  writeText(join(folder, "tokenizer.json"), JSON.stringify(files.json, null, 2) + "\n");
  writeText(join(folder, "tokenizer_config.json"), JSON.stringify(config, null, 2) + "\n");
  writeText(join(folder, "special_tokens_map.json"), JSON.stringify(map, null, 2) + "\n");
  writeText(join(folder, "chat_template.jinja"), files.template);
}
