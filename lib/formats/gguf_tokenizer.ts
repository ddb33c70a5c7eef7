/**
 * A GGUF file's vocabulary as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { GgufMetadata } from "./gguf_config.ts";
import { PRE_TOKENIZERS, type PreTokenizer } from "./gguf_pre_tokenizers.ts";
import { type MergeRule, sentencePieceMerges } from "./gguf_sentencepiece.ts";

/** `tokenizer.ggml.token_type`: what a token is. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 };

interface AddedToken {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

/** `tokenizer.json`, the parts that nibble fills. */
export interface TokenizerJson {
  version: "1.0";
  truncation: null;
  padding: null;
  added_tokens: AddedToken[];
  normalizer: Record<string, unknown> | null;
  pre_tokenizer: Record<string, unknown> | null;
  post_processor: Record<string, unknown> | null;
  decoder: Record<string, unknown>;
  model: {
    type: "BPE";
    dropout: null;
    unk_token: string | null;
    continuing_subword_prefix: null;
    end_of_word_suffix: null;
    fuse_unk: boolean;
    byte_fallback: boolean;
    ignore_merges: boolean;
    vocab: Record<string, number>;
    merges: MergeRule[];
  };
}

/**
 * `tokenizer.json` of a GGUF model, or `undefined` when the file has no vocabulary.
 * @throws NibbleError `formats/gguf-tokenizer` for a kind of tokenizer that cannot be rebuilt
 */
export function ggufTokenizerJson(meta: GgufMetadata): TokenizerJson | undefined {
  const tokens = stringArray(meta, "tokenizer.ggml.tokens");
  if (!tokens) return undefined;
  const types = numberArray(meta, "tokenizer.ggml.token_type", tokens.length) ??
    tokens.map(() => TOKEN_TYPE.normal);
  const model = meta.string("tokenizer.ggml.model");
  const vocab = vocabulary(meta, tokens);
  const added = addedTokens(tokens, types);
  const base = { version: "1.0", truncation: null, padding: null, added_tokens: added } as const;
  const bpe = {
    type: "BPE",
    dropout: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
  } as const;
  if (model === "gpt2") {
    const pre = preTokenizer(meta);
    const merges = stringArray(meta, "tokenizer.ggml.merges");
    if (!merges) throw unusable(meta, "tokenizer.ggml.merges", "A byte-level vocabulary needs its merges");
    return {
      ...base,
      normalizer: pre.normalizer ?? null,
      pre_tokenizer: pre.pre_tokenizer,
      post_processor: endsTemplate(meta, tokens, pre.addBos ?? false),
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        ...bpe,
        unk_token: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: pre.ignoreMerges ?? false,
        vocab,
        merges,
      },
    };
  }
  if (model === "llama") {
    const scores = numberArray(meta, "tokenizer.ggml.scores", tokens.length);
    if (!scores) throw unusable(meta, "tokenizer.ggml.scores", "A SentencePiece vocabulary needs its scores");
    const pieces = tokens.map((text, id) => ({ text, score: scores[id]! }))
      .filter((_, id) => types[id] === TOKEN_TYPE.normal || types[id] === TOKEN_TYPE.userDefined);
    const prefix = meta.boolean("tokenizer.ggml.add_space_prefix") ?? true;
    const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
    const decoders = [
      { type: "Replace", pattern: { String: "▁" }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
    ];
    return {
      ...base,
      normalizer: prefix
        ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, spaces] }
        : spaces,
      pre_tokenizer: null,
      post_processor: endsTemplate(meta, tokens, true),
      decoder: {
        type: "Sequence",
        decoders: prefix ? [...decoders, { type: "Strip", content: " ", start: 1, stop: 0 }] : decoders,
      },
      model: {
        ...bpe,
        unk_token: tokenAt(meta, tokens, "unknown_token_id") ?? tokens[types.indexOf(TOKEN_TYPE.unknown)] ??
          null,
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        vocab,
        merges: sentencePieceMerges(pieces, vocab),
      },
    };
  }
  throw unusable(
    meta,
    "tokenizer.ggml.model",
    `A tokenizer of kind ${JSON.stringify(model)} cannot be rebuilt`,
  );
}

/** `tokenizer_config.json` of a GGUF model: special tokens, chat template, whether ends are added. */
export function ggufTokenizerConfig(meta: GgufMetadata): Record<string, unknown> {
  const tokens = stringArray(meta, "tokenizer.ggml.tokens");
  if (!tokens) return {};
  const config: Record<string, unknown> = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    add_bos_token: addsBos(meta),
    add_eos_token: meta.boolean("tokenizer.ggml.add_eos_token") ?? false,
    model_max_length: meta.number(`${meta.string("general.architecture")}.context_length`),
  };
  const named = { bos: "bos", eos: "eos", pad: "padding", unk: "unknown" };
  for (const [short, long] of Object.entries(named)) {
    const token = tokenAt(meta, tokens, `${long}_token_id`);
    if (token !== undefined) config[`${short}_token`] = token;
  }
  const template = meta.string("tokenizer.chat_template");
  if (template !== undefined) config["chat_template"] = template;
  return config;
}

