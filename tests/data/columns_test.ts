import assert from "node:assert/strict";
import { join } from "@std/path";
import { readRows, type Row, toExamples } from "../../lib/data/mod.ts";
import { jsonl, withFolder } from "./helpers.ts";

const user = (content: unknown) => ({ role: "user", content });
const assistant = (content: unknown) => ({ role: "assistant", content });
const good = { messages: [user("hi"), assistant("yo")] };
/** The parts of an example that depend on its row's columns. */
const parts = (rows: Row[], options = {}) =>
  toExamples(rows, options).examples.map(({ row: _row, where: _where, ...rest }) => rest);

Deno.test("toExamples: each form of data", () => {
  assert.deepEqual(parts([good]), [{ kind: "messages", ...good }]);
  assert.deepEqual(parts([{ text: "a" }]), [{ kind: "text", text: "a" }]);
  assert.deepEqual(parts([{ body: "a" }], { text_column: "body", task: "text" }), [{
    kind: "text",
    text: "a",
  }]);
  assert.deepEqual(parts([{ prompt: "a", completion: "b" }]), [{
    kind: "prompt_completion",
    prompt: "a",
    completion: "b",
  }]);
  assert.deepEqual(parts([{ prompt: [user("a")], completion: [assistant("b")] }]), [
    { kind: "prompt_completion", prompt: [user("a")], completion: [assistant("b")] },
  ]);
  const sharegpt = {
    conversations: [{ from: "human", value: "hi" }, { from: "gpt", value: "yo", weight: 1 }],
  };
  assert.deepEqual(parts([sharegpt]), [{
    kind: "messages",
    messages: [user("hi"), { ...assistant("yo"), weight: 1 }],
  }]);
});

Deno.test("toExamples: Alpaca's input follows the instruction after a blank line", () => {
  const rows = [{ instruction: "Add.", input: "2, 2", output: "4" }, {
    instruction: "Sing.",
    input: "",
    output: "La",
  }];
  assert.deepEqual(parts(rows), [
    { kind: "messages", messages: [user("Add.\n\n2, 2"), assistant("4")] },
    { kind: "messages", messages: [user("Sing."), assistant("La")] },
  ]);
});

Deno.test("toExamples: contents in parts, tool calls, template variables", () => {
  const rows = [{
    messages: [
      user([{ type: "text", text: "a" }, { type: "text", text: "b" }]),
      { ...assistant(null), tool_calls: [{ name: "f" }] },
      { role: "tool", content: "" },
      assistant("done"),
    ],
    chat_template_kwargs: { enable_thinking: false, xml_tools: '["t"]', python_tools: null },
    tools: "[]",
  }];
  const [example] = toExamples(rows).examples;
  assert.ok(example.kind === "messages");
  assert.deepEqual(example.messages[0], user("ab"));
  assert.deepEqual(example.messages[1], { ...assistant(""), tool_calls: [{ name: "f" }] });
  assert.deepEqual(example.variables, { enable_thinking: false, xml_tools: ["t"] });
});

Deno.test("toExamples: preferences with an explicit prompt, and with one inside the answers", () => {
  const task = { task: "preference" };
  const pair = { prompt: [user("q")], chosen: [assistant("a")], rejected: [assistant("b")] };
  assert.deepEqual(parts([pair], task), [{ kind: "preference", ...pair }]);
  const whole = { chosen: [user("q"), assistant("a")], rejected: [user("q"), assistant("b")] };
  assert.deepEqual(parts([whole], task), [{ kind: "preference", ...pair }]);
  assert.deepEqual(
    parts([{ prompt: "q", ...whole }], task),
    [{ kind: "preference", ...pair }],
    "UltraFeedback",
  );
  assert.deepEqual(
    parts([{ prompt: [user("q")], ...whole }], task),
    [{ kind: "preference", ...pair }],
    "repeated",
  );
  assert.deepEqual(parts([{ ...pair, prompt: "q" }], task), [{ kind: "preference", ...pair }]);
  assert.deepEqual(parts([{ prompt: "q", chosen: "a", rejected: "b" }], task), [
    { kind: "preference", prompt: "q", chosen: "a", rejected: "b" },
  ]);
  assert.deepEqual(parts([{ chosen: "2+2 is four", rejected: "2+2 is five" }], task), [
    { kind: "preference", prompt: "2+2 is f", chosen: "our", rejected: "ive" },
  ]);
  assert.deepEqual(parts([{ chosen: "It is good", rejected: "It is bad" }], task), [
    { kind: "preference", prompt: "It is", chosen: " good", rejected: " bad" },
  ]);
});

