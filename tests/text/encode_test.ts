import assert from "node:assert/strict";
import fc from "fast-check";
import {
  createTokenizer,
  encodeChat,
  encodeChatPrompt,
  encodePromptCompletion,
  encodeText,
  type Message,
} from "../../lib/text/mod.ts";
import { markTokens } from "../../lib/text/align.ts";
import { GOLDEN, readJson, SMOLLM3_TEMPLATE, tokenizer, trainedRuns } from "./fixtures.ts";

const chat = (...turns: string[]): Message[] =>
  turns.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));

/** What the assistant writes in each golden conversation, stop token included and nothing after it. */
const TARGETS: Record<string, (content: string, last: boolean) => string> = {
  chatml: (c) => `${c}<|im_end|>`,
  zephyr: (c) => `${c}</s>`,
  llama3: (c) => `${c.trim()}<|eot_id|>`,
  mistral: (c) => `${c}</s>`,
  thinking: (c, last) => `${last ? "<think>\n\n</think>\n\n" : ""}${c}<|im_end|>`,
  generation: (c) => `${c}<|im_end|>`, // what its {% generation %} block writes
  gemma_chatml: (c, last) => last ? `${c}<|im_end|>\n<|eot_id|>` : c, // its <|im_end|> is no special token here
};

for (const [name, target] of Object.entries(TARGETS)) {
  Deno.test(`encodeChat: golden ids and mask (${name})`, () => {
    const chats = GOLDEN.chats.filter((c) => c.template === name);
    assert.ok(chats.length > 0);
    for (const { messages, tokenizer: kind, ids } of chats) {
      const tok = tokenizer(kind as "chatml", GOLDEN.templates[name]);
      const example = encodeChat(tok, messages, { assistantOnly: true, row: 1, bos: "template" });
      assert.deepEqual(example.ids, ids);
      const answers = messages.filter((m) => m.role === "assistant").map((m) => m.content);
      assert.deepEqual(trainedRuns(tok, example), answers.map((a, i) => target(a, i === answers.length - 1)));
    }
  });
}

Deno.test({
  name: `encodeChat: SmolLM3's template from the handbook, render, ids and mask${
    SMOLLM3_TEMPLATE === undefined ? " (skipped: ../shared is absent)" : ""
  }`,
  ignore: SMOLLM3_TEMPLATE === undefined,
  fn() {
    const tok = tokenizer("chatml", SMOLLM3_TEMPLATE);
    const chats = GOLDEN.chats.filter((c) => c.template === "smollm3");
    assert.equal(chats.length, 3);
    for (const { messages, rendered, prompt, ids } of chats) {
      assert.equal(tok.renderChat(messages), rendered);
      assert.equal(tok.renderChat(messages.slice(0, -1), { addGenerationPrompt: true }), prompt);
      const example = encodeChat(tok, messages, { assistantOnly: true, row: 1 });
      assert.deepEqual(example.ids, ids);
      const answers = messages.filter((m) => m.role === "assistant");
      // its {% generation %} blocks hold the turn's header, the empty thought and the line's end: TRL trains on them too
      const turn = (content: string) =>
        `<|im_start|>assistant\n<think>\n\n</think>\n${content.replace(/^\n+/, "")}<|im_end|>\n`;
      assert.deepEqual(trainedRuns(tok, example), answers.map((m) => turn(m.content)));
    }
  },
});

Deno.test("encodeChat: SmolLM2's template puts a system message in front; it is context", () => {
  const tok = tokenizer("chatml", GOLDEN.templates.chatml);
  const example = encodeChat(tok, chat("hi", "yo"), { assistantOnly: true, row: 1 });
  const text =
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" +
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
  assert.equal(tok.decode(example.ids.slice(0, example.trained.indexOf(true))), text);
  const first = encodeChat(tok, [{ role: "assistant", content: "I begin." }], {
    assistantOnly: true,
    row: 1,
  });
  assert.deepEqual(trainedRuns(tok, first), ["I begin.<|im_end|>"]);
});

Deno.test("encodeChat: pad = eos does not take the eos out of the mask (R3)", () => {
  const tok = tokenizer("chatml");
  assert.equal(tok.padId, tok.eosId);
  const { ids, trained } = encodeChat(tok, chat("hi", "yo", "a", "b"), { assistantOnly: true, row: 1 });
  const eos = ids.flatMap((id, i) => id === tok.eosId ? [trained[i]] : []);
  assert.deepEqual(eos, [false, true, false, true]);
});

