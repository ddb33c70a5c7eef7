import assert from "node:assert/strict";
import { fromFileUrl } from "@std/path";
import { countChecks } from "../../tools/interop.ts";
import { count } from "../../.ci/run.ts";

const TOOL = fromFileUrl(new URL("../../tools/interop.ts", import.meta.url));

async function interop(args: string[], env: Record<string, string>): Promise<{ code: number; text: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-check",
      "--config",
      fromFileUrl(new URL("../../deno.json", import.meta.url)),
      TOOL,
      ...args,
    ],
    env: {
      DENO_DIR: Deno.env.get("DENO_DIR") ?? "",
      NO_COLOR: "1",
      HOME: Deno.env.get("HOME") ?? "",
      ...env,
    },
    clearEnv: true,
    stdin: "null",
  });
  const { code, stdout, stderr } = await command.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, text: decode(stdout) + decode(stderr) };
}

Deno.test("interop: lines of checks are counted, with and without a detail; prose is not", () => {
  const text = [
    "Transformers loads it: same logits ... ok (largest difference 1.6e-06, 0.6s)",
    "another ... ok",
    "a third ... FAILED (AssertionError: 0.02 (of 1), 0.1s)",
    "not on this machine ... ignored (no network, 0.0s)",
    "Loading ... please wait",
    "  indented ... ok",
    "it is ... ok now",
  ].join("\n");
  assert.deepEqual(countChecks(text), { passed: 2, failed: 1, ignored: 1 });
  assert.deepEqual(countChecks(""), { passed: 0, failed: 0, ignored: 0 });
});

Deno.test("interop: an unknown topic is named, with those that there are", async () => {
  const { code, text } = await interop(["nothing"], {});
  assert.equal(code, 2);
  assert.match(text, /No topic "nothing".*quant/);
});

Deno.test("interop: without Python it says so and skips, which continuous integration does not take for success", async () => {
  const cache = await Deno.makeTempDir();
  const { code, text } = await interop([], { PATH: cache, XDG_CACHE_HOME: cache });
  await Deno.remove(cache, { recursive: true });
  assert.equal(code, 0);
  assert.match(text, /^skipped: Cannot make a Python environment/m);
  assert.match(text, /^ok \| 0 passed \| 0 failed \| 1 ignored/m);
  assert.equal(count(text, true, true).ok, false);
});
