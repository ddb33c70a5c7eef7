/**
 * Examples as tokens: conversations, plain text, prompt and completion, preference pairs.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { markTokens, type Span } from "./align.ts";
import { endsInStop, renderWithSpans } from "./spans.ts";
import type { EncodedExample, Message, Tokenizer } from "./types.ts";

/** Settings that all encoders share. */
export interface EncodeOptions {
  /** Keep at most this many tokens (`max_length`). Absent or Infinity: all. */
  maxLength?: number | undefined;
  /** Which end is kept (`truncation_mode`), as TRL cuts: `keep_end` keeps no BOS either. Default `keep_start`. */
  truncationMode?: "keep_start" | "keep_end" | undefined;
  /** Row number in the data set, from 1. */
  row: number;
  /** The row as an error message should name it, such as `train.jsonl:17`. Default `row N`. */
  where?: string | undefined;
}

/** Settings of rendered conversations. */
export interface ChatOptions {
  /** Further template variables (`chat_template_kwargs`, `tools`). */
  variables?: Record<string, unknown> | undefined;
  /**
   * `auto` (default): exactly one BOS where the tokenizer adds one to plain text, whether or not the template writes
   * it. `template`: only what the template writes, as transformers' `apply_chat_template` tokenizes.
   */
  bos?: "auto" | "template" | undefined;
}

/** Settings of {@link encodeChat}. */
export interface EncodeChatOptions extends EncodeOptions, ChatOptions {
  /** Train on the assistant's turns only (`assistant_only_loss`), or on every token. */
  assistantOnly: boolean;
}

/**
 * Encodes a conversation. The ids are those of the whole rendered text; with `assistantOnly` the targets are the
 * tokens that hold a character of an assistant turn or its stop token, and nothing after that.
 *
 * Throws {@link NibbleError} `text/template-*`, `text/turn-not-found`, `text/double-bos`, with the row.
 *
 * @example
 * ```ts
 * import { createTokenizer, encodeChat } from "./mod.ts";
 * const letters = [..."\n ahosty"].map((c) => c === " " ? "Ġ" : c === "\n" ? "Ċ" : c);
 * const tok = createTokenizer({
 *   tokenizerJson: {
 *     added_tokens: ["<|im_start|>", "<|im_end|>"].map((content, id) => ({ id, content, special: true })),
 *     pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
 *     decoder: { type: "ByteLevel" },
 *     model: { type: "BPE", vocab: Object.fromEntries([..."ehinrsu", ...letters].map((c, i) => [c, i + 2])), merges: [] },
 *   },
 *   tokenizerConfig: { eos_token: "<|im_end|>" },
 * });
 * const chat = [{ role: "user", content: "hi" }, { role: "assistant", content: "yo" }];
 * const { ids, trained } = encodeChat(tok, chat, { assistantOnly: true, row: 1 });
 * const answer = tok.decode(ids.filter((_, i) => trained[i]));
 * if (answer !== "yo<|im_end|>") throw new Error(answer);
 * ```
 */
export function encodeChat(tok: Tokenizer, messages: Message[], options: EncodeChatOptions): EncodedExample {
  const where = options.where ?? `row ${options.row}`;
  const settings = { where, ...(options.variables ? { variables: options.variables } : {}) };
  if (!options.assistantOnly) {
    const ids = chatIds(tok, tok.renderChat(messages, settings), options.bos, where);
    return truncate({ ids, trained: ids.map(() => true), row: options.row }, options);
  }
  const { text, spans, stops } = renderWithSpans(tok, messages, settings);
  const example = markedExample(tok, text, spans, options, where);
  if (!stops) example.stops = false;
  return truncate(example, options);
}

/**
 * Token ids of a conversation that the model shall continue: rendered with the generation prompt, by the same rule
 * for BOS as in training.
 */
export function encodeChatPrompt(tok: Tokenizer, messages: Message[], options: ChatOptions = {}): number[] {
  const settings = {
    addGenerationPrompt: true,
    ...(options.variables ? { variables: options.variables } : {}),
  };
  return chatIds(tok, tok.renderChat(messages, settings), options.bos, "prompt");
}

/** Settings of {@link encodeText}. */
export interface EncodeTextOptions extends EncodeOptions {
  /** Append `eos_token` if the text does not end in it. */
  addEos: boolean;
}

/** Encodes plain text with the tokenizer's own BOS; the loss is on every token. */
export function encodeText(tok: Tokenizer, text: string, options: EncodeTextOptions): EncodedExample {
  const ids = tok.encode(text);
  appendEos(tok, ids, options.addEos);
  return truncate({ ids, trained: ids.map(() => true), row: options.row }, options);
}

