import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import {
  display,
  jupyter,
  keepOutputs,
  shortStack,
  stopRunning,
  stopSignal,
} from "../../lib/notebook/kernel.ts";

Deno.test("outside Jupyter there is no kernel, and looking for it does not throw", () => {
  assert.equal(jupyter(), undefined);
  assert.equal(keepOutputs(undefined), false);
  assert.equal(keepOutputs({}), false, "another Deno may not have the function");
});

Deno.test("a cell's result is followed by a wait that grows with what the cell printed", async () => {
  const said: unknown[] = [];
  const print = { log: (...a: unknown[]) => said.push(a) } as unknown as Console;
  for (const name of ["info", "warn", "error", "debug"] as const) print[name] = () => {};
  const order: string[] = [];
  const internals = {
    broadcastResult: (count: number, result: unknown) => {
      order.push(`${count}:${result}`);
      return Promise.resolve();
    },
  };
  assert.equal(keepOutputs(internals, print), true);

  // a timer that the hook must outlast, and one that it must not
  const after = async (lines: number) => {
    for (let i = 0; i < lines; i++) print.log("line", i);
    let early = false;
    setTimeout(() => early = true, 10);
    await internals.broadcastResult(order.length, "r");
    return early;
  };
  assert.equal(await after(0), true, "20 ms at least");
  assert.deepEqual(order, ["0:r"]);
  const waits: number[] = [];
  const real = globalThis.setTimeout;
  globalThis.setTimeout = ((run: () => void, ms: number) => {
    waits.push(ms);
    return real(run, 0);
  }) as typeof setTimeout;
  try {
    for (const lines of [0, 100, 1e4, 0]) {
      for (let i = 0; i < lines; i++) print.log("line");
      await internals.broadcastResult(1, undefined);
    }
  } finally {
    globalThis.setTimeout = real;
  }
  assert.deepEqual(waits, [20, 60, 1000, 20]);
  assert.equal(said.length, 100 + 1e4, "what is printed still arrives");
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
  const shown: unknown[] = [], waits: number[] = [];
  const kernel = { display: (...args: unknown[]) => (shown.push(args), Promise.resolve()) };
  const real = globalThis.setTimeout;
  globalThis.setTimeout = ((run: () => void, ms: number) => {
    waits.push(Math.round(ms));
    return real(run, 0);
  }) as typeof setTimeout;
  try {
    await display(kernel, { "text/plain": "x" }, { display_id: "d", update: true });
    await display(kernel, { "text/html": "x".repeat(2_600_000) });
  } finally {
    globalThis.setTimeout = real;
  }
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
