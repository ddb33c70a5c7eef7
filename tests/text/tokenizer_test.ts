import assert from "node:assert/strict";
import { join } from "@std/path";
import { createTokenizer } from "../../lib/text/mod.ts";
import { GOLDEN, readJson, tokenizer } from "./fixtures.ts";

for (const name of ["chatml", "llama3", "sentencepiece"] as const) {
  Deno.test(`tokenizer: ids and text as Hugging Face tokenizers (${name})`, () => {
    const tok = tokenizer(name);
    for (const { text, ids, plain, decoded } of GOLDEN.encodings[name]) {
      const twice = ids[0] === tok.bosId && ids[1] === tok.bosId; // theirs doubles a BOS that the text holds, ours never
      assert.deepEqual(tok.encode(text), twice ? ids.slice(1) : ids, text);
      assert.deepEqual(tok.encode(text, { addSpecialTokens: false }), plain, text);
      assert.equal(tok.decode(plain), decoded, text);
    }
  });
}

Deno.test("tokenizer: every numeric character is a digit, as in Hugging Face's Digits", () => {
  const vocab = Object.fromEntries(["Ġ", "Â", "½", "ĠÂ", "a"].map((token, id) => [token, id]));
  const tok = createTokenizer({
    tokenizerJson: {
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Digits", individual_digits: true },
          { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
        ],
      },
      decoder: { type: "ByteLevel" },
      model: { type: "BPE", vocab, merges: [["Ġ", "Â"]] },
    },
  });
  assert.deepEqual(tok.encode("a ½"), [4, 0, 1, 2], "the space and the half are apart before any merge");
});

Deno.test("tokenizer: exactly one BOS, where the tokenizer's rule adds one", () => {
  for (const name of ["llama3", "sentencepiece"] as const) {
    const tok = tokenizer(name);
    const bos = tok.tokenOf(tok.bosId!)!;
    assert.ok(tok.addsBos);
    for (const text of ["hi", "", bos, `${bos}hi`]) {
      assert.equal(tok.encode(text).filter((id) => id === tok.bosId).length, 1, JSON.stringify(text));
    }
  }
  const tok = tokenizer("chatml");
  assert.equal(tok.addsBos, false);
  assert.ok(!tok.encode("hi").includes(tok.bosId!));
});

Deno.test("tokenizer: a Llama class obeys add_bos_token and add_eos_token, not tokenizer.json", () => {
  const make = (flags: Record<string, unknown>) =>
    createTokenizer({
      tokenizerJson: readJson("sentencepiece"),
      tokenizerConfig: { ...GOLDEN.configs.sentencepiece, tokenizer_class: "LlamaTokenizerFast", ...flags },
    });
  const body = make({}).encode("hi", { addSpecialTokens: false });
  assert.deepEqual(make({}).encode("hi"), [1, ...body]);
  assert.deepEqual(make({ add_bos_token: false }).encode("hi"), body);
  assert.equal(make({ add_bos_token: false }).addsBos, false);
  assert.deepEqual(make({ add_bos_token: true, add_eos_token: true }).encode("hi"), [1, ...body, 2]);
});

Deno.test("tokenizer: special ids, with generation_config as the last resort", () => {
  const tok = tokenizer("llama3");
  assert.deepEqual([tok.vocabSize, tok.bosId, tok.eosId], [
    405,
    tok.idOf("<|begin_of_text|>"),
    tok.idOf("<|eot_id|>"),
  ]);
  assert.equal(tok.padId, tok.eosId, "pad falls back to eos");
  const end = tok.idOf("<|end_of_text|>")!;
  const bare = createTokenizer({
    tokenizerJson: readJson("llama3"),
    chatTemplate: GOLDEN.templates.llama3,
    generationConfig: { bos_token_id: tok.bosId, eos_token_id: [end] },
  });
  assert.equal(bare.bosId, tok.bosId);
  assert.equal(bare.eosId, end);
  assert.deepEqual(bare.eosIds, [end, tok.eosId], "the template's end-of-turn token stops too");
  assert.equal(tokenizer("chatml", undefined, { eos_token: "<|endoftext|>" }).eosId, 0);
});

Deno.test("tokenizer: tokens that only tokenizer_config.json lists are added", () => {
  const json = readJson("chatml") as { added_tokens: unknown[] };
  const tok = createTokenizer({
    tokenizerJson: json,
    tokenizerConfig: {
      added_tokens_decoder: { 420: { content: "<tool>", special: true, normalized: false } },
    },
  });
  assert.equal(json.added_tokens.length, 3, "the caller's object is untouched");
  assert.deepEqual(tok.encode("<tool>"), [420]);
  assert.equal(tok.vocabSize, 421);
});

Deno.test("tokenizer: the bytes of tokens are the bytes of the text", () => {
  for (const name of ["chatml", "llama3", "sentencepiece"] as const) {
    const tok = tokenizer(name);
    const text = "naïve 🙂 12\n\tend";
    const bytes = tok.encode(text, { addSpecialTokens: false }).flatMap((id) => [...tok.tokenBytes(id)]);
    assert.equal(new TextDecoder().decode(Uint8Array.from(bytes)).trimStart(), text);
  }
});

