import assert from "node:assert/strict";
import { compileTemplate, renderWithSpans, ZEPHYR_TEMPLATE } from "../../lib/text/mod.ts";
import { GOLDEN, tokenizer } from "./fixtures.ts";

for (const [name, template] of Object.entries(GOLDEN.templates)) {
  Deno.test(`template: renders as transformers does (${name})`, () => {
    for (const chat of GOLDEN.chats.filter((c) => c.template === name)) {
      const tok = tokenizer(chat.tokenizer as "chatml", template);
      assert.equal(tok.renderChat(chat.messages), chat.rendered);
      assert.equal(tok.renderChat(chat.messages.slice(0, -1), { addGenerationPrompt: true }), chat.prompt);
      assert.deepEqual(tok.encode(chat.rendered, { addSpecialTokens: false }), chat.ids);
    }
  });
}

Deno.test("template: the Zephyr default gives what the handbook's Zephyr template gives", () => {
  const render = compileTemplate(ZEPHYR_TEMPLATE);
  const turn = (role: string, content: string) => ({ role, content });
  const messages = [turn("system", ""), turn("user", "hi"), turn("assistant", "yo")];
  const eos_token = "</s>";
  assert.equal(
    render({ messages, eos_token, add_generation_prompt: false }),
    "<|system|>\n</s>\n<|user|>\nhi</s>\n<|assistant|>\nyo</s>\n",
  );
  assert.equal(
    render({ messages: messages.slice(1, 2), eos_token, add_generation_prompt: true }),
    "<|user|>\nhi</s>\n<|assistant|>\n",
  );
});

Deno.test("template: strip methods take the characters they are told, as in Python", () => {
  const show = (expression: string, x: unknown) => compileTemplate(`{{ ${expression} }}`)({ x });
  assert.equal(show("x.lstrip('\\n')", "\n\n  a\n"), "  a\n");
  assert.equal(show("x.rstrip('\\n')", "\n a \n\n"), "\n a ");
  assert.equal(show("x.strip('ab') + '|'", "bacab"), "c|");
  assert.equal(show("x.strip()", " \n a \t"), "a");
  assert.equal(show("x.strip('a')", "aaa"), "");
});

Deno.test("template: undefined is falsy, `in` it is false, loops break", () => {
  const render = (source: string) => compileTemplate(source)({});
  assert.equal(render("{% if 'a' in nothing %}yes{% else %}no{% endif %}"), "no");
  assert.equal(render("{% if nothing is not defined %}u{% endif %}"), "u");
  assert.equal(
    render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
    "01",
  );
  assert.equal(
    render(
      "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    ),
    "3",
  );
  assert.equal(compileTemplate("{{ x | tojson }}")({ x: { a: ["é<", 1] } }), '{"a": ["é<", 1]}');
});

Deno.test("template: lists, mappings and truth values are written as Python writes them", () => {
  const render = (value: unknown, source = "{{ value }}") => compileTemplate(source)({ value });
  assert.equal(
    render([{ name: "add", ok: true, n: 2 }, null, []]),
    "[{'name': 'add', 'ok': True, 'n': 2}, None, []]",
  );
  assert.equal(
    render(["it's", 'say "hi"', "both ' and \"", "a\\b\n\t\u00a0é🙂"]),
    `["it's", 'say "hi"', 'both \\' and "', 'a\\\\b\\n\\t\\xa0é🙂']`,
  );
  assert.equal(render(null), "None");
  assert.equal(
    render({}, "{% if value.missing %}x{% endif %}{{ value.missing }}|{% set a = none %}|{{ value }}"),
    "||{}",
  );
  assert.equal(render(["x"], "{{ value | tojson }}"), '["x"]');
});

Deno.test("template: what {% generation %} wrote is found, and leaves the text as it is", () => {
  const source =
    "{% for m in messages %}\n{% if m.role == 'assistant' %}\nA: {% generation %}\n  {{- m.content -}}\n{% endgeneration %}!\n" +
    "{% else %}U: {{ m.content }}\n{% endif %}{% endfor %}";
  const tok = tokenizer("chatml", source);
  const chat = ["a", "b", "c", ""].map((content, i) => ({ role: i % 2 ? "assistant" : "user", content }));
  const { text, spans } = renderWithSpans(tok, chat);
  assert.equal(text, tok.renderChat(chat));
  assert.deepEqual(spans.map(([from, to]) => text.slice(from, to)), ["b", ""]);
  const silent = tokenizer(
    "chatml",
    "{% if false %}{% generation %}{% endgeneration %}{% endif %}{{ messages[1].content }}",
  );
  assert.deepEqual(renderWithSpans(silent, chat.slice(0, 2)).spans, [[0, 1]], "found by rendering prefixes");
});

Deno.test("template: the date is fixed when the tokenizer is made", () => {
  const now = new Date(2025, 6, 4, 15, 5);
  const tok = tokenizer("chatml", "{{ strftime_now('%d %B %Y %b %H:%M %j%%') }}", { now });
  assert.equal(tok.renderChat([]), "04 July 2025 Jul 15:05 %j%");
});

Deno.test("template: variables of a row reach it", () => {
  const tok = tokenizer("chatml", "{{ 'think' if enable_thinking else 'plain' }}");
  assert.equal(tok.renderChat([]), "plain");
  assert.equal(tok.renderChat([], { variables: { enable_thinking: true } }), "think");
});

Deno.test("template: errors say what the template said, and where", () => {
  const tok = tokenizer("sentencepiece", GOLDEN.templates.mistral);
  const refused = [{ role: "assistant", content: "yo" }];
  assert.throws(
    () => tok.renderChat(refused, { where: "train.jsonl:17" }),
    (e: Error & { code: string; where: string }) =>
      e.code === "text/template-raised" && e.where === "train.jsonl:17" &&
      e.message.includes("must alternate"),
  );
  assert.throws(() => tokenizer("chatml", "{% if %}").renderChat([]), { code: "text/template-syntax" });
  assert.throws(() => tokenizer("chatml", "{{ nothing() }}").renderChat([]), {
    code: "text/template-failed",
  });
});
