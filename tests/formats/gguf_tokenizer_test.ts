import assert from "node:assert/strict";
import { Tokenizer } from "@huggingface/tokenizers";
import { ggufMetadata } from "../../lib/formats/gguf_config.ts";
import type { GgufValue } from "../../lib/formats/gguf_header.ts";
import {
  ggufGenerationConfig,
  ggufTokenizerConfig,
  ggufTokenizerJson,
  type TokenizerJson,
} from "../../lib/formats/gguf_tokenizer.ts";
import { golden, sharedFile, skippable, throwsCode } from "./support.ts";

interface Golden {
  texts: string[];
  byte_level: { tokens: string[]; merges: string[]; ids: Record<string, number[][]> };
  sentencepiece: {
    tokens: string[];
    scores: number[];
    types: number[];
    texts: string[];
    ids: number[][];
    decoded: string[];
  };
}
const reference = golden<Golden>("tokenizers.json");

/** Metadata with `tokenizer.ggml.` before each key. */
const meta = (values: Record<string, GgufValue>) =>
  ggufMetadata(
    "m.gguf",
    new Map(Object.entries(values).map(([key, value]) => [`tokenizer.ggml.${key}`, value])),
  );

const byteLevel = (extra: Record<string, GgufValue> = {}) => ({
  model: "gpt2",
  tokens: reference.byte_level.tokens,
  merges: reference.byte_level.merges,
  ...extra,
});

const load = (json: TokenizerJson | undefined) => new Tokenizer(json!, {});
const encode = (t: Tokenizer, text: string, special = false): number[] =>
  text === "" ? [] : t.encode(text, { add_special_tokens: special }).ids;
const decode = (t: Tokenizer, ids: number[]): string =>
  ids.length === 0 ? "" : t.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false });

for (const [pre, expected] of Object.entries(reference.byte_level.ids)) {
  Deno.test(`byte-level, pre-tokenizer ${pre}: token ids of the reference, and back to the text`, () => {
    const tokenizer = load(ggufTokenizerJson(meta(byteLevel({ pre }))));
    reference.texts.forEach((text, i) => {
      const ids = encode(tokenizer, text);
      assert.deepEqual(ids, expected[i], JSON.stringify(text));
      assert.equal(decode(tokenizer, ids), pre === "qwen2" ? text.normalize("NFC") : text);
    });
  });
}

Deno.test("the golden ids tell the pre-tokenizers apart", () => {
  const distinct = new Set(Object.values(reference.byte_level.ids).map((ids) => JSON.stringify(ids)));
  assert.equal(distinct.size, 4);
});

Deno.test("control tokens are found first and are special, user-defined ones are not special", () => {
  const tokens = [...reference.byte_level.tokens, "<|im_start|>", "<tool>"];
  const type = new Int32Array(tokens.length).fill(1);
  type.set([3, 4], tokens.length - 2);
  const json = ggufTokenizerJson(meta(byteLevel({ tokens, token_type: type })))!;
  assert.deepEqual(json.added_tokens.map((t) => [t.id, t.content, t.special]), [
    [420, "<|im_start|>", true],
    [421, "<tool>", false],
  ]);
  const ids = encode(load(json), "<|im_start|>the<tool>");
  assert.deepEqual([ids[0], ids.at(-1)], [420, 421]);
});

Deno.test("first and last tokens: as the file says, or as its kind has it", () => {
  const tokens = ["<s>", "</s>", ...reference.byte_level.tokens];
  const ends = (extra: Record<string, GgufValue>) => {
    const values = byteLevel({ tokens, bos_token_id: 0, eos_token_id: 1, ...extra });
    const ids = encode(load(ggufTokenizerJson(meta(values))), "the", true);
    const says = ggufTokenizerConfig(meta(values));
    assert.equal(says["add_bos_token"], ids[0] === 0);
    assert.equal(says["add_eos_token"], ids.at(-1) === 1);
    assert.deepEqual([says["bos_token"], says["eos_token"], says["pad_token"]], ["<s>", "</s>", undefined]);
    return `${ids[0] === 0} ${ids.at(-1) === 1}`;
  };
  assert.equal(ends({}), "false false");
  assert.equal(ends({ pre: "llama-bpe" }), "true false");
  assert.equal(ends({ pre: "llama-bpe", add_bos_token: false }), "false false");
  assert.equal(ends({ add_bos_token: true, add_eos_token: true }), "true true");
  const pair =
    ggufTokenizerJson(meta(byteLevel({ tokens, bos_token_id: 0, add_bos_token: true })))!.post_processor;
  assert.deepEqual(pair!["special_tokens"], { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } });
});

const sp = reference.sentencepiece;
const sentencePiece = (extra: Record<string, GgufValue> = {}) =>
  meta({
    model: "llama",
    tokens: sp.tokens,
    scores: sp.scores,
    token_type: sp.types,
    add_bos_token: false,
    ...extra,
  });

