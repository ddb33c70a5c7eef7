/**
 * The tokenizer of a model: tokenizer.json and tokenizer_config.json as Hugging Face writes them.
 * @module
 */
import { createHash } from "node:crypto";
import { DigitsPreTokenizer, Tokenizer as Engine } from "@huggingface/tokenizers";
import { NibbleError } from "../errors.ts";
import { BYTE_OF_CHAR } from "./bytes.ts";
import { compileTemplate, type RenderTemplate } from "./template.ts";
import {
  type AddedTokenEntry,
  chooseTemplate,
  completeJson,
  hasType,
  saveTokenizer,
  specialToken,
  tokenText,
} from "./tokenizer_files.ts";
import type { Tokenizer } from "./types.ts";

type Json = Record<string, unknown>;

/** What a tokenizer is made from; the model's files (`openModel`) fit as they are. */
export interface TokenizerFiles {
  /** Parsed tokenizer.json. */
  tokenizerJson?: unknown;
  /** Parsed tokenizer_config.json. */
  tokenizerConfig?: Record<string, unknown> | undefined;
  /** Parsed generation_config.json: its `eos_token_id` join the stop tokens. */
  generationConfig?: Record<string, unknown> | undefined;
  /** Chat template that wins over the one in tokenizer_config.json. */
  chatTemplate?: string | undefined;
  /** Path or id, for error messages. */
  path?: string | undefined;
}

/** Settings that win over the files. */
export interface TokenizerOptions {
  /** Replaces `eos_token` (recipe key `eos_token`). */
  eos_token?: string | undefined;
  /** Replaces `pad_token` (recipe key `pad_token`). */
  pad_token?: string | undefined;
  /** The date that templates see through `strftime_now`. Default: when the tokenizer is made. */
  now?: Date;
}

/** Tokens that close a turn in well-known templates; those that a template names join the stop tokens. */
const END_OF_TURN = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"];

/** Tokenizer classes whose BOS/EOS follow `add_bos_token`/`add_eos_token` whatever tokenizer.json says. */
const FLAGGED_CLASS = /^(Llama|CodeLlama|Gemma|Cohere)Tokenizer(Fast)?$/;

/**
 * Makes a tokenizer from a model's files.
 *
 * Template: `chatTemplate`, else the one in tokenizer_config.json, else ChatML where the vocabulary has
 * `<|im_start|>`, else Zephyr's plain form; `templateSource` says which. BOS: plain text gets the BOS that the
 * tokenizer's own rule adds, and never two.
 *
 * Throws {@link NibbleError} `text/no-tokenizer`, `text/bad-tokenizer`, `text/unknown-token`, `text/template-syntax`.
 *
 * @example
 * ```ts
 * import { createTokenizer } from "./mod.ts";
 * const vocab = { "<s>": 0, "</s>": 1, h: 2, i: 3, hi: 4 };
 * const tok = createTokenizer({
 *   tokenizerJson: {
 *     added_tokens: [{ id: 1, content: "</s>", special: true, normalized: false, lstrip: false, rstrip: false }],
 *     model: { type: "BPE", vocab, merges: [["h", "i"]] },
 *   },
 *   tokenizerConfig: { bos_token: "<s>", eos_token: "</s>" },
 * });
 * if (tok.encode("hi</s>").join() !== "4,1") throw new Error("merged, then the special token");
 * if (tok.templateSource !== "default-zephyr") throw new Error("no template was given");
 * ```
 */