Deno.test("encodeChat: exactly one BOS whether or not the template writes it (R12)", () => {
  const zephyr = tokenizer("sentencepiece", GOLDEN.templates.zephyr);
  const mistral = tokenizer("sentencepiece", GOLDEN.templates.mistral);
  for (const tok of [zephyr, mistral]) {
    for (const assistantOnly of [true, false]) {
      const { ids, trained } = encodeChat(tok, chat("hi", "yo"), { assistantOnly, row: 1 });
      assert.equal(ids.filter((id) => id === tok.bosId).length, 1);
      assert.equal(ids[0], tok.bosId);
      assert.equal(ids.length, trained.length);
    }
    assert.equal(encodeChatPrompt(tok, chat("hi"))[0], tok.bosId);
  }
  const bare = encodeChat(zephyr, chat("hi", "yo"), { assistantOnly: true, row: 1, bos: "template" });
  assert.ok(!bare.ids.includes(zephyr.bosId!));
  const twice = tokenizer("sentencepiece", "{{ bos_token }}{{ bos_token }}{{ messages[0].content }}");
  assert.throws(() => encodeChat(twice, chat("hi"), { assistantOnly: false, row: 3 }), {
    code: "text/double-bos",
    where: "row 3",
  });
});

Deno.test("encodeChat: the prompt used for generation is the start of the trained example", () => {
  for (
    const [name, kind] of [["chatml", "chatml"], ["llama3", "llama3"], ["zephyr", "sentencepiece"]] as const
  ) {
    const tok = tokenizer(kind, GOLDEN.templates[name]);
    const prompt = encodeChatPrompt(tok, chat("What now?"));
    const { ids, trained } = encodeChat(tok, chat("What now?", "Nothing."), { assistantOnly: true, row: 1 });
    assert.deepEqual(ids.slice(0, prompt.length), prompt);
    assert.equal(trained.indexOf(true), prompt.length);
  }
});

Deno.test("encodeChat: any content in any turn is marked to the character", () => {
  const cases = [
    ["chatml", "chatml", "<|im_end|>"],
    ["llama3", "llama3", "<|eot_id|>"],
    [
      "mistral",
      "sentencepiece",
      "</s>",
    ],
    ["zephyr", "sentencepiece", "</s>"],
    ["thinking", "chatml", "<|im_end|>"],
  ] as const;
  // Llama-3's template trims contents: no white space at the ends. The \uE000 range is the locator's own.
  const content = fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 }).map((s) =>
    `a${s.normalize("NFC")}z`
  )
    .filter((s) => !/[<>\uE000\uE001]/.test(s));
  for (const [name, kind, stop] of cases) {
    const tok = tokenizer(kind, GOLDEN.templates[name]);
    fc.assert(
      fc.property(fc.array(content, { minLength: 1, maxLength: 3 }), content, (answers, question) => {
        const messages = answers.flatMap((a) => chat(question, a));
        const example = encodeChat(tok, messages, { assistantOnly: true, row: 1 });
        const runs = trainedRuns(tok, example);
        const thought = (i: number) =>
          name === "thinking" && i === answers.length - 1 ? "<think>\n\n</think>\n\n" : "";
        assert.deepEqual(runs, answers.map((a, i) => thought(i) + a + stop));
      }),
      { numRuns: 60 },
    );
  }
});

/** Byte-level tokenizer whose only merge joins ":" and "y". */
function tinyTokenizer(template: string, normalizer: unknown = null) {
  const json = readJson("chatml") as { model: { vocab: Record<string, number>; merges: unknown } };
  const vocab = Object.fromEntries(
    Object.entries(json.model.vocab).filter(([token]) => [...token].length === 1),
  );
  return createTokenizer({
    tokenizerJson: {
      ...json,
      normalizer,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      model: { ...json.model, vocab: { ...vocab, ":y": 300 }, merges: [[":", "y"]] },
    },
    tokenizerConfig: { eos_token: "<|im_end|>" },
    chatTemplate: template,
  });
}
const PLAIN =
  "{% for m in messages %}{{ m.role + ':' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}" +
  "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";

Deno.test("encodeChat: a token across the boundary goes to the assistant", () => {
  const tok = tinyTokenizer(PLAIN);
  const example = encodeChat(tok, chat("hi", "yo", "hi", "no"), { assistantOnly: true, row: 1 });
  assert.deepEqual(trainedRuns(tok, example), [":yo<|im_end|>", "no<|im_end|>"]);
});

Deno.test("markTokens: a token across an end of a span, by bytes and by prefixes", () => {
  for (const normalizer of [null, { type: "Lowercase" }]) {
    const tok = tinyTokenizer(PLAIN, normalizer);
    const text = "AB:y.";
    const ids = tok.encode(text, { addSpecialTokens: false });
    assert.equal(ids.length, 4);
    const spans: [number[], boolean[]][] = [
      [[0, 3], [true, true, true, false]],
      [[1, 2], [false, true, false, false]],
      [[3, 4], [false, false, true, false]],
      [[2, 4], [false, false, true, false]],
      [[4, 5], [false, false, false, true]],
    ];
    for (const [[start, end], marked] of spans) {
      assert.deepEqual(markTokens(tok, ids, text, [[start, end]]), marked, `${start} to ${end}`);
    }
  }
});