/** Settings of {@link encodePromptCompletion}. */
export interface EncodePromptCompletionOptions extends EncodeOptions, ChatOptions {
  /** Train on the completion only (`completion_only_loss`, default true), or on the prompt too. */
  completionOnly?: boolean | undefined;
  /** Append `eos_token` to a plain-text completion that does not end in it. Default true; a template has its own. */
  addEos?: boolean | undefined;
}

/**
 * Encodes a prompt with its completion: two texts, joined as they are, or two lists of messages, rendered as one
 * conversation. The targets are the completion's tokens, with what stops it and what the template writes after that.
 */
export function encodePromptCompletion(
  tok: Tokenizer,
  prompt: string | Message[],
  completion: string | Message[],
  options: EncodePromptCompletionOptions,
): EncodedExample {
  const where = options.where ?? `row ${options.row}`;
  const example = pair(tok, prompt, completion, options, where);
  if (options.completionOnly === false) example.trained.fill(true);
  return truncate(example, options);
}

/** Prompt and completion as one text, completion marked. */
function pair(
  tok: Tokenizer,
  prompt: string | Message[],
  completion: string | Message[],
  options: EncodePromptCompletionOptions,
  where: string,
): EncodedExample {
  if (typeof prompt === "string" && typeof completion === "string") {
    const text = prompt + completion;
    const plain = tok.encode(text, { addSpecialTokens: false });
    const trained = markTokens(tok, plain, text, [[prompt.length, text.length]]);
    if (tok.addsBos && plain[0] !== tok.bosId) {
      plain.unshift(tok.bosId!);
      trained.unshift(false);
    }
    if (appendEos(tok, plain, options.addEos ?? true)) trained.push(true);
    return { ids: plain, trained, row: options.row };
  }
  if (typeof prompt === "string" || typeof completion === "string") {
    throw new NibbleError(
      "text/mixed-pair",
      "Prompt and completion must both be texts or both be lists of messages",
      {
        where,
        remedy: "Write both in the same form.",
      },
    );
  }
  const settings = { where, ...(options.variables ? { variables: options.variables } : {}) };
  const text = tok.renderChat([...prompt, ...completion], settings);
  const opening = tok.renderChat(prompt, { ...settings, addGenerationPrompt: true });
  // TRL's rule: all from where the prompt, opened for an answer, and the whole part
  let start = 0;
  while (start < opening.length && opening[start] === text[start]) start++;
  const example = markedExample(tok, text, [[start, text.length]], options, where);
  if (!endsInStop(tok, text)) example.stops = false;
  return example;
}

function markedExample(
  tok: Tokenizer,
  text: string,
  spans: Span[],
  options: EncodeOptions & ChatOptions,
  where: string,
): EncodedExample {
  const plain = tok.encode(text, { addSpecialTokens: false });
  const trained = markTokens(tok, plain, text, spans);
  const ids = withBos(tok, plain, options.bos, where);
  if (ids.length > trained.length) trained.unshift(false);
  return { ids, trained, row: options.row };
}

function chatIds(tok: Tokenizer, text: string, bos: ChatOptions["bos"], where: string): number[] {
  return withBos(tok, tok.encode(text, { addSpecialTokens: false }), bos, where);
}

/** Puts a BOS in front where the rule asks for one and the template wrote none; refuses two (R12). */
export function withBos(tok: Tokenizer, ids: number[], bos: ChatOptions["bos"], where: string): number[] {
  if (tok.bosId === undefined) return ids;
  // A tokenizer that adds no BOS may use a turn marker as one (`<|im_start|>`): there two in a row are meant.
  if (tok.addsBos && ids[0] === tok.bosId && ids[1] === tok.bosId) {
    throw new NibbleError("text/double-bos", "The rendered conversation starts with two BOS tokens", {
      where,
      remedy: "Take bos_token out of the chat template or out of the first message.",
    });
  }
  return bos !== "template" && tok.addsBos && ids[0] !== tok.bosId ? [tok.bosId, ...ids] : ids;
}

/** Appends EOS where it is wanted, known and not there yet; says whether it did. */
export function appendEos(tok: Tokenizer, ids: number[], wanted: boolean): boolean {
  if (!wanted || tok.eosId === undefined || ids.at(-1) === tok.eosId) return false;
  ids.push(tok.eosId);
  return true;
}

function truncate(example: EncodedExample, options: EncodeOptions): EncodedExample {
  const { maxLength = Infinity, truncationMode = "keep_start" } = options;
  const surplus = example.ids.length - maxLength;
  if (surplus <= 0) return example;
  const [from, to] = truncationMode === "keep_end" ? [surplus, example.ids.length] : [0, maxLength];
  const lost = [...example.trained.slice(0, from), ...example.trained.slice(to)];
  return {
    ...example,
    ids: example.ids.slice(from, to),
    trained: example.trained.slice(from, to),
    truncated: surplus,
    ...(lost.includes(true) ? { answerCut: true } : {}),
  };
}
