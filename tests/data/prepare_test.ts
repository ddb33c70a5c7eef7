import assert from "node:assert/strict";
import {
  encodeExamples,
  formatDataReport,
  packExamples,
  packReport,
  type Row,
  toExamples,
} from "../../lib/data/mod.ts";
import { GOLDEN, tokenizer, trainedRuns } from "../text/fixtures.ts";

const chat = (question: string, answer: string): Row => ({
  messages: [{ role: "user", content: question }, { role: "assistant", content: answer }],
});

Deno.test("encodeExamples: masks, counts, and rows without a target left out (R1)", () => {
  const tok = tokenizer("chatml");
  const rows = [
    chat("hi", "yo"),
    chat("a very long question, ".repeat(9), "yo"),
    chat("hi", ""),
    chat("hi", "word ".repeat(99)),
  ];
  const { examples, report } = encodeExamples(tok, toExamples(rows), {
    assistant_only_loss: true,
    max_length: 64,
  });
  assert.deepEqual(examples.map((e) => e.row), [1, 4]);
  assert.deepEqual(trainedRuns(tok, examples[0]), ["yo<|im_end|>"]);
  assert.deepEqual([report.rows, report.kept, report.truncated, report.longest], [4, 2, 1, 64]);
  assert.deepEqual(report.dropped.map(({ row, problem }) => [row, problem]), [
    [3, "messages[1] (assistant) is empty"],
    [2, "max_length cuts the whole answer off"],
  ]);
  assert.deepEqual(report.answersCut.map((issue) => issue.row), [4]);
  assert.equal(report.tokens, examples[0].ids.length + 64);
  assert.equal(report.trainedTokens, examples.flatMap((e) => e.trained).filter(Boolean).length);
});

Deno.test("encodeExamples: the whole conversation is trained where the mask is off; token 0 is no target", () => {
  const tok = tokenizer("chatml");
  const { examples, report } = encodeExamples(tok, toExamples([chat("hi", "yo")]));
  assert.ok(examples[0].trained.every(Boolean));
  assert.equal(report.trainedTokens, examples[0].ids.length - 1);
});

Deno.test("encodeExamples: nothing to train on is an error with the reason", () => {
  const tok = tokenizer("chatml");
  const set = toExamples([chat("hi there", "yo"), chat("hi you", "yo")]);
  assert.throws(() => encodeExamples(tok, set, { assistant_only_loss: true, max_length: 8 }), {
    code: "data/nothing-to-train",
    where: "row 1: max_length cuts the whole answer off; row 2: max_length cuts the whole answer off",
    remedy: "Raise max_length (it is 8).",
  });
});

Deno.test("encodeExamples: plain text and completions", () => {
  const tok = tokenizer("sentencepiece");
  const text = encodeExamples(tok, toExamples([{ text: "hi" }])).examples[0];
  assert.deepEqual([text.ids[0], text.ids.at(-1)], [tok.bosId, tok.eosId]);
  const set = toExamples([{ prompt: "2+2=", completion: "4" }]);
  assert.deepEqual(trainedRuns(tok, encodeExamples(tok, set).examples[0]), ["4</s>"]);
  assert.ok(encodeExamples(tok, set, { completion_only_loss: false }).examples[0].trained.every(Boolean));
  assert.deepEqual(trainedRuns(tok, encodeExamples(tok, set, { add_eos: false }).examples[0]), ["4"]);
});

Deno.test("encodeExamples: an empty system message where legacy recipes put one", () => {
  const tok = tokenizer("sentencepiece", GOLDEN.templates.zephyr);
  const settings = { auto_insert_empty_system_msg: true, bos: "template" as const };
  const { examples } = encodeExamples(tok, toExamples([chat("hi", "yo")]), settings);
  assert.equal(tok.decode(examples[0].ids), "<|system|>\n</s> \n<|user|>\nhi</s> \n<|assistant|>\nyo</s> \n");
  const mistral = tokenizer("sentencepiece", GOLDEN.templates.mistral);
  const plain = encodeExamples(mistral, toExamples([chat("hi", "yo")]), settings).examples[0];
  assert.equal(mistral.decode(plain.ids), "<s> [INST] hi [/INST]yo</s>", "its template knows no system turn");
});

Deno.test("encodeExamples: a row's template variables reach the template; its refusal names the row", () => {
  const tok = tokenizer("chatml", "{{ mode }}: {{ messages[-1].content }}");
  const rows = [{ ...chat("hi", "yo"), chat_template_kwargs: { mode: "calm" } }];
  assert.equal(tok.decode(encodeExamples(tok, toExamples(rows)).examples[0].ids), "calm: yo");
  const strict = tokenizer("sentencepiece", GOLDEN.templates.mistral);
  const twice = { messages: [...chat("a", "b").messages as object[], { role: "assistant", content: "c" }] };
  assert.throws(() => encodeExamples(strict, toExamples([chat("a", "b"), twice])), {
    code: "text/template-raised",
    where: "row 2",
  });
});

Deno.test("formatDataReport: what a user sees before training", () => {
  const tok = tokenizer("chatml", "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}");
  const rows = [chat("hi", "yo"), chat("hi", ""), chat("hi", "word ".repeat(50))];
  const { examples, report } = encodeExamples(tok, toExamples(rows), {
    assistant_only_loss: true,
    max_length: 32,
  });
  report.packed = packReport(packExamples(examples, 32, "bfd"), 32);
  const text = formatDataReport(report);
  assert.match(text, /^rows {8}2 of 3$/m);
  assert.match(text, /^truncated {3}1 rows \(50\.0 %\)$/m);
  assert.match(text, /row 2: messages\[1\] \(assistant\) is empty/);
  assert.match(text, /^no stop {5}2 rows/m);
  assert.match(text, /^packed {6}2 rows of up to 32 tokens, \d+\.\d % full$/m);
});