Deno.test("encodeChat: normalizers that change the text do not shift the mask", () => {
  const decomposed = "e\u0301".repeat(5);
  for (
    const [normalizer, seen] of [[{ type: "NFC" }, "é".repeat(5)], [
      { type: "Lowercase" },
      decomposed,
    ]] as const
  ) {
    const tok = tinyTokenizer(PLAIN, normalizer);
    const example = encodeChat(tok, chat(decomposed, decomposed + "K"), { assistantOnly: true, row: 1 });
    assert.deepEqual(trainedRuns(tok, example), [
      `${seen}${normalizer.type === "NFC" ? "K" : "k"}<|im_end|>`,
    ]);
  }
});

Deno.test("encodeChat: an end of sequence after the last turn is trained, earlier turns keep their stop token", () => {
  const tok = tokenizer("chatml", GOLDEN.templates.gemma_chatml, { eos_token: "<|endoftext|>" });
  const example = encodeChat(tok, chat("hi", "yo", "and", "so"), { assistantOnly: true, row: 1 });
  assert.deepEqual(trainedRuns(tok, example), ["yo<|im_end|>", "so<|im_end|>\n<|endoftext|>"]);
});

Deno.test("encodeChat: a template without a stop token is noted", () => {
  const turns = "{% for m in messages %}{{ m.role + ':\n' + m.content + '\n' }}{% endfor %}";
  const tok = tokenizer("chatml", turns + "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}");
  const example = encodeChat(tok, chat("hi", "yo"), { assistantOnly: true, row: 1 });
  assert.equal(example.stops, false);
  assert.deepEqual(trainedRuns(tok, example), ["yo\n"], "the newline is all that ends the turn");
  const good = encodeChat(tokenizer("chatml"), chat("hi", "yo"), { assistantOnly: true, row: 1 });
  assert.equal(good.stops, undefined);
});

Deno.test("encodeChat: a template that hides the turn is an error with the row", () => {
  const tok = tokenizer("chatml", "{% if add_generation_prompt %}x{% endif %}{{ messages[0].content }}");
  assert.throws(() => encodeChat(tok, chat("hi", "yo"), { assistantOnly: true, row: 9 }), {
    code: "text/turn-not-found",
    where: "row 9",
  });
});

Deno.test("encodeChat: truncation keeps the start and says what it cost", () => {
  const tok = tokenizer("chatml");
  const whole = encodeChat(tok, chat("hi", "a long answer"), { assistantOnly: true, row: 4 });
  const cut = encodeChat(tok, chat("hi", "a long answer"), {
    assistantOnly: true,
    row: 4,
    maxLength: whole.ids.length - 3,
  });
  assert.deepEqual(cut.ids, whole.ids.slice(0, -3));
  assert.deepEqual([cut.truncated, cut.answerCut, cut.row], [3, true, 4]);
  const newline = encodeChat(tok, chat("hi", "a long answer"), {
    assistantOnly: true,
    row: 4,
    maxLength: whole.ids.length - 1,
  });
  assert.deepEqual(
    [newline.truncated, newline.answerCut],
    [1, undefined],
    "only the newline after the turn is lost",
  );
});

Deno.test("encodeText: one BOS, one EOS, loss on everything", () => {
  const tok = tokenizer("sentencepiece");
  const body = tok.encode("hi", { addSpecialTokens: false });
  for (const text of ["hi", "hi</s>"]) {
    assert.deepEqual(encodeText(tok, text, { addEos: true, row: 1 }).ids, [1, ...body, 2]);
  }
  const open = encodeText(tok, "hi", { addEos: false, row: 1 });
  assert.deepEqual(open, { ids: [1, ...body], trained: [1, ...body].map(() => true), row: 1 });
  assert.deepEqual(encodeText(tok, "hi", { addEos: true, row: 1, maxLength: 2 }).ids, [1, body[0]]);
});

Deno.test("encodePromptCompletion: texts and messages, completion and stop trained", () => {
  const tok = tokenizer("sentencepiece", GOLDEN.templates.mistral);
  const texts = encodePromptCompletion(tok, "2+2=", "4", { row: 1 });
  assert.equal(texts.ids[0], tok.bosId);
  assert.deepEqual(trainedRuns(tok, texts), ["4</s>"]);
  assert.ok(
    encodePromptCompletion(tok, "2+2=", "4", { row: 1, completionOnly: false }).trained.every(Boolean),
  );

  const [u1, a1, u2, a2] = chat("hi", "yo", "bye", "so long");
  const turns = encodePromptCompletion(tok, [u1, a1, u2], [a2], { row: 1 });
  assert.deepEqual(trainedRuns(tok, turns), ["so long</s>"], "the prompt's assistant turn is context");
  assert.throws(() => encodePromptCompletion(tok, "hi", [a1], { row: 5 }), {
    code: "text/mixed-pair",
    where: "row 5",
  });
});
