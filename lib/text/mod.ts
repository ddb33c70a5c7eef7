/**
 * Text to tokens: the tokenizer, the chat template, and which tokens the loss is about.
 *
 * @example Encode a conversation and look at its mask.
 * ```ts
 * import { createTokenizer, encodeChat, inspectExample } from "./mod.ts";
 *
 * const vocab = Object.fromEntries([..."<|>abcdefghijklmnopqrstuvwxyz/\n"].map((c, id) => [c, id]));
 * const tok = createTokenizer({
 *   tokenizerJson: {
 *     added_tokens: [{ id: 99, content: "</s>", special: true, normalized: false, lstrip: false, rstrip: false }],
 *     model: { type: "BPE", vocab, merges: [] },
 *   },
 *   tokenizerConfig: { eos_token: "</s>" },
 * });
 * const chat = [{ role: "user", content: "hi" }, { role: "assistant", content: "yo" }];
 * const example = encodeChat(tok, chat, { assistantOnly: true, maxLength: 512, row: 1 });
 * if (!inspectExample(tok, example).includes("⟦yo</s>⟧")) throw new Error(inspectExample(tok, example));
 * ```
 *
 * @module
 */
export { createTokenizer, type TokenizerFiles, type TokenizerOptions } from "./tokenizer.ts";
export {
  type ChatOptions,
  encodeChat,
  type EncodeChatOptions,
  encodeChatPrompt,
  type EncodeOptions,
  encodePromptCompletion,
  type EncodePromptCompletionOptions,
  encodeText,
  type EncodeTextOptions,
} from "./encode.ts";
export {
  type AnswerIds,
  type AnswerLimits,
  type AnswerOptions,
  CUTS,
  encodeAnswers,
  joinAnswer,
} from "./preference.ts";
export { inspectExample, type InspectOptions } from "./inspect.ts";
export { type RenderedChat, renderWithSpans } from "./spans.ts";
export type { Span } from "./align.ts";
export { CHATML_TEMPLATE, compileTemplate, type RenderTemplate, ZEPHYR_TEMPLATE } from "./template.ts";
export type { EncodedExample, Message, RenderOptions, TemplateSource, Tokenizer } from "./types.ts";
