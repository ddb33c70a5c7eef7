import assert from "node:assert/strict";
import { encodeChat, encodeText } from "../../lib/text/mod.ts";
import { tokenizer } from "./fixtures.ts";

const tok = tokenizer("chatml");

Deno.test("truncation: either end is kept, as many tokens as asked", () => {
  const whole = encodeText(tok, "one two three four five six", { row: 1, addEos: true });
  for (const maxLength of [1, 3, whole.ids.length - 1]) {
    const start = encodeText(tok, "one two three four five six", { row: 1, addEos: true, maxLength });
    const end = encodeText(tok, "one two three four five six", {
      ...{ row: 1, addEos: true, maxLength, truncationMode: "keep_end" },
    });
    assert.deepEqual(start.ids, whole.ids.slice(0, maxLength));
    assert.deepEqual(end.ids, whole.ids.slice(-maxLength));
    assert.deepEqual([start.truncated, end.truncated], Array(2).fill(whole.ids.length - maxLength));
  }
  const fits = { row: 1, addEos: true, maxLength: whole.ids.length, truncationMode: "keep_end" } as const;
  assert.deepEqual(encodeText(tok, "one two three four five six", fits), whole);
});

Deno.test("truncation: keep_end keeps the answer and its stop where keep_start loses them", () => {
  const chat = [{ role: "user", content: "a long question ".repeat(9) }, {
    role: "assistant",
    content: "yo",
  }];
  const options = { row: 1, assistantOnly: true, maxLength: 8 };
  const start = encodeChat(tok, chat, options);
  assert.deepEqual([start.trained.includes(true), start.answerCut], [false, true]);
  const end = encodeChat(tok, chat, { ...options, truncationMode: "keep_end" });
  assert.deepEqual([end.trained.includes(true), end.answerCut], [true, undefined]);
  assert.match(tok.decode(end.ids.filter((_, i) => end.trained[i])), /^yo<\|im_end\|>$/);
});
