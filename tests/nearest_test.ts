import assert from "node:assert/strict";
import fc from "fast-check";
import { editDistance, nearest } from "../lib/nearest.ts";

Deno.test("edit distance: known values", () => {
  assert.equal(editDistance("", "abc"), 3);
  assert.equal(editDistance("kitten", "sitting"), 3);
  assert.equal(editDistance("lora_r", "lroa_r"), 1);
  assert.equal(editDistance("ca", "abc"), 3); // restricted form: the unrestricted one gives 2
});

Deno.test("edit distance: symmetric, 0 only for equals, and within the length bounds", () => {
  const word = fc.string({ maxLength: 8, unit: fc.constantFrom("a", "b", "c") });
  fc.assert(fc.property(word, word, (a, b) => {
    const d = editDistance(a, b);
    assert.equal(d, editDistance(b, a));
    assert.equal(d === 0, a === b);
    assert.ok(d >= Math.abs(a.length - b.length) && d <= Math.max(a.length, b.length));
  }));
});

Deno.test("edit distance: agrees with a search over single edits", () => {
  const alphabet = ["a", "b"];
  const edits = (s: string) => {
    const out = new Set<string>();
    for (let i = 0; i <= s.length; i++) {
      for (const c of alphabet) out.add(s.slice(0, i) + c + s.slice(i));
      if (i < s.length) out.add(s.slice(0, i) + s.slice(i + 1));
      for (const c of i < s.length ? alphabet : []) out.add(s.slice(0, i) + c + s.slice(i + 1));
      if (i + 1 < s.length) out.add(s.slice(0, i) + s[i + 1] + s[i] + s.slice(i + 2));
    }
    return out;
  };
  for (const start of ["", "a", "ab", "aab", "abab"]) {
    for (const one of edits(start)) {
      assert.equal(editDistance(start, one), one === start ? 0 : 1, `${start} ${one}`);
    }
  }
});

Deno.test("nearest: the likely name, or none", () => {
  const names = ["lora_r", "lora_alpha", "learning_rate", "max_length"];
  assert.equal(nearest("learnign_rate", names), "learning_rate");
  assert.equal(nearest("LORA_ALPHA", names), "lora_alpha");
  assert.equal(nearest("lora_rank", names), "lora_r");
  assert.equal(nearest("zzzzzzzz", names), undefined);
});
