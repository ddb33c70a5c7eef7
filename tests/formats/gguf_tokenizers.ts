/** A tokenizer for the tests of GGUF writing. */

/** A byte-level tokenizer of 256 bytes, a merge, and three special tokens before them. */
export function byteLevel(
  pre_tokenizer: unknown = { type: "ByteLevel", add_prefix_space: false, use_regex: true },
) {
  const printable = [...Array(256).keys()].map((b) =>
    (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? String.fromCharCode(b) : undefined
  );
  let beyond = 256;
  const bytes = printable.map((c) => c ?? String.fromCharCode(beyond++));
  const added = ["<s>", "</s>", "<|end|>"].map((content, id) => ({
    ...{ id, content, special: true },
    ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
  }));
  return {
    added_tokens: added,
    normalizer: null,
    pre_tokenizer,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } },
    },
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      vocab: Object.fromEntries([...bytes.map((c, i) => [c, i + 3]), ["th", 259], ["the", 260]]),
      merges: [["t", "h"], ["th", "e"]],
    },
  };
}
