import assert from "node:assert/strict";
import { fromFileUrl } from "@std/path";
import { readRows, toExamples } from "../../lib/data/mod.ts";

const asset = (name: string) => fromFileUrl(new URL(`../../assets/data/${name}`, import.meta.url));

for (const name of ["quickstart", "devils_dictionary"]) {
  Deno.test(`assets: ${name} is whole, and shares no request between its splits`, async () => {
    const prompts: Set<string>[] = [];
    for (const split of ["train", "test"]) {
      const set = toExamples(await readRows(asset(name), { split }));
      assert.equal(set.kind, "messages");
      assert.deepEqual(set.issues, []);
      prompts.push(new Set(set.examples.map((e) => e.kind === "messages" ? e.messages[0].content : "")));
      assert.equal(prompts.at(-1)!.size, set.examples.length, "no request twice");
    }
    const [train, test] = prompts;
    assert.ok(train.size >= 400 && test.size >= 0.09 * train.size);
    assert.equal(train.intersection(test).size, 0);
  });
}

Deno.test("assets: preferences follow the split of the definitions", async () => {
  for (const split of ["train", "test"]) {
    const definitions = toExamples(await readRows(asset(`devils_dictionary/${split}.jsonl`)));
    const answers = new Map(definitions.examples.map((e) => {
      assert.ok(e.kind === "messages");
      return [e.messages[0].content, e.messages[1].content];
    }));
    const pairs = toExamples(await readRows(asset(`devils_dictionary/preferences_${split}.jsonl`)), {
      task: "preference",
    });
    assert.deepEqual(pairs.issues, []);
    assert.ok(pairs.examples.length > 0.7 * answers.size);
    for (const pair of pairs.examples) {
      assert.ok(
        pair.kind === "preference" && typeof pair.prompt !== "string" && typeof pair.chosen !== "string",
      );
      assert.equal(
        pair.chosen[0].content,
        answers.get(pair.prompt[0].content),
        "chosen is Bierce's, of the same split",
      );
    }
  }
});

Deno.test("assets: a held-out verse asks for a mood in which its subject was never seen", async () => {
  const key = (request: string) => request.replace(/: the \w+ /, " ");
  const requests = async (split: string) =>
    new Set(
      toExamples(await readRows(asset("quickstart"), { split })).examples.map((e) =>
        e.kind === "messages" ? key(e.messages[0].content) : ""
      ),
    );
  const [train, test] = [await requests("train"), await requests("test")];
  assert.equal(train.intersection(test).size, 0);
  const subject = (request: string) => request.split(" ")[1];
  const seen = new Set([...train].map(subject));
  assert.ok([...test].every((request) => seen.has(subject(request))), "each subject was seen in other moods");
});
