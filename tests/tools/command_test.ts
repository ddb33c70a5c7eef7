/** The commands as a user types them, each in a process of its own. */
import assert from "node:assert/strict";
import { command } from "./command.ts";

const TINY = "assets/models/tiny";

Deno.test("plan: the table of a recipe, by kind, with the largest binding", async () => {
  const { code, out, err } = await command(
    "tools/plan.ts",
    "recipes/quickstart/config.yaml",
    "--max_steps=3",
  );
  assert.equal(code, 0, err);
  assert.match(out, /3 steps over \d+ sequences/);
  for (const kind of ["base", "adapter", "gradient", "optimizer", "activation", "largest"]) {
    assert.match(out, new RegExp(`^${kind} +\\d`, "m"));
  }
});

Deno.test("plan: a budget that the run exceeds is refused with status 1, before a weight is read", async () => {
  const { code, err } = await command(
    "tools/plan.ts",
    "recipes/quickstart/config.yaml",
    "--nibble_memory_budget_gb=0.001",
  );
  assert.equal(code, 1);
  assert.match(err, /error: The run needs \d+(\.\d)? MiB of device memory\n.*allows 1.0 MiB/);
});

Deno.test("chat: the same greedy words each time, a stop at the limit, and errors that say the remedy", async () => {
  const say = ["tools/chat.ts", "--model", TINY, "--raw", "--prompt", "The ", "--max_new_tokens", "4"];
  const first = await command(...say);
  assert.equal(first.code, 0, first.err);
  assert.match(first.err, /parameters/); // what was loaded goes to stderr, the words alone to stdout
  assert.ok(first.out.trim().length > 0);
  assert.equal((await command(...say)).out, first.out);

  const bad = await command("tools/chat.ts", "--model", TINY, "--temperature", "warm");
  assert.equal(bad.code, 1);
  assert.match(bad.err, /--temperature is 'warm'/);
  const half = await command("tools/chat.ts", "--model", TINY, "--max_new_tokens", "2.5");
  assert.match(half.err, /--max_new_tokens is '2.5', not a whole number of 1 or more/);
  const share = await command("tools/chat.ts", "--model", TINY, "--top_p", "7");
  assert.match(share.err, /--top_p is '7', not a number from 0 to 1/);
  const kind = await command("tools/chat.ts", "--model", TINY, "--torch_dtype", "float8");
  assert.match(kind.err, /--torch_dtype is 'float8', not one of auto, bfloat16, float16, float32/);
  const bytes = async (type: string) =>
    Number(/in ([\d.]+) MiB/.exec((await command(...say, "--torch_dtype", type)).err)?.[1]);
  const [wide, stored] = [await bytes("float32"), await bytes("auto")];
  assert.ok(Math.abs(wide / stored - 2) < 0.1, `${wide} MiB in float32, ${stored} as stored in 16 bits`);
  const none = await command("tools/chat.ts", "--model", "no/such-folder/here", "--prompt", "x");
  assert.equal(none.code, 1);
  assert.match(none.err, /error: /);
});

Deno.test("chat and plan: --help on its own; without arguments the same, and status 2", async () => {
  for (const tool of ["tools/chat.ts", "tools/plan.ts"]) {
    const help = await command(tool, "--help");
    assert.equal(help.code, 0);
    assert.match(help.out, /^Usage: deno task /);
    assert.equal((await command(tool)).code, 2);
  }
});
