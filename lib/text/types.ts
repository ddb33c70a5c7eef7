/**
 * The words of this room: messages, tokenizers, encoded examples.
 * @module
 */

/** One turn of a conversation. Further keys (`tool_calls`, `name`, ...) reach the chat template untouched. */
export interface Message {
  /** `system`, `user`, `assistant`, `tool`, ... */
  role: string;
  /** What was said. */
  content: string;
}

/** How to render a conversation. */
export interface RenderOptions {
  /** End with the header of an assistant turn, so that a model goes on from there. Default false. */
  addGenerationPrompt?: boolean;
  /** Further variables of the template: a row's `chat_template_kwargs`, `tools`, `documents`. */
  variables?: Record<string, unknown>;
  /** The row or file, for error messages. */
  where?: string | undefined;
}

/** Where the chat template in force came from. */
export type TemplateSource = "given" | "tokenizer_config" | "default-chatml" | "default-zephyr";

/** Text to token ids and back, with the special tokens and the chat template of one model. */
export interface Tokenizer {
  /** Highest token id plus one. A model's embedding may have more rows, never fewer. */
  readonly vocabSize: number;
  /** Id of `bos_token`, if the tokenizer names one. */
  readonly bosId: number | undefined;
  /** Id of `eos_token`. */
  readonly eosId: number | undefined;
  /** Id of `pad_token`, else of `eos_token`. Padding is masked by position, so sharing the id is harmless. */
  readonly padId: number | undefined;
  /** All ids that end a generated answer: `eos_token`, `generation_config.json`, the template's end-of-turn token. */
  readonly eosIds: number[];
  /** True if plain text gets a BOS of the tokenizer's own accord. */
  readonly addsBos: boolean;
  /** Source text of the chat template in force (always one: see {@link templateSource}). */
  readonly chatTemplate: string | undefined;
  /** Where {@link chatTemplate} came from; `default-*` means that the model has none. */
  readonly templateSource: TemplateSource;
  /** The kind of vocabulary, which decides how token text maps to bytes. */
  readonly kind: "byte-level" | "metaspace";
  /**
   * Token ids of a text. Special tokens written out in the text become their ids. With `addSpecialTokens`
   * (default true) the tokenizer's own BOS/EOS are added, and never a second BOS.
   */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /** The text of token ids, spaces exactly as encoded (no "clean-up"). Ids outside the vocabulary are left out. */
  decode(ids: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string;
  /** Id of a token by its text, if it exists. */
  idOf(token: string): number | undefined;
  /** A token's text as the vocabulary writes it (`Ġhello`, `▁hello`, `<0x0A>`). */
  tokenOf(id: number): string | undefined;
  /** The UTF-8 bytes that a token stands for (possibly a part of a character). */
  tokenBytes(id: number): Uint8Array;
  /** True for control tokens: those marked special, such as BOS, EOS and turn markers. */
  isSpecial(id: number): boolean;
  /** True for tokens added beside the trained vocabulary, special or not. */
  isAdded(id: number): boolean;
  /** Renders a conversation with the chat template. Throws {@link NibbleError} if the template refuses it. */
  renderChat(messages: Message[], options?: RenderOptions): string;
  /**
   * SHA-256 over all that decides what text becomes: vocabulary, rules, special tokens, chat template, and today's date
   * where the template asks for it.
   */
  digest(): string;
  /** Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja. */
  save(folder: string): void;
}

/** One example as tokens, with the targets of the loss marked. */
export interface EncodedExample {
  /** Token ids. */
  ids: number[];
  /** `trained[i]`: is token i a target of the loss? (Token 0 has no predecessor, so it is never predicted.) */
  trained: boolean[];
  /** Row number in the data set, from 1. */
  row: number;
  /** How many tokens were cut off by `maxLength`; absent if none. */
  truncated?: number;
  /** True if cut tokens were targets: the answer, or its stop token, is not whole. */
  answerCut?: boolean;
  /** False if a trained turn does not end in a special token, so that the model cannot learn to stop. */
  stops?: boolean;
}
