import assert from "node:assert/strict";
import { encodeChat, inspectExample } from "../../lib/text/mod.ts";
import { tokenizer } from "./fixtures.ts";

const CHAT = [{ role: "user", content: "naïve?" }, { role: "assistant", content: "日本 yes" }];

Deno.test("inspectExample: brackets in plain text, newlines visible", () => {
  const tok = tokenizer("chatml");
  const example = encodeChat(tok, CHAT, { assistantOnly: true, row: 7 });
  const trained = example.trained.filter(Boolean).length;
  assert.equal(
    inspectExample(tok, example),
    "<|im_start|>user↵\nnaïve?<|im_end|>↵\n<|im_start|>assistant↵\n⟦日本 yes<|im_end|>⟧↵\n\n" +
      `[row 7: ${example.ids.length} tokens, ${trained} trained (${
        (100 * trained / example.ids.length).toFixed(1)
      } %)]`,
  );
});

Deno.test("inspectExample: colours, separate tokens, what was cut", () => {
  const tok = tokenizer("chatml");
  const example = encodeChat(tok, CHAT, { assistantOnly: true, row: 7, maxLength: 27 });
  const shown = inspectExample(tok, example, { color: true, tokens: true });
  assert.ok(shown.startsWith("\x1b[90m<|im_start|>·u"));
  assert.ok(shown.includes("\x1b[32m"));
  assert.ok(shown.includes("cut off (answer not whole)"), shown);
});
