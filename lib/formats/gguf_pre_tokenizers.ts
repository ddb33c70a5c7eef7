/**
 * How byte-level vocabularies cut text before merging: GGUF gives only a name for it.
 * @module
 */

/** How text is cut before merging, and what belongs to that. */
export interface PreTokenizer {
  pre_tokenizer: Record<string, unknown>;
  normalizer?: Record<string, unknown>;
  /** Take a cut that is a token as it is. */
  ignoreMerges?: boolean;
  /** Whether a beginning-of-text token goes first where the file doesn't say. */
  addBos?: boolean;
}

const byteLevel = (useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});

const split = (regex: string) => ({
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false },
    byteLevel(false),
  ],
});

/** Words with at most one leading character, digits by `digits`, punctuation, line ends, spaces (cl100k's rule). */
const words = (digits: string) =>
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|` + digits +
  String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const GPT2: PreTokenizer = { pre_tokenizer: byteLevel(true) };
const LLAMA3: PreTokenizer = {
  pre_tokenizer: split(words(String.raw`\p{N}{1,3}`)),
  ignoreMerges: true,
  addBos: true,
};
const QWEN2: PreTokenizer = { pre_tokenizer: split(words(String.raw`\p{N}`)), normalizer: { type: "NFC" } };
/**
 * GPT-2's rule with every digit apart. Hugging Face writes the first step as `Digits`, which its Rust library takes
 * as every Unicode number and its JavaScript library as 0-9 only; said as a pattern it is the same in both.
 */
const SINGLE_DIGITS: PreTokenizer = {
  pre_tokenizer: {
    type: "Sequence",
    pretokenizers: [{
      type: "Split",
      pattern: { Regex: String.raw`\p{N}` },
      behavior: "Isolated",
      invert: false,
    }, byteLevel(true)],
  },
};

/** By `tokenizer.ggml.pre`. */
export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  "default": GPT2,
  "gpt-2": GPT2,
  "smollm": SINGLE_DIGITS,
  "starcoder": SINGLE_DIGITS,
  "refact": SINGLE_DIGITS,
  "llama-bpe": LLAMA3,
  "llama3": LLAMA3,
  "llama-v3": LLAMA3,
  "qwen2": QWEN2,
};