Deno.test("SentencePiece: segmentation and decoding of the sentencepiece library", () => {
  const tokenizer = load(ggufTokenizerJson(sentencePiece()));
  sp.texts.forEach((text, i) => {
    const ids = encode(tokenizer, text);
    assert.deepEqual(ids, sp.ids[i], JSON.stringify(text));
    assert.equal(decode(tokenizer, ids), sp.decoded[i]);
  });
});

Deno.test("SentencePiece without the leading space", () => {
  const json = ggufTokenizerJson(sentencePiece({ add_space_prefix: false }));
  const [the, withSpace] = ["the", " the"].map((text) => encode(load(json), text));
  assert.deepEqual(withSpace, sp.ids[sp.texts.indexOf("the")]);
  assert.notDeepEqual(the, withSpace);
  assert.equal(decode(load(json), withSpace!), " the");
});

Deno.test("SentencePiece adds the first token unless told not to", () => {
  const values = new Map(sentencePiece({ bos_token_id: 1 }).values);
  values.delete("tokenizer.ggml.add_bos_token");
  const json = ggufTokenizerJson(ggufMetadata("m.gguf", values));
  assert.equal(encode(load(json), "the", true)[0], 1);
});

Deno.test("what cannot be rebuilt is said: kind, pre-tokenizer, missing or wrong lists", () => {
  const refuse = (values: Record<string, GgufValue>, ...words: string[]) =>
    throwsCode(() => ggufTokenizerJson(meta(values)), "formats/gguf-tokenizer", "m.gguf", ...words);
  refuse(byteLevel({ model: "bert" }), "bert", "tokenizer.ggml.model");
  refuse(byteLevel({ pre: "tekken" }), "tekken", "qwen2", "tokenizer.ggml.pre");
  refuse(byteLevel({ pre: "constructor" }), "constructor");
  refuse({ model: "gpt2", tokens: ["a"] }, "merges");
  refuse({ model: "llama", tokens: ["a"] }, "scores");
  refuse({ model: "llama", tokens: ["a"], scores: [1, 2] }, "list of 1 numbers");
  refuse(byteLevel({ token_type: [1, 2] }), "token_type");
  refuse({ model: "gpt2", tokens: [1, 2] }, "list of strings");
  refuse({ model: "gpt2", tokens: ["a", "b", "a"], merges: [] }, "Tokens 0 and 2");
  refuse(byteLevel({ add_bos_token: true, bos_token_id: 999 }), "no token 999", "bos_token_id");
  assert.equal(ggufTokenizerJson(meta({})), undefined);
  assert.deepEqual(ggufTokenizerConfig(meta({})), {});
});

Deno.test("generation config: the end of text and of a turn both stop", () => {
  assert.deepEqual(ggufGenerationConfig(meta({ eos_token_id: 5, eot_token_id: 9, bos_token_id: 1 })), {
    bos_token_id: 1,
    eos_token_id: [5, 9],
  });
  assert.deepEqual(ggufGenerationConfig(meta({ eos_token_id: 5, eot_token_id: 5, padding_token_id: 0 })), {
    eos_token_id: 5,
    pad_token_id: 0,
  });
});

const vocabulary = sharedFile("models/stories260k/tok512.bin");
const shakespeare = sharedFile("data/tiny_shakespeare.txt");
Deno.test({
  ...skippable(
    "stories260k: the rebuilt tokenizer agrees with its own tokenizer.json",
    vocabulary.missing,
    "../shared",
  ),
  fn() {
    const bytes = Deno.readFileSync(vocabulary.path);
    const view = new DataView(bytes.buffer);
    const tokens: string[] = [];
    const scores: number[] = [];
    for (let at = 4; at < bytes.length;) {
      const length = view.getInt32(at + 4, true);
      const id = tokens.length;
      scores.push(view.getFloat32(at, true));
      const text = new TextDecoder().decode(bytes.subarray(at + 8, at + 8 + length));
      const byte = (id - 3).toString(16).toUpperCase().padStart(2, "0");
      tokens.push(
        id < 3 ? ["<unk>", "<s>", "</s>"][id]! : id < 259 ? `<0x${byte}>` : text.replaceAll(" ", "▁"),
      );
      at += 8 + length;
    }
    const types = tokens.map((_, id) => id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1);
    const ours = load(
      ggufTokenizerJson(meta({ model: "llama", tokens, scores, token_type: types, bos_token_id: 1 })),
    );
    const theirs = load(
      JSON.parse(Deno.readTextFileSync(vocabulary.path.replace("tok512.bin", "tokenizer.json"))),
    );
    const lines = Deno.readTextFileSync(shakespeare.path).split("\n").slice(0, 2000);
    for (const line of [...lines, "naïve café 東京 😀", "  two  spaces ", "1 23 456"]) {
      assert.deepEqual(encode(ours, line, true), encode(theirs, line, true), JSON.stringify(line));
    }
  },
});
