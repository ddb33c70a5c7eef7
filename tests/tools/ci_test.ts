import assert from "node:assert/strict";
import { count } from "../../.ci/run.ts";

Deno.test("ci: closing lines are added up", () => {
  const text =
    "noise\nok | 3 passed (1 step) | 0 failed | 2 ignored (378ms)\nok | 4 passed | 0 failed (1s)\n";
  assert.deepEqual(count(text, true, true), { passed: 7, failed: 0, skipped: 2, ok: true });
});

Deno.test("ci: a failed test fails the stage, also where the process ends well", () => {
  assert.deepEqual(count("FAILED | 3 passed | 2 failed (1s)\n", false, true).ok, false);
  assert.deepEqual(count("FAILED | 3 passed | 2 failed (1s)\n", true, true), {
    ...{ passed: 3, failed: 2, skipped: 0, ok: false },
  });
});

Deno.test("ci: a stage that broke off, or ran no test, counts as one failure", () => {
  assert.deepEqual(count("running 9 tests\n", false, true), { passed: 0, failed: 1, skipped: 0, ok: false });
  assert.deepEqual(count("", true, true), { passed: 0, failed: 1, skipped: 0, ok: false });
  assert.deepEqual(count("ok | 5 passed | 0 failed (1s)\n", false, true), {
    ...{ passed: 5, failed: 1, skipped: 0, ok: false },
  });
});

Deno.test("ci: a stage without tests passes by its exit status alone", () => {
  assert.equal(count("all formatted\n", true, false).ok, true);
  assert.equal(count("all formatted\n", false, false).ok, false);
});