/** `generation_config.json` of a GGUF model: ends of text and of a turn. */
export function ggufGenerationConfig(meta: GgufMetadata): Record<string, unknown> {
  const config: Record<string, unknown> = {};
  const id = (name: string) => meta.number(`tokenizer.ggml.${name}_token_id`);
  const stops = [...new Set([id("eos"), id("eot"), id("eom")])].filter((n) => n !== undefined);
  if (id("bos") !== undefined) config["bos_token_id"] = id("bos");
  if (stops.length > 0) config["eos_token_id"] = stops.length === 1 ? stops[0] : stops;
  if (id("padding") !== undefined) config["pad_token_id"] = id("padding");
  return config;
}

function preTokenizer(meta: GgufMetadata): PreTokenizer {
  const pre = meta.string("tokenizer.ggml.pre") ?? "default";
  if (Object.hasOwn(PRE_TOKENIZERS, pre)) return PRE_TOKENIZERS[pre]!;
  throw unusable(
    meta,
    "tokenizer.ggml.pre",
    `The pre-tokenizer "${pre}" is not one of ${Object.keys(PRE_TOKENIZERS).join(", ")}`,
  );
}

function addsBos(meta: GgufMetadata): boolean {
  const said = meta.boolean("tokenizer.ggml.add_bos_token");
  if (said !== undefined) return said;
  return meta.string("tokenizer.ggml.model") === "gpt2" ? preTokenizer(meta).addBos ?? false : true;
}

/** Post-processor that puts the first and last token on, or `null` when there is neither. */
function endsTemplate(
  meta: GgufMetadata,
  tokens: string[],
  bosDefault: boolean,
): Record<string, unknown> | null {
  const bos = (meta.boolean("tokenizer.ggml.add_bos_token") ?? bosDefault)
    ? tokenAt(meta, tokens, "bos_token_id")
    : undefined;
  const eos = meta.boolean("tokenizer.ggml.add_eos_token")
    ? tokenAt(meta, tokens, "eos_token_id")
    : undefined;
  if (bos === undefined && eos === undefined) return null;
  const special = (token: string | undefined, type: number) =>
    token === undefined ? [] : [{ SpecialToken: { id: token, type_id: type } }];
  const around = (name: string, type: number) => [
    ...special(bos, type),
    { Sequence: { id: name, type_id: type } },
    ...special(eos, type),
  ];
  const used = [...new Set([bos, eos])].filter((t) => t !== undefined);
  return {
    type: "TemplateProcessing",
    single: around("A", 0),
    pair: [...around("A", 0), ...around("B", 1)],
    special_tokens: Object.fromEntries(
      used.map((t) => [t, { id: t, ids: [tokens.indexOf(t)], tokens: [t] }]),
    ),
  };
}

function vocabulary(meta: GgufMetadata, tokens: string[]): Record<string, number> {
  const vocab = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (vocab.has(token)) {
      throw unusable(meta, "tokenizer.ggml.tokens", `Tokens ${vocab.get(token)} and ${id} are the same`);
    }
    vocab.set(token, id);
  });
  return Object.fromEntries(vocab);
}

/** Tokens that are found in text before anything else: control tokens, and those that the model's makers added. */
function addedTokens(tokens: string[], types: ArrayLike<number>): AddedToken[] {
  const added: AddedToken[] = [];
  tokens.forEach((content, id) => {
    const type = types[id];
    if (type !== TOKEN_TYPE.control && type !== TOKEN_TYPE.userDefined && type !== TOKEN_TYPE.unknown) return;
    added.push({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: type !== TOKEN_TYPE.userDefined,
    });
  });
  return added;
}

function tokenAt(meta: GgufMetadata, tokens: string[], name: string): string | undefined {
  const key = `tokenizer.ggml.${name}`;
  const id = meta.number(key);
  if (id === undefined) return undefined;
  const token = tokens[id];
  if (token === undefined) throw unusable(meta, key, `There is no token ${id} among ${tokens.length}`);
  return token;
}

function stringArray(meta: GgufMetadata, key: string): string[] | undefined {
  const value = meta.values.get(key);
  if (value === undefined) return undefined;
  if (Array.isArray(value) && value.every((v) => typeof v === "string")) return value;
  throw unusable(meta, key, "It must be a list of strings");
}

function numberArray(
  meta: GgufMetadata,
  key: string,
  length: number,
): ArrayLike<number> & number[] | undefined {
  const value = meta.values.get(key);
  if (value === undefined) return undefined;
  const list = typeof value === "object" ? [...value] : [];
  if (list.length === length && list.every((v) => typeof v === "number")) return list;
  throw unusable(meta, key, `It must be a list of ${length} numbers, one a token`);
}

function unusable(meta: GgufMetadata, key: string, what: string): NibbleError {
  return new NibbleError("formats/gguf-tokenizer", what, {
    where: `${meta.path}, key "${key}"`,
    remedy: "Take the tokenizer.json of the Hugging Face model that this file was made from.",
  });
}
