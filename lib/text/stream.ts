/**
 * Text from tokens that arrive one by one: a character may span several tokens, and is held back until it is whole.
 * @module
 */
import type { Tokenizer } from "./types.ts";

/** Turns token ids into text as they come. */
export interface TextStream {
  /** The text that this token completes; often one word, empty within a character. */
  push(id: number): string;
  /** What is left: U+FFFD for a character that stayed a fragment. The stream can be used again afterwards. */
  end(): string;
}

/**
 * Opens a stream. Special tokens (turn markers, BOS, EOS) give no text.
 *
 * @example
 * ```ts
 * import { textStream } from "./stream.ts";
 * const halves = [Uint8Array.of(0xc3), Uint8Array.of(0xa9)]; // "é" in two tokens
 * const stream = textStream({ tokenBytes: (id) => halves[id]!, isSpecial: () => false });
 * if (stream.push(0) !== "" || stream.push(1) !== "é") throw new Error("held back until whole");
 * ```
 */
export function textStream(tokenizer: Pick<Tokenizer, "tokenBytes" | "isSpecial">): TextStream {
  const decoder = new TextDecoder();
  return {
    push(id) {
      if (tokenizer.isSpecial(id)) return "";
      return decoder.decode(tokenizer.tokenBytes(id), { stream: true });
    },
    end: () => decoder.decode(),
  };
}
