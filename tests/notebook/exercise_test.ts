import assert from "node:assert/strict";
import { type Answer, check, type CheckOptions, judge } from "../../lib/notebook/exercise.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest } from "../gpu_helper.ts";

const OPTIONS: CheckOptions = {
  expected: 0.373,
  tolerance: 0.01,
  mistakes: [[0.5, "that is before"], [(x) => x[0]! > 100, "that is no number of bits"]],
  right: "32 became 8",
  hint: "One scale serves 64.",
};

const said = async (answer: Answer | undefined, options = OPTIONS) => {
  const { outcome, message } = await judge(answer, options);
  return `${outcome}: ${message}`;
};

Deno.test("an answer is right within the tolerance, wrong with the diagnosis, or not there", async () => {
  assert.equal(await said(0.373), "right: 32 became 8");
  assert.equal(await said(0.376), "right: 32 became 8");
  assert.equal(await said(0.379), "wrong: One scale serves 64.");
  assert.equal(await said(0.5), "wrong: that is before");
  assert.equal(await said(512), "wrong: that is no number of bits");
  assert.match(await said(undefined), /^empty: Nothing filled in yet/);
  assert.equal(await said(NaN), "wrong: Number 0 of your answer is NaN.");
});

Deno.test("lists say where they differ, and how long they should be", async () => {
  const options = { expected: [1, 2, 4], mistakes: [[[1, 2, 3], "counted"]] as const };
  assert.equal(await said([1, 2, 4], options), "right: ");
  assert.equal(await said([1, 2, 3], options), "wrong: counted");
  assert.equal(await said([1, 2], options), "wrong: Your answer has 2 numbers, it should have 3.");
  assert.equal(await said(Float32Array.of(1, 9, 4), options), "wrong: Number 1 is 9 where 2 belongs.");
  assert.equal(await said(true, { expected: true }), "right: ");
  assert.equal(await said("no ", { expected: "no", mistakes: [["yes", "why"]] }), "right: ");
  assert.equal(await said("yes", { expected: "no", mistakes: [["yes", "why"]] }), "wrong: why");
});

Deno.test("a single number's answer is not given away", async () => {
  assert.ok(!(await said(7)).includes("0.373"));
});

gpuTest("tensors are read back", async () => {
  using t = tensor([1, 2], [2]);
  assert.equal(await said(t, { expected: [1, 2] }), "right: ");
});

Deno.test("outside Jupyter the verdict is printed, with mark and name", async () => {
  const lines: unknown[] = [];
  const { log } = console;
  console.log = (text) => lines.push(text);
  try {
    await check("bits", 0.5, OPTIONS);
    await check("bits", 0.373, OPTIONS);
  } finally {
    console.log = log;
  }
  assert.deepEqual(lines, ["✗ bits: Not right yet. that is before", "✓ bits: Right. 32 became 8"]);
});