Deno.test("toExamples: rows that cannot be used are left out and listed", () => {
  const rows = [
    good,
    { messages: [user("  "), assistant("yo")] },
    { messages: [user("hi"), assistant("")] },
    { messages: [user("hi")] },
    { messages: [] },
    { messages: [{ role: "system", content: "" }, user("hi"), assistant("yo")] },
    { messages: [user("hi"), assistant(null)] },
  ];
  const { examples, issues } = toExamples(rows);
  assert.deepEqual(examples.map((e) => e.row), [1, 6], "an empty system message is allowed");
  assert.deepEqual(issues.map(({ row, problem }) => [row, problem]), [
    [2, "messages[0] (user) is empty"],
    [3, "messages[1] (assistant) is empty"],
    [4, "no assistant turn to learn from"],
    [5, "messages is empty"],
    [7, "messages[1] has no content"],
  ]);
  const preferences = [
    { prompt: "q", chosen: "a", rejected: "a" },
    { chosen: [user("q"), assistant("a")], rejected: [user("q"), assistant("a"), user("more")] },
    { prompt: [user("q")], chosen: [assistant("a")], rejected: [user("b")] },
    { prompt: "q", chosen: "a", rejected: "b" },
  ];
  assert.deepEqual(
    toExamples(preferences, { task: "preference" }).issues.map(({ row, problem }) => [row, problem]),
    [
      [1, "chosen and rejected are the same"],
      [2, "nothing is left for chosen beside what the answers share"],
      [3, "rejected has no assistant turn"],
    ],
  );
});

Deno.test("toExamples: the wrong form is one error that lists the rows, by file and line", async () => {
  const bad = [{ messages: [{ role: "bot", content: "x" }] }, { messages: "hi" }, { messages: [user({})] }, {
    messages: [3],
  }];
  await withFolder({ "train.jsonl": jsonl(good, ...bad) }, async (folder) => {
    const rows = await readRows(join(folder, "train.jsonl"));
    assert.throws(() => toExamples(rows), (e: Error & { code: string; where: string }) => {
      assert.equal(e.code, "data/bad-rows");
      assert.match(e.message, /^4 of 5 rows/);
      assert.match(e.where, /train\.jsonl:2: messages\[0\] has the role "bot"/);
      assert.match(e.where, /train\.jsonl:3: messages is a string, not a list of messages/);
      assert.match(e.where, /train\.jsonl:4: messages\[0\]\.content is an object, not text/);
      assert.match(e.where, /train\.jsonl:5: messages\[0\] is a number, not a message/);
      return true;
    });
  });
  assert.throws(() => toExamples([good, { text: "no messages here" }]), { code: "data/bad-rows" });
  assert.throws(() => toExamples([{ messages: [user([{ type: "image" }]), assistant("x")] }]), {
    code: "data/bad-rows",
  });
  assert.throws(() => toExamples([{ prompt: "a", completion: [assistant("b")] }]), { code: "data/bad-rows" });
});

Deno.test("toExamples: no known columns, no rows, no usable rows", () => {
  assert.throws(
    () => toExamples([{ question: "a", answer: "b" }]),
    (e: Error & { code: string }) =>
      e.code === "data/no-columns" && e.message.includes("question, answer") &&
      e.message.includes("prompt + completion"),
  );
  assert.throws(() => toExamples([{ chosen: "a", rejected: "b" }]), (e: Error) => e.message.includes("DPO"));
  assert.throws(() => toExamples([good], { task: "preference" }), { code: "data/no-columns" });
  assert.throws(() => toExamples([]), { code: "data/empty" });
  assert.throws(() => toExamples([{ text: "" }, { text: null }]), { code: "data/no-usable-rows" });
});