export function createTokenizer(files: TokenizerFiles, options: TokenizerOptions = {}): Tokenizer {
  const where = files.path;
  const config: Json = { ...files.tokenizerConfig };
  if (options.eos_token !== undefined) config.eos_token = options.eos_token;
  if (options.pad_token !== undefined) config.pad_token = options.pad_token;
  const json = completeJson(files.tokenizerJson, config, where);
  const engine = createEngine(json, config, where);
  const model = json.model as Json;
  const vocab = engine.model!.vocab;
  const added = new Map((json.added_tokens as AddedTokenEntry[]).map((entry) => [entry.id, entry]));
  const kind = hasType(json.pre_tokenizer, "ByteLevel") || hasType(json.decoder, "ByteLevel")
    ? "byte-level"
    : "metaspace";
  const idOf = (token: string) => engine.token_to_id(token);

  const lookup = { idOf, tokenOf: (id: number) => vocab[id] };
  const special = (key: "bos" | "eos" | "pad") =>
    specialToken(key, config, files.generationConfig ?? {}, lookup, where);
  const bos = special("bos"), eos = special("eos"), pad = special("pad") ?? eos;
  const rule = bosRule(engine, json, config, bos?.id);

  const [template, templateSource] = chooseTemplate(
    files.chatTemplate,
    config,
    idOf("<|im_start|>") !== undefined,
  );
  let known: string | undefined;
  let render: RenderTemplate | undefined; // compiled when first used: a tokenizer is useful without its template

  const stops = [files.generationConfig?.eos_token_id].flat().filter((id) => typeof id === "number");
  const turnEnds = END_OF_TURN.filter((token) => template.includes(token)).map(idOf);
  const eosIds = [eos?.id, ...stops, ...turnEnds].filter((id) => id !== undefined);

  const encode = (text: string, { addSpecialTokens = true } = {}): number[] => {
    const ids = engine.encode(text, { add_special_tokens: addSpecialTokens && !rule.own }).ids;
    if (ids.includes(undefined as unknown as number)) {
      throw new NibbleError(
        "text/unknown-token",
        `No token for a part of ${JSON.stringify(text.slice(0, 60))}`,
        {
          ...(where === undefined ? {} : { where }),
          remedy: "The vocabulary has no unk_token for text outside it: check tokenizer.json.",
        },
      );
    }
    if (!addSpecialTokens) return ids;
    if (rule.own && rule.bos) ids.unshift(bos!.id);
    if (rule.own && config.add_eos_token === true && eos && ids.at(-1) !== eos.id) ids.push(eos.id);
    if (bos && ids[0] === bos.id && ids[1] === bos.id) ids.shift();
    return ids;
  };

  return {
    vocabSize: vocab.length,
    bosId: bos?.id,
    eosId: eos?.id,
    padId: pad?.id,
    eosIds: [...new Set(eosIds)],
    addsBos: rule.bos,
    chatTemplate: template,
    templateSource,
    kind,
    encode,
    decode(ids, { skipSpecialTokens = false } = {}) {
      const known = Array.from(ids).filter((id) => vocab[id] !== undefined);
      if (known.length === 0) return "";
      // "clean-up" would take spaces away before punctuation: text must come back as it went in
      const settings = { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: false };
      return engine.decode(known, settings);
    },
    idOf,
    tokenOf: (id) => vocab[id],
    tokenBytes(id) {
      const token = vocab[id] ?? "";
      if (added.has(id)) return new TextEncoder().encode(token);
      if (kind === "byte-level") return Uint8Array.from(token, (char) => BYTE_OF_CHAR.get(char) ?? 0x3f);
      const byte = model.byte_fallback ? /^<0x([0-9A-F]{2})>$/.exec(token) : null;
      return byte
        ? Uint8Array.of(parseInt(byte[1], 16))
        : new TextEncoder().encode(token.replaceAll("▁", " "));
    },
    isSpecial: (id) => added.get(id)?.special === true || id === bos?.id || id === eos?.id,
    isAdded: (id) => added.has(id),
    renderChat(messages, settings = {}) {
      try {
        render ??= compileTemplate(template, options.now ?? new Date());
        return render({
          bos_token: bos?.token ?? "",
          eos_token: eos?.token ?? "",
          pad_token: pad?.token ?? "",
          unk_token: tokenText(config.unk_token) ?? "",
          ...settings.variables,
          messages,
          add_generation_prompt: settings.addGenerationPrompt ?? false,
        });
      } catch (error) {
        if (!(error instanceof NibbleError) || settings.where === undefined) throw error;
        const [what] = error.message.split("\n");
        throw new NibbleError(error.code, what, {
          where: settings.where,
          ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
          cause: error.cause,
        });
      }
    },
    digest() {
      const today = template.includes("strftime_now") ? (options.now ?? new Date()).toDateString() : "";
      const rules = [json, config, files.generationConfig ?? {}, template, today];
      return known ??= createHash("sha256").update(JSON.stringify(rules)).digest("hex");
    },
    save: (folder) => saveTokenizer(folder, { json: files.tokenizerJson, config, template }),
  };
}

/** Does plain text get a BOS, and do we add it ourselves (`own`) rather than tokenizer.json's post-processor? */
function bosRule(
  engine: Engine,
  json: Json,
  config: Json,
  bosId: number | undefined,
): { bos: boolean; own: boolean } {
  if (bosId === undefined) return { bos: false, own: false };
  const flag = config.add_bos_token;
  const flagged = typeof flag === "boolean" && FLAGGED_CLASS.test(String(config.tokenizer_class));
  if (flagged || (flag === true && json.post_processor === null)) return { bos: flag, own: true };
  return { bos: engine.encode("", { add_special_tokens: true }).ids[0] === bosId, own: false };
}

function createEngine(json: Json, config: Json, where: string | undefined): Engine {
  let engine: Engine;
  try {
    engine = new Engine(json, config);
  } catch (cause) {
    throw new NibbleError("text/bad-tokenizer", `Cannot use tokenizer.json: ${(cause as Error).message}`, {
      ...(where === undefined ? {} : { where }),
      remedy: "Only BPE, Unigram and WordPiece tokenizers of the fast kind are read.",
      cause,
    });
  }
  mendDigits(engine.pre_tokenizer);
  mendByteFallback(engine.decoder);
  return engine;
}

/**
 * The JavaScript engine splits off ASCII digits only; Hugging Face's splits every character that Unicode calls
 * numeric (½, ², ٣), and ids must be the same as there.
 */
function mendDigits(step: unknown): void {
  if (step instanceof DigitsPreTokenizer) {
    const own = step as unknown as { config: { individual_digits?: boolean }; pattern: RegExp };
    own.pattern = own.config.individual_digits ? /\P{N}+|\p{N}/gu : /\P{N}+|\p{N}+/gu;
  }
  const inner = (step as { tokenizers?: unknown } | null)?.tokenizers;
  if (Array.isArray(inner)) inner.forEach(mendDigits);
}

/**
 * The JavaScript engine drops U+FEFF from a run of byte tokens and puts one U+FFFD for several bytes that are no
 * character; Hugging Face's keeps the one, and puts a U+FFFD for each byte of a run that is not whole.
 */
function mendByteFallback(step: unknown): void {
  const own = step as { config?: { type?: string }; text_decoder?: unknown; decoders?: unknown } | null;
  if (own?.config?.type === "ByteFallback") {
    const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    own.text_decoder = {
      decode(bytes: Uint8Array): string {
        try {
          return strict.decode(bytes);
        } catch {
          return "\ufffd".repeat(bytes.length);
        }
      },
    };
  }
  if (Array.isArray(own?.decoders)) own.decoders.forEach(mendByteFallback);
}
