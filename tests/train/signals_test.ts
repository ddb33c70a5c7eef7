import assert from "node:assert/strict";
import { INTERRUPT_MESSAGE, SAME_PRESS_MS, stopOnInterrupt } from "../../lib/train/signals.ts";

// Windows cannot send a signal to a child, only end it.
const ignore = Deno.build.os === "windows";

/** A run in a process of its own: it stops at the first signal and then needs half a minute to save. */
const PROGRAM = `
  import { stopOnInterrupt } from ${
  JSON.stringify(new URL("../../lib/train/signals.ts", import.meta.url).href)
};
  const interrupt = stopOnInterrupt();
  console.log("listening");
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  while (!interrupt.signal.aborted) await wait(5);
  console.log("stopping");
  if (Deno.args[0] === "slow") await wait(30_000);
  interrupt.dispose();
  console.log("saved");`;

/** Starts the run and sends it a signal whenever it says one of `words`. */
async function drive(words: string[], signal: Deno.Signal, pause: number, ...args: string[]) {
  const file = Deno.makeTempFileSync({ suffix: ".ts" });
  Deno.writeTextFileSync(file, PROGRAM);
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "--no-config", file, ...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const err = new Response(child.stderr).text();
    let out = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      out += text;
      for (const word of words) {
        if (!text.includes(word)) continue;
        await new Promise((done) => setTimeout(done, pause));
        child.kill(signal);
      }
    }
    return { code: (await child.status).code, out, err: await err };
  } finally {
    Deno.removeSync(file);
  }
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test({
    name: `the first ${signal} lets the run end by itself and says how to quit at once`,
    ignore,
    async fn() {
      const { code, out, err } = await drive(["listening"], signal, 0);
      assert.equal(code, 0);
      assert.match(out, /saved/);
      assert.equal(err.split(INTERRUPT_MESSAGE).length, 2, "said once");
    },
  });
}

Deno.test({
  name: "the second Ctrl-C quits at once with 130",
  ignore,
  async fn() {
    const { code, out } = await drive(["listening", "stopping"], "SIGINT", SAME_PRESS_MS + 100, "slow");
    assert.equal(code, 130);
    assert.doesNotMatch(out, /saved/);
  },
});

Deno.test({
  name: "one press that reaches us twice counts once, and after dispose nothing is heard",
  ignore,
  async fn() {
    let time = 1000;
    const said: string[] = [];
    const exits: number[] = [];
    const interrupt = stopOnInterrupt({
      say: (t) => said.push(t),
      exit: (c) => exits.push(c),
      now: () => time,
    });
    // SIGTERM, since the test runner itself ends at a SIGINT. A listener of the test's own tells when a signal has
    // been delivered to all; a timer keeps the process waiting for it, which listeners do not.
    const waiting = setInterval(() => {}, 1000);
    let delivered = () => {};
    const heard = () => delivered();
    Deno.addSignalListener("SIGTERM", heard);
    const press = () =>
      new Promise<void>((done) => {
        delivered = done;
        Deno.kill(Deno.pid, "SIGTERM");
      });
    try {
      await press();
      assert.ok(interrupt.signal.aborted);
      time += SAME_PRESS_MS;
      await press();
      assert.deepEqual(exits, []);
      time += 1;
      await press();
      assert.deepEqual(exits, [130]);
      interrupt.dispose();
      interrupt.dispose();
      await press();
      assert.deepEqual(exits, [130]);
      assert.equal(said.length, 1);
    } finally {
      clearInterval(waiting);
      Deno.removeSignalListener("SIGTERM", heard);
    }
  },
});
