/**
 * A Hugging Face tokenizer as the metadata of a GGUF file: the reverse of gguf_tokenizer.ts.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { isObject } from "./file.ts";
import { PRE_TOKENIZERS } from "./gguf_pre_tokenizers.ts";
import { TOKEN_TYPE } from "./gguf_tokenizer.ts";
import type { GgufEntries } from "./gguf_write.ts";

/** What {@link tokenizerEntries} reads. */
export interface TokenizerParts {
  tokenizerJson: unknown;
  tokenizerConfig: Record<string, unknown>;
  chatTemplate: string | undefined;
  /** Tokens that end a turn or a text, the most usual first; default the tokenizer's `eos_token`. */
  stopIds?: readonly number[] | undefined;
  /** Rows of the embedding: ids beyond the tokenizer's are filled up. */
  vocabSize: number;
  /** For messages. */
  path: string;
}

type Json = Record<string, unknown>;
interface Added {
  id: number;
  content: string;
  special?: boolean;
}

/**
 * `tokenizer.ggml.*` and `tokenizer.chat_template`.
 *
 * @throws NibbleError `formats/gguf-tokenizer` for a tokenizer that llama.cpp has no name for: a file that would be
 *   read differently is worse than none
 */
export function tokenizerEntries(parts: TokenizerParts): GgufEntries {
  const json = isObject(parts.tokenizerJson) ? parts.tokenizerJson : {};
  const model = isObject(json["model"]) ? json["model"] : {};
  if (model["type"] !== "BPE") {
    throw unusable(
      parts.path,
      "model.type",
      `A tokenizer of kind ${JSON.stringify(model["type"])} has no form in GGUF`,
    );
  }
  const added = (json["added_tokens"] as Added[] | undefined) ?? [];
  const vocab = model["vocab"] as Record<string, number>;
  const tokens = Array.from({ length: parts.vocabSize }, (_, id) => `[PAD${id}]`);
  const types = new Int32Array(parts.vocabSize).fill(TOKEN_TYPE.unused);
  const put = (id: number, text: string, type: number) => {
    if (id >= tokens.length) {
      throw unusable(parts.path, "model.vocab", `Token ${id} lies beyond the model's ${tokens.length} rows`);
    }
    tokens[id] = text;
    types[id] = type;
  };
  for (const [text, id] of Object.entries(vocab)) put(id, text, TOKEN_TYPE.normal);
  for (const { id, content, special } of added) {
    put(id, content, special ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined);
  }
  const pieces = model["byte_fallback"] === true;
  const kind = pieces ? sentencePiece(json, model, tokens, types) : byteLevel(parts.path, json, model);
  return [
    ...kind,
    ["tokenizer.ggml.tokens", { strings: tokens }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    ...specialEntries(parts, json, tokens),
    ...(parts.chatTemplate === undefined ? [] : [["tokenizer.chat_template", parts.chatTemplate] as const]),
  ];
}

/** Byte-level BPE: a name for how text is cut, and the merges. */
function byteLevel(path: string, json: Json, model: Json): GgufEntries {
  const mine = steps(json["pre_tokenizer"]).join(" ");
  const pre = Object.keys(PRE_TOKENIZERS).filter((name) => name !== "default")
    .find((name) => steps(PRE_TOKENIZERS[name]!.pre_tokenizer).join(" ") === mine);
  if (pre === undefined) {
    throw unusable(path, "pre_tokenizer", "llama.cpp has no pre-tokenizer of this form that nibble knows");
  }
  return [
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", pre],
    ["tokenizer.ggml.merges", { strings: mergesOf(model).map(([l, r]) => `${l} ${r}`) }],
  ];
}

/** The parts of a pre-tokenizer that decide where text is cut; splitting off each digit has two spellings. */
function steps(part: unknown): string[] {
  if (!isObject(part)) return [];
  switch (part["type"]) {
    case "Sequence":
      return ((part["pretokenizers"] as unknown[] | undefined) ?? []).flatMap(steps);
    case "Digits":
      return [part["individual_digits"] === true ? String.raw`split:\p{N}:Isolated` : "digits"];
    case "Split": {
      const { pattern, behavior, invert } = part;
      const text = isObject(pattern) ? pattern["Regex"] ?? pattern["String"] : pattern;
      return [`split:${text}:${behavior}${invert ? ":invert" : ""}`];
    }
    case "ByteLevel":
      return [`bytes:${part["use_regex"] !== false}${part["add_prefix_space"] === true ? ":space" : ""}`];
    default:
      return [String(part["type"])];
  }
}

/**
 * SentencePiece: scores in place of merges. tokenizer.json has lost them; what counts is which merge goes first, so a
 * piece's score is minus the rank of the first merge that makes it.
 */
function sentencePiece(json: Json, model: Json, tokens: string[], types: Int32Array): GgufEntries {
  const rank = new Map<string, number>();
  for (const [left, right] of mergesOf(model)) {
    if (!rank.has(left + right)) rank.set(left + right, rank.size);
  }
  const unknown = model["unk_token"];
  const scores = tokens.map((text, id) => {
    if (types[id] === TOKEN_TYPE.normal && /^<0x[0-9A-F]{2}>$/.test(text)) types[id] = TOKEN_TYPE.byte;
    if (text === unknown) types[id] = TOKEN_TYPE.unknown;
    return types[id] === TOKEN_TYPE.normal ? -(rank.get(text) ?? rank.size) : 0;
  });
  const spaced = JSON.stringify([json["normalizer"] ?? null, json["pre_tokenizer"] ?? null]);
  const prefix = /"Prepend"/.test(spaced) || (/"Metaspace"/.test(spaced) && !/"never"/.test(spaced));
  return [
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.pre", "default"],
    ["tokenizer.ggml.scores", { f32s: scores }],
    ["tokenizer.ggml.add_space_prefix", prefix],
  ];
}

function mergesOf(model: Json): [string, string][] {
  return ((model["merges"] as (string | [string, string])[] | undefined) ?? []).map((m) =>
    typeof m === "string" ? m.split(" ") as [string, string] : m
  );
}

/** Ids of special tokens, and whether text begins and ends with them. */
function specialEntries(parts: TokenizerParts, json: Json, tokens: string[]): GgufEntries {
  const { tokenizerConfig: config } = parts;
  const idOf = (name: string): number | undefined => {
    const given = config[name];
    const text = isObject(given) ? given["content"] : given;
    const id = typeof text === "string" ? tokens.indexOf(text) : -1;
    return id < 0 ? undefined : id;
  };
  const named = idOf("eos_token");
  const stops = [...new Set([...(named === undefined ? [] : [named]), ...(parts.stopIds ?? [])])];
  const ids: [string, number | undefined][] = [
    ["bos", idOf("bos_token")],
    ["eos", stops[0]],
    ["eot", stops[1]],
    ["eom", stops[2]],
    ["unknown", idOf("unk_token")],
    ["padding", idOf("pad_token")],
  ];
  const { before, after } = ends(json["post_processor"]);
  const bos = config["bos_token"], eos = config["eos_token"];
  const text = (t: unknown) => isObject(t) ? t["content"] : t;
  return [
    ...ids.flatMap(([name, id]) =>
      id === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, { u32: id }] as const]
    ),
    ["tokenizer.ggml.add_bos_token", before !== undefined && before === text(bos)],
    ["tokenizer.ggml.add_eos_token", after !== undefined && after === text(eos)],
  ];
}

/** The first and the last token that the post-processor puts around a text. */
function ends(part: unknown): { before?: string; after?: string } {
  if (!isObject(part)) return {};
  if (part["type"] === "Sequence") {
    return ((part["processors"] as unknown[] | undefined) ?? []).map(ends).find((e) => e.before || e.after) ??
      {};
  }
  if (part["type"] !== "TemplateProcessing" || !Array.isArray(part["single"])) return {};
  const special = (entry: unknown): string | undefined => {
    const token = isObject(entry) && isObject(entry["SpecialToken"])
      ? entry["SpecialToken"]["id"]
      : undefined;
    return typeof token === "string" ? token : undefined;
  };
  const [before, after] = [special(part["single"].at(0)), special(part["single"].at(-1))];
  return { ...(before ? { before } : {}), ...(after ? { after } : {}) };
}

function unusable(path: string, key: string, what: string): NibbleError {
  return new NibbleError("formats/gguf-tokenizer", what, {
    where: `${path}, tokenizer.json, key "${key}"`,
    remedy: "Keep the merged Hugging Face folder, and convert it with llama.cpp's own converter.",
  });
}
