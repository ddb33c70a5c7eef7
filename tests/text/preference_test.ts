/** Preferences as tokens: the ids and targets of TRL's trainers (fixtures/make_preferences.py), and nibble's own rules. */
import assert from "node:assert/strict";
import { encodePairs, toExamples } from "../../lib/data/mod.ts";
import {
  type AnswerIds,
  type AnswerLimits,
  CUTS,
  encodeAnswers,
  joinAnswer,
  type Message,
} from "../../lib/text/mod.ts";
import { GOLDEN, readJson, tokenizer } from "./fixtures.ts";

interface Case {
  tokenizer: "chatml" | "llama3" | "sentencepiece";
  template: string | null;
  row: Record<string, unknown>;
  trainer: "dpo" | "orpo" | "kto";
  cut: AnswerLimits & Record<string, unknown>;
  chosen: { ids: number[]; prompt: number };
  rejected: { ids: number[]; prompt: number };
}
const { cases } = readJson("preferences") as unknown as { cases: Case[] };

for (const trainer of ["dpo", "orpo", "kto"] as const) {
  Deno.test(`encodePairs: ids and targets of TRL's ${trainer.toUpperCase()}Trainer`, () => {
    const own = cases.filter((c) => c.trainer === trainer);
    assert.ok(own.length >= 6);
    for (const { cut, row, template, ...c } of own) {
      const tok = tokenizer(c.tokenizer, template === null ? undefined : GOLDEN.templates[template]);
      const { examples: [pair] } = encodePairs(tok, toExamples([row], { task: "preference" }), {
        ...cut,
        cut: trainer === "dpo" ? "each" : "prompt_first",
        bos: trainer === "dpo" ? "template" : "auto",
      });
      for (const side of ["chosen", "rejected"] as const) {
        const what = `${c.tokenizer}, ${template}, ${JSON.stringify(cut)}, ${side}`;
        const { ids, trained } = pair![side], want = c[side];
        if (tok.addsBos && ids[0] === tok.bosId && want.ids[0] !== tok.bosId) {
          // TRL cut BOS away; here it took the place of one more token of the prompt
          assert.deepEqual(ids.slice(1), want.ids.slice(-(ids.length - 1)), what);
        } else {
          assert.deepEqual(ids, want.ids, what);
          assert.equal(trained.indexOf(true), want.prompt, what);
        }
        assert.deepEqual(ids.filter((_, i) => trained[i]), want.ids.slice(want.prompt), what);
      }
    }
  });
}

const say = (role: string, content: string): Message => ({ role, content });

Deno.test("encodeAnswers: a token across the boundary belongs to the answer, EOS is added once", () => {
  const tok = tokenizer("sentencepiece");
  const prompt = "light through yon";
  const [split, ended] = encodeAnswers(tok, prompt, ["der window", "der window</s>"], { row: 1 });
  assert.deepEqual(split!.answer.at(-1), tok.eosId);
  assert.deepEqual(ended, split, "an EOS that is written is not followed by another");
  assert.equal(split!.prompt[0], tok.bosId);
  assert.equal(split!.bos, 1);
  const whole = tok.encode(prompt + "der window");
  assert.deepEqual([...split!.prompt, ...split!.answer], [...whole, tok.eosId]);
  assert.ok(
    tok.decode(split!.prompt, { skipSpecialTokens: true }).length <= prompt.length,
    "no character of the answer is in the prompt",
  );
});

Deno.test("encodeAnswers: with a chat template the prompt ends where the model begins to write", () => {
  const tok = tokenizer("chatml", GOLDEN.templates.chatml);
  const answers = ["yo", "no"].map((content) => [say("assistant", content)]);
  const [yes, no] = encodeAnswers(tok, [say("user", "hi")], answers, { row: 1 });
  assert.deepEqual(yes!.prompt, no!.prompt);
  assert.ok(tok.decode(yes!.prompt).endsWith("<|im_start|>assistant\n"));
  assert.equal(
    tok.decode(yes!.answer),
    "yo<|im_end|>\n<|im_end|>",
    "as TRL has it, all that follows is the answer",
  );
  const mixed = () => encodeAnswers(tok, "hi", [[say("assistant", "yo")]], { row: 7 });
  assert.throws(mixed, { code: "text/mixed-pair", where: "row 7" });
});

const parts: AnswerIds = { prompt: [1, 10, 11, 12, 13], answer: [20, 21, 22, 2], bos: 1 };

Deno.test("cuts: BOS stays, lengths are kept, and the cut is told", () => {
  const cut = (how: keyof typeof CUTS, limits: AnswerLimits, longest?: number) => {
    const { ids, trained, truncated, answerCut } = joinAnswer(parts, how, limits, 3, longest);
    return [ids.join(), trained.filter(Boolean).length, truncated, answerCut];
  };
  assert.deepEqual(cut("each", {}), ["1,10,11,12,13,20,21,22,2", 4, undefined, undefined]);
  assert.deepEqual(cut("each", { max_prompt_length: 3 }), ["1,12,13,20,21,22,2", 4, 2, undefined]);
  assert.deepEqual(cut("each", { max_completion_length: 2 }), ["1,10,11,12,13,20,21", 2, 2, true]);
  assert.deepEqual(cut("each", { max_length: 7 }), ["1,12,13,20,21,22,2", 4, 2, undefined]);
  assert.deepEqual(cut("each", { max_length: 3 }), ["1,22,2", 2, 6, true]);
  assert.deepEqual(cut("each", { max_length: 6, truncation_mode: "keep_start" }), [
    "1,10,11,12,13,20",
    1,
    3,
    true,
  ]);
  assert.deepEqual(cut("each", { max_length: 4, truncation_mode: "keep_start" }), ["1,10,11,12", 0, 5, true]);
  const limits = { max_length: 8, max_prompt_length: 3 };
  assert.deepEqual(cut("prompt_first", limits), ["1,12,13,20,21,22,2", 4, 2, undefined]);
  assert.deepEqual(
    cut("prompt_first", { ...limits, truncation_mode: "keep_start" }),
    ["1,10,11,20,21,22,2", 4, 2, undefined],
  );
  assert.deepEqual(cut("prompt_first", { max_length: 5, max_prompt_length: 3 }), [
    "1,12,13,20,21",
    2,
    4,
    true,
  ]);
  // the other answer of the pair does not fit: both prompts are cut alike
  assert.deepEqual(cut("prompt_first", { max_length: 9, max_prompt_length: 3 }, 5)[0], "1,12,13,20,21,22,2");
  assert.deepEqual(
    cut("prompt_first", { max_length: 9, max_prompt_length: 3 }, 4)[0],
    "1,10,11,12,13,20,21,22,2",
  );
});

Deno.test("the comparison can fail: answers are not what they would be without their prompt", () => {
  const tok = tokenizer("sentencepiece", GOLDEN.templates.zephyr);
  const [{ answer }] = encodeAnswers(tok, [say("user", "hi")], [[say("assistant", "yo")]], { row: 1 }) as [
    AnswerIds,
  ];
  assert.notDeepEqual(
    answer,
    tok.encode("yo</s>\n", { addSpecialTokens: false }),
    "encoded apart it has a mark of its own",
  );
});
