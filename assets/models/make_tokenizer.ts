/**
 * Trains the byte-level BPE tokenizer of assets/models/tiny on assets/data/shakespeare:
 *
 *     deno run -A assets/models/make_tokenizer.ts
 *
 * Byte-level BPE as in GPT-2 (Sennrich et al. 2016, 1508.07909; Radford et al. 2019): text is cut by GPT-2's pattern,
 * bytes are written as printable characters, and the most frequent pair of neighbours is joined until the vocabulary
 * is full. Ties go to the pair that comes first in the alphabet, so the same text gives the same tokenizer.
 */
const SIZE = 2048;
const SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"];
const PATTERN = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** GPT-2's table: every byte as a printable character. */
function byteCharacters(): string[] {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++));
}

const characters = byteCharacters();
const rows = (await Deno.readTextFile(new URL("../data/shakespeare/train.jsonl", import.meta.url))).trim().split("\n");
const words = new Map<string, number>();
for (const row of rows) {
  for (const part of (JSON.parse(row).text as string).split(/<\|im_start\|>|<\|im_end\|>/)) {
    for (const [word] of part.matchAll(PATTERN)) words.set(word, (words.get(word) ?? 0) + 1);
  }
}
const pieces = [...words].map(([word, count]) => ({
  symbols: Array.from(new TextEncoder().encode(word), (b) => characters[b]!),
  count,
}));
const vocabulary = [...SPECIAL, ...[...characters].sort()];
const merges: string[] = [];
while (vocabulary.length < SIZE) {
  const pairs = new Map<string, number>();
  for (const { symbols, count } of pieces) {
    for (let i = 1; i < symbols.length; i++) {
      const pair = `${symbols[i - 1]} ${symbols[i]}`;
      pairs.set(pair, (pairs.get(pair) ?? 0) + count);
    }
  }
  const [best] = [...pairs].reduce((a, b) => b[1] > a[1] || (b[1] === a[1] && b[0] < a[0]) ? b : a);
  const [left, right] = best.split(" ") as [string, string];
  merges.push(best);
  vocabulary.push(left + right);
  for (const piece of pieces) {
    const { symbols } = piece;
    for (let i = 1; i < symbols.length; i++) {
      if (symbols[i - 1] === left && symbols[i] === right) symbols.splice(i - 1, 2, left + right);
    }
  }
}

const tokenizer = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: SPECIAL.map((content, id) => ({
    ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
  })),
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: "BPE",
    ...{ dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false },
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
    merges: merges.map((pair) => pair.split(" ")),
  },
};
const config = {
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: null,
  eos_token: "<|im_end|>",
  pad_token: "<|pad|>",
  unk_token: null,
  add_bos_token: false,
  clean_up_tokenization_spaces: false,
  model_max_length: 256,
  chat_template: "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + " +
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
};
const folder = new URL("tiny/", import.meta.url);
await Deno.mkdir(folder, { recursive: true });
await Deno.writeTextFile(new URL("tokenizer.json", folder), JSON.stringify(tokenizer, null, 1) + "\n");
await Deno.writeTextFile(new URL("tokenizer_config.json", folder), JSON.stringify(config, null, 2) + "\n");
console.log(`${vocabulary.length} tokens, ${merges.length} merges, ${words.size} words`);
