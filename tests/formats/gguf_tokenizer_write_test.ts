import assert from "node:assert/strict";
import fc from "fast-check";
import { Tokenizer } from "@huggingface/tokenizers";
import { ggufMetadata } from "../../lib/formats/gguf_config.ts";
import type { GgufValue } from "../../lib/formats/gguf_header.ts";
import { ggufTokenizerJson } from "../../lib/formats/gguf_tokenizer.ts";
import { tokenizerEntries, type TokenizerParts } from "../../lib/formats/gguf_tokenizer_write.ts";
import { byteLevel } from "./gguf_tokenizers.ts";
import { throwsCode } from "./support.ts";

Deno.test("a byte-level tokenizer's way of cutting has a name, or is refused", () => {
  const parts = (pre: unknown): TokenizerParts => ({
    ...{
      tokenizerJson: byteLevel(pre),
      tokenizerConfig: {},
      chatTemplate: undefined,
      vocabSize: 300,
      path: "m",
    },
  });
  const name = (pre: unknown) => new Map(tokenizerEntries(parts(pre))).get("tokenizer.ggml.pre");
  const bytes = (use_regex: boolean, more = {}) => ({
    type: "ByteLevel",
    add_prefix_space: false,
    use_regex,
    ...more,
  });
  const split = (Regex: string) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  });
  const both = (...pretokenizers: unknown[]) => ({ type: "Sequence", pretokenizers });
  assert.equal(name(bytes(true)), "gpt-2");
  assert.equal(name(both({ type: "Digits", individual_digits: true }, bytes(true))), "smollm");
  const llama3 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}` +
    String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  assert.equal(name(both(split(llama3), bytes(false))), "llama-bpe");
  assert.equal(name(both(split(llama3.replace("{1,3}", "")), bytes(false))), "qwen2");
  for (
    const pre of [bytes(true, { add_prefix_space: true }), both(split("x"), bytes(false)), {
      type: "Whitespace",
    }, null]
  ) {
    throwsCode(() => name(pre), "formats/gguf-tokenizer", "pre_tokenizer");
  }
  const unigram = { ...parts(bytes(true)), tokenizerJson: { model: { type: "Unigram" } } };
  throwsCode(() => tokenizerEntries(unigram), "formats/gguf-tokenizer", "Unigram");
  throwsCode(
    () => tokenizerEntries({ ...parts(bytes(true)), vocabSize: 100 }),
    "formats/gguf-tokenizer",
    "100 rows",
  );
  const filled = new Map(tokenizerEntries(parts(bytes(true)))).get("tokenizer.ggml.tokens") as {
    strings: string[];
  };
  assert.equal(filled.strings[299], "[PAD299]");
});

Deno.test("a SentencePiece vocabulary keeps its order of merges, whatever it is", () => {
  const letters = [..."abcd▁"];
  fc.assert(
    fc.property(
      fc.uniqueArray(
        fc.array(fc.constantFrom(...letters), { minLength: 2, maxLength: 4 }).map((c) => c.join("")),
        {
          minLength: 1,
          maxLength: 12,
        },
      ),
      fc.array(fc.constantFrom(..."abcd "), { maxLength: 20 }).map((c) => c.join("")),
      (pieces, text) => {
        const base = ["<unk>", "<s>", "</s>", "<0x0A>", ...letters];
        const vocab = Object.fromEntries([...base, ...pieces].map((t, i) => [t, i]));
        const known = new Set([...letters, ...pieces]);
        // as transformers converts a vocabulary: by the rank of the piece, then by its halves
        const merges = pieces.flatMap((p) =>
          [...Array(p.length - 1).keys()].map((i) => [p.slice(0, i + 1), p.slice(i + 1)] as [string, string])
            .filter(([l, r]) => known.has(l) && known.has(r))
            .sort((x, y) => vocab[x[0]]! - vocab[y[0]]! || vocab[x[1]]! - vocab[y[1]]!)
        );
        const special = (content: string, id: number) => ({
          ...{ id, content, special: true },
          ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
        });
        const json = {
          ...{ version: "1.0", truncation: null, padding: null, pre_tokenizer: null, post_processor: null },
          added_tokens: [special("<unk>", 0), special("<s>", 1), special("</s>", 2)],
          normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
          decoder: { type: "Fuse" },
          model: {
            ...{
              type: "BPE",
              dropout: null,
              unk_token: "<unk>",
              fuse_unk: true,
              byte_fallback: true,
              vocab,
              merges,
            },
            ...{ continuing_subword_prefix: null, end_of_word_suffix: null, ignore_merges: false },
          },
        };
        const entries = tokenizerEntries({
          ...{ tokenizerJson: json, tokenizerConfig: {}, chatTemplate: undefined, path: "m" },
          vocabSize: base.length + pieces.length,
        });
        const plain = new Map(entries.map(([key, value]): [string, GgufValue] => [
          key,
          typeof value !== "object" ? value : Object.values(value)[0] as GgufValue,
        ]));
        const back = ggufTokenizerJson(ggufMetadata("m", plain))!;
        assert.deepEqual([...plain.get("tokenizer.ggml.token_type") as Int32Array].slice(0, 5), [
          2,
          3,
          3,
          6,
          1,
        ]);
        if (text === "") return;
        const ids = (t: unknown) =>
          new Tokenizer(t as never, {}).encode(text, { add_special_tokens: false }).ids;
        assert.deepEqual(ids(back), ids(json), `${pieces} ${JSON.stringify(text)}`);
      },
    ),
    { numRuns: 60 },
  );
});
