import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import type { Heard } from "../../lib/notebook/iopub.ts";
import {
  display,
  type Jupyter,
  jupyter,
  keepOutputs,
  sent,
  shortStack,
  stopRunning,
  stopSignal,
} from "../../lib/notebook/kernel.ts";

Deno.test("outside Jupyter there is no kernel, and looking for it does not throw", () => {
  const sent = () => Promise.resolve();
  assert.equal(jupyter(), undefined);
  assert.equal(keepOutputs(sent, undefined), false);
  assert.equal(keepOutputs(sent, {}), false, "another Deno may not have the function");
});

Deno.test("a cell ends after its result was given to the kernel and all of it went out", async () => {
  const order: string[] = [];
  const step = (name: string) => async () => {
    await new Promise((done) => setTimeout(done, 5));
    order.push(name);
  };
  const internals = { broadcastResult: (count: number, result: unknown) => step(`${count}:${result}`)() };
  assert.equal(keepOutputs(step("sent"), internals), true);
  await internals.broadcastResult(1, "r");
  assert.deepEqual(order, ["1:r", "sent"]);
});

/** A kernel that notes what it is given, and ears that hear the marks of the given sends. */
function listened(hears: number[]) {
  const shown: unknown[] = [], marks: string[] = [], waits: number[] = [];
  const kernel: Jupyter = {
    display: (...args) => (shown.push(args), Promise.resolve()),
    broadcast: (type, content, { metadata }) => {
      assert.deepEqual([type, content], ["status", { execution_state: "busy" }]);
      marks.push((metadata as { mark: string }).mark);
    },
  };
  const heard: Heard = async (mark, timeout) => {
    waits.push(timeout);
    assert.equal(marks.length, waits.length - 1, "asked before it is sent");
    await Promise.resolve();
    assert.equal(marks.at(-1), mark);
    return hears.includes(marks.length);
  };
  return { kernel, heard: Promise.resolve(heard), shown, marks, waits };
}

/** Runs it with timers that ring at once; resolves to what they were set to. */
async function timers(run: () => Promise<void>): Promise<number[]> {
  const waits: number[] = [];
  const real = globalThis.setTimeout;
  globalThis.setTimeout = ((run: () => void, ms: number) => {
    waits.push(Math.round(ms));
    return real(run, 0);
  }) as typeof setTimeout;
  try {
    await run();
  } finally {
    globalThis.setTimeout = real;
  }
  return waits;
}

Deno.test("what was sent is out when a mark behind it is heard; one that is not is sent again", async () => {
  const first = listened([1]);
  assert.deepEqual(await timers(() => sent(first.kernel, 7, first.heard)), [], "no clock");
  assert.equal(first.marks.length, 1);
  const third = listened([3]);
  assert.deepEqual(await timers(() => sent(third.kernel, 7, third.heard)), []);
  assert.deepEqual(third.waits, [50, 100, 200]);
  assert.equal(new Set(third.marks).size, 3);
});

Deno.test("where one cannot listen, or hears nothing, time has to do", async () => {
  const { kernel, marks } = listened([]);
  assert.deepEqual(await timers(() => sent(kernel, 7, Promise.resolve(undefined))), [7]);
  assert.equal(marks.length, 0);
  const deaf = listened([]);
  assert.deepEqual(await timers(() => sent(deaf.kernel, 7, deaf.heard)), [7]);
  assert.ok(deaf.waits.reduce((a, b) => a + b) > 50_000, "not given up early");
  assert.deepEqual(await timers(() => sent(deaf.kernel)), [200], "and is not asked again");
});

Deno.test("Stop aborts the newest run only", () => {
  stopRunning(); // nothing runs
  const first = stopSignal(), second = stopSignal();
  stopRunning();
  assert.equal(first.aborted, false);
  assert.equal(second.aborted, true);
  assert.equal(stopSignal().aborted, false, "the next run starts afresh");
});

Deno.test("a display is waited for, a big one longer", async () => {
  const { kernel, shown } = listened([]); // here is no kernel to listen to
  const waits = await timers(async () => {
    await display(kernel, { "text/plain": "x" }, { display_id: "d", update: true });
    await display(kernel, { "text/html": "x".repeat(2_600_000) });
  });
  assert.deepEqual(shown[0], [{ "text/plain": "x" }, { raw: true, display_id: "d", update: true }]);
  assert.deepEqual(waits, [25, 545]);
});

Deno.test("an error keeps its message, its remedy and the cell's lines, and leaves nibble's out", () => {
  const at = (file: string | null, line: number, name: string | null) => ({
    getFileName: () => file,
    getFunctionName: () => name,
    getLineNumber: () => line,
  });
  const error = new NibbleError("a/b", "It is not there", { where: "x.yaml", remedy: "Make it." });
  const sites = [
    at("/home/me/nibble/lib/hub/model.ts", 9, "find"),
    at("file:///home/me/nibble/lib/api.ts", 8, null),
    at("ext:core/mod.js", 7, "op"),
    at("/home/me/mine.ts", 6, "helper"),
    at("", 3, "f"),
    at(null, 1, null),
  ];
  assert.equal(
    shortStack(error, sites, "/home/me/nibble/"),
    "NibbleError: It is not there\n  where: x.yaml\n  to do: Make it.\n    at /home/me/mine.ts:6, in helper\n" +
      "    at line 3 of the cell, in f\n    at line 1 of the cell",
  );
});
