/** Preferences from rows to batches: pairs, judged answers, what is left out and what a batch holds. */
import assert from "node:assert/strict";
import {
  collateJudged,
  collatePairs,
  encodeExamples,
  encodeJudgements,
  encodePairs,
  formatDataReport,
  type PreferenceSettings,
  type Row,
  toExamples,
} from "../../lib/data/mod.ts";
import { GOLDEN, tokenizer } from "../text/fixtures.ts";

const chatml = () => tokenizer("chatml", GOLDEN.templates.chatml);
const settings: PreferenceSettings = { cut: "each" };
const say = (role: string, content: string) => ({ role, content });
const pair = (chosen: string, rejected: string): Row => ({
  prompt: [say("user", "Define: LAWYER")],
  chosen: [say("assistant", chosen)],
  rejected: [say("assistant", rejected)],
});

Deno.test("encodePairs: both answers, and both must keep a target", () => {
  const tok = chatml();
  const set = toExamples([pair("One skilled.", "A person."), pair("x", "y")], { task: "preference" });
  const { examples, report } = encodePairs(tok, set, settings);
  assert.deepEqual([report.rows, report.kept], [2, 2]);
  const all = examples.flatMap((e) => [e.chosen, e.rejected]);
  assert.equal(report.tokens, all.reduce((n, e) => n + e.ids.length, 0));
  assert.equal(report.trainedTokens, all.flatMap((e) => e.trained).filter(Boolean).length);
  const short = { cut: "each", max_length: 8, truncation_mode: "keep_start" } as const;
  assert.throws(() => encodePairs(tok, set, short), { code: "data/nothing-to-train" });
  assert.throws(() => encodeExamples(tok, set), { code: "data/wrong-kind" });
  const talk = toExamples([{ messages: [say("user", "a"), say("assistant", "b")] }]);
  assert.throws(() => encodePairs(tok, talk, settings), { code: "data/wrong-kind" });
  assert.throws(() => encodeJudgements(tok, talk, settings), { code: "data/wrong-kind" });
});

Deno.test("encodePairs: the old dialect's empty system message", () => {
  const tok = tokenizer("sentencepiece", GOLDEN.templates.zephyr);
  const set = toExamples([pair("One skilled.", "A person.")], { task: "preference" });
  const text = (auto_insert_empty_system_msg: boolean) =>
    tok.decode(encodePairs(tok, set, { ...settings, auto_insert_empty_system_msg }).examples[0]!.chosen.ids);
  assert.ok(text(true).includes("<|system|>"));
  assert.ok(!text(false).includes("<|system|>"));
});

Deno.test("toExamples: judged answers, by their labels or out of pairs", () => {
  const judged = (label: unknown): Row => ({ prompt: "2 and 2 is", completion: " 4", label });
  const set = toExamples([judged(true), judged(false), judged(1), judged(0)], { task: "judged" });
  assert.deepEqual(set.examples.map((e) => e.kind === "judged" && e.label), [true, false, true, false]);
  assert.throws(() => toExamples([judged("yes")], { task: "judged" }), {
    code: "data/bad-rows",
    where: /label is "yes", neither true nor false/,
  });
  assert.throws(() => toExamples([judged(true)], { task: "preference" }), { message: /train them with KTO/ });
  const { examples, report } = encodeJudgements(
    chatml(),
    toExamples([pair("One skilled.", "A person.")], { task: "judged" }),
    { cut: "prompt_first" },
  );
  assert.deepEqual(examples.map((e) => [e.row, e.label]), [[1, true], [1, false]]);
  assert.match(formatDataReport(report), /^rows {8}2 of 2$/m, "a pair is two answers");
});

Deno.test("collatePairs: chosen above rejected, answers alone are labels", () => {
  const tok = chatml();
  const set = toExamples([pair("One skilled.", "A person."), pair("x", "y")], { task: "preference" });
  const { examples } = encodePairs(tok, set, settings);
  const scores = { values: undefined, perItem: 2 };
  const batch = collatePairs(examples, [1, 0], scores, tok.padId!);
  assert.equal(batch.batch, 4);
  assert.equal(batch.time % 8, 0);
  assert.equal(batch.scores, scores);
  const rows = [examples[1]!.chosen, examples[0]!.chosen, examples[1]!.rejected, examples[0]!.rejected];
  rows.forEach(({ ids, trained }, r) => {
    const at = r * batch.time;
    assert.deepEqual([...batch.ids.subarray(at, at + ids.length)], ids);
    const labels = [...batch.labels.subarray(at, at + batch.time)];
    const want = Array.from({ length: batch.time }, (_, t) => trained[t + 1] ? ids[t + 1] : -100);
    assert.deepEqual(labels, want);
  });
});

Deno.test("collateJudged: each prompt with its own answer, and with another's", () => {
  const tok = chatml();
  const set = toExamples([pair("One skilled.", "A person."), pair("x", "y")], { task: "judged" });
  const { examples } = encodeJudgements(tok, set, { cut: "prompt_first" });
  const batch = collateJudged(examples, examples.toReversed(), [0, 3], { values: undefined, perItem: 2 }, 0);
  assert.deepEqual(batch.desirable, [true, false]);
  assert.deepEqual([batch.batch, batch.mismatched.batch], [2, 2]);
  assert.deepEqual([...batch.mismatched.ids.subarray(0, examples[3]!.ids.length)], examples[3]!.ids);
  assert.deepEqual([...batch.ids.subarray(0, examples[0]!.ids.length)], examples[0]!.ids);
});