Deno.test("tokenizer: decode skips special tokens and foreign ids when asked", () => {
  const tok = tokenizer("chatml");
  const ids = tok.encode("<|im_start|>hi , you<|im_end|>");
  assert.equal(tok.decode(ids), "<|im_start|>hi , you<|im_end|>");
  assert.equal(tok.decode(ids, { skipSpecialTokens: true }), "hi , you");
  assert.equal(tok.decode(Uint32Array.from([...ids, 99999])), "<|im_start|>hi , you<|im_end|>");
  assert.equal(tok.decode([]), "");
});

Deno.test("tokenizer: says which template is in force", () => {
  assert.equal(tokenizer("chatml").templateSource, "default-chatml");
  assert.equal(tokenizer("llama3").templateSource, "default-zephyr");
  assert.equal(tokenizer("chatml", "x").templateSource, "given");
  const listed = createTokenizer({
    tokenizerJson: readJson("chatml"),
    tokenizerConfig: {
      chat_template: [{ name: "tool_use", template: "t" }, { name: "default", template: "d" }],
    },
  });
  assert.deepEqual([listed.templateSource, listed.chatTemplate], ["tokenizer_config", "d"]);
});

Deno.test("tokenizer: errors name the file and the token", () => {
  const json = readJson("chatml");
  assert.throws(() => createTokenizer({ path: "some/model" }), {
    code: "text/no-tokenizer",
    where: "some/model",
  });
  assert.throws(
    () => createTokenizer({ tokenizerJson: json, tokenizerConfig: { eos_token: "</s>" } }),
    (e: Error & { code: string }) => e.code === "text/unknown-token" && e.message.includes('"</s>"'),
  );
  const odd = { ...json, normalizer: { type: "Nonesuch" } };
  assert.throws(() => createTokenizer({ tokenizerJson: odd }), { code: "text/bad-tokenizer" });
});

Deno.test("tokenizer: what is saved loads as the same tokenizer", () => {
  const folder = Deno.makeTempDirSync();
  try {
    const tok = tokenizer("llama3", GOLDEN.templates.llama3);
    tok.save(folder);
    const read = (name: string) => Deno.readTextFileSync(join(folder, name));
    const again = createTokenizer({
      tokenizerJson: JSON.parse(read("tokenizer.json")),
      tokenizerConfig: JSON.parse(read("tokenizer_config.json")),
    });
    assert.equal(read("chat_template.jinja"), GOLDEN.templates.llama3);
    assert.equal(again.chatTemplate, tok.chatTemplate);
    assert.deepEqual(JSON.parse(read("special_tokens_map.json")), GOLDEN.configs.llama3);
    assert.deepEqual(again.encode("ROMEO: soft 🙂"), tok.encode("ROMEO: soft 🙂"));
    assert.deepEqual([...Deno.readDirSync(folder)].filter((f) => f.name.endsWith(".tmp")), []);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

const STORIES = new URL("../../../shared/models/stories260k/", import.meta.url);
const absent = !exists(new URL("tokenizer.json", STORIES));

Deno.test({
  name: `tokenizer: stories260k as llama2.c encodes it${absent ? " (skipped: ../shared is absent)" : ""}`,
  ignore: absent,
  fn() {
    const read = (name: string) => JSON.parse(Deno.readTextFileSync(new URL(name, STORIES)));
    const tok = createTokenizer({
      tokenizerJson: read("tokenizer.json"),
      tokenizerConfig: read("tokenizer_config.json"),
      generationConfig: read("generation_config.json"),
    });
    const scores = readLlama2c(Deno.readFileSync(new URL("tok512.bin", STORIES)));
    for (
      const text of ["Once upon a time, there was a little girl named Lily.", "Zebra & 7 ünïts\nend", "a  b"]
    ) {
      assert.deepEqual(tok.encode(text), [1, ...mergeByScore(scores, text)], text);
      assert.equal(tok.decode(tok.encode(text, { addSpecialTokens: false })), text);
    }
  },
});

function exists(url: URL): boolean {
  try {
    Deno.statSync(url);
    return true;
  } catch {
    return false;
  }
}

/** tok512.bin: int32 longest token, then per token float32 score, int32 length, bytes. */
function readLlama2c(file: Uint8Array): Map<string, { id: number; score: number }> {
  const view = new DataView(file.buffer, file.byteOffset);
  const tokens = new Map<string, { id: number; score: number }>();
  for (let at = 4, id = 0; at < file.length; id++) {
    const score = view.getFloat32(at, true), length = view.getInt32(at + 4, true);
    const text = new TextDecoder().decode(file.subarray(at + 8, at + 8 + length));
    if (!tokens.has(text)) tokens.set(text, { id, score });
    at += 8 + length;
  }
  return tokens;
}

/** The reference algorithm: a space in front, characters (or bytes + 3), then the best-scored pair again and again. */
function mergeByScore(tokens: Map<string, { id: number; score: number }>, text: string): number[] {
  const names = new Map([...tokens].map(([name, { id }]) => [id, name]));
  const ids = [...` ${text}`].flatMap((c) => {
    const known = tokens.get(c);
    return known ? [known.id] : [...new TextEncoder().encode(c)].map((b) => b + 3);
  });
  for (;;) {
    let best = { score: -1e10, at: -1, id: -1 };
    for (let i = 0; i + 1 < ids.length; i++) {
      const pair = tokens.get(names.get(ids[i])! + names.get(ids[i + 1])!);
      if (pair && pair.score > best.score) best = { score: pair.score, at: i, id: pair.id };
    }
    if (best.at < 0) return ids;
    ids.splice(best.at, 2, best.id);
  }
}
