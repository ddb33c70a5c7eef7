import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { givenTemplate } from "../../lib/train/chat_template.ts";

const TINY = new URL("../../assets/models/tiny", import.meta.url).pathname;
const given = (chat_template: string | null, chat_template_path: string | null, base?: string) =>
  givenTemplate({ chat_template, chat_template_path }, base ? { base } : {});

Deno.test("a recipe's chat template: its text, a file beside the recipe, a tokenizer's folder, or none", async () => {
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(join(folder, "own.jinja"), "{{ messages }}");
  assert.equal(await given("{{ text }}", null), "{{ text }}");
  assert.equal(await given(null, null), undefined);
  assert.equal(await given(null, join(folder, "own.jinja")), "{{ messages }}");
  assert.equal(await given(null, "own.jinja", folder), "{{ messages }}");
  assert.match((await given(null, TINY))!, /<\|im_start\|>/);
  Deno.writeTextFileSync(join(folder, "chat_template.jinja"), "{{ eos_token }}");
  assert.equal(await given(null, folder), "{{ eos_token }}");
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("a chat_template_path that leads nowhere names the places looked at", async () => {
  await assert.rejects(given(null, "none.jinja", "/recipes"), (e: unknown) => {
    assert.ok(e instanceof NibbleError && e.code === "train/no-template");
    assert.match(e.message, /none\.jinja.*\/recipes\/none\.jinja.*\.j2 file/s);
    return true;
  });
});
