/**
 * `deno task test:interop [topics]`: the real libraries (Transformers, PEFT, bitsandbytes, gguf, TRL) on files that
 * nibble wrote, and nibble on files that they wrote.
 *
 * A topic is a folder of tests/interop. Its `write.ts` puts nibble's files into a folder given as its argument, each
 * `check_*.py` looks at them there and may leave files of its own, and `read.ts` looks at those. Checks print one line
 * each, `name ... ok (detail)`; see tests/interop/interop.py and tests/interop/checks.ts.
 *
 * Python's packages, pinned in tests/interop/requirements.txt, live in an environment in nibble's cache folder.
 * @module
 */
import { fromFileUrl, join } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { nibbleCache } from "../lib/hub/settings.ts";
import { asksForHelp } from "./command.ts";
import { ensurePython } from "./python.ts";

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const TOPICS = join(ROOT, "tests", "interop");
/** Milliseconds that one script may take. */
const LIMIT = 240_000;
/** Nothing leaves this machine, and nothing is written beside the scripts. */
const ENV = {
  PYTHONPATH: TOPICS,
  PYTHONDONTWRITEBYTECODE: "1",
  PYTHONUNBUFFERED: "1",
  HF_HUB_OFFLINE: "1",
  HF_HUB_DISABLE_PROGRESS_BARS: "1",
  TRANSFORMERS_VERBOSITY: "error",
  TOKENIZERS_PARALLELISM: "false",
  TQDM_DISABLE: "1",
  NO_COLOR: "1",
};

/** What the checks came to. */
export interface Count {
  passed: number;
  failed: number;
  ignored: number;
}

/** Counts lines `name ... ok`, `name ... FAILED` and `name ... ignored`, each perhaps with a detail in brackets. */
export function countChecks(text: string): Count {
  const count = (word: string) =>
    text.match(new RegExp(`^\\S.* \\.\\.\\. ${word}( \\(.*\\))?$`, "gm"))?.length ?? 0;
  return { passed: count("ok"), failed: count("FAILED"), ignored: count("ignored") };
}

/** The environment that holds the packages of requirements.txt, in exactly these versions. */
export function interopPython(): Promise<string> {
  const requirements = join(TOPICS, "requirements.txt");
  const pins = Deno.readTextFileSync(requirements).split("\n").filter((line) => /^[\w-]+==/.test(line));
  // "2.13.0+cpu" is 2.13.0 too
  const probe = "from importlib.metadata import version\n" +
    `for name, pin in [p.split("==") for p in ${JSON.stringify(pins)}]:\n` +
    '    assert version(name).split("+")[0] == pin, name\n';
  const folder = join(nibbleCache(), "interop");
  return ensurePython({
    folder,
    purpose: "the interoperability checks",
    probe,
    install: ["-r", requirements],
  });
}

/** Runs a script; its lines are shown as they come, what it complains of only when it ends badly. */
async function script(command: string, args: string[]): Promise<Count> {
  const child = new Deno.Command(command, {
    args,
    cwd: ROOT,
    env: ENV,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(LIMIT),
  }).spawn();
  const errors = new Response(child.stderr).text();
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    Deno.stdout.writeSync(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  const { success } = await child.status;
  const count = countChecks(text);
  if (success && count.failed === 0) return count;
  console.log((await errors).trim());
  if (count.failed > 0) return count;
  console.log(`${args.at(-2)} ... FAILED (it broke off)`);
  return { ...count, failed: 1 };
}

/** Files of a topic, in the order in which they run. */
function scriptsOf(topic: string): string[] {
  const names = [...Deno.readDirSync(join(TOPICS, topic))].map((entry) => entry.name).sort();
  const checks = names.filter((name) => /^check_.*\.py$/.test(name));
  return [...names.filter((n) => n === "write.ts"), ...checks, ...names.filter((n) => n === "read.ts")];
}

async function runTopic(topic: string, python: string, folder: string): Promise<Count> {
  const total: Count = { passed: 0, failed: 0, ignored: 0 };
  for (const name of scriptsOf(topic)) {
    const path = join(TOPICS, topic, name);
    const [command, args] = name.endsWith(".py")
      ? [python, [path, folder]]
      : [Deno.execPath(), ["run", "-A", "--no-check", path, folder]];
    const count = await script(command, args);
    for (const key of ["passed", "failed", "ignored"] as const) total[key] += count[key];
    const silent = name !== "write.ts" && count.passed + count.failed + count.ignored === 0;
    if (silent) console.log(`${topic}/${name} ... FAILED (it checked nothing)`);
    if (silent) total.failed++;
    if (name === "write.ts" && count.failed > 0) break; // without its files the rest has nothing to look at
  }
  return total;
}

const HELP = `Usage: deno task test:interop [topic ...]

Checks with Python's libraries what nibble writes, and with nibble what they write. A topic is a folder of
tests/interop; without any, all are run. The packages are installed in an environment of their own.`;

async function main(names: string[]): Promise<number> {
  if (asksForHelp(names)) {
    console.log(HELP);
    return 0;
  }
  const started = performance.now();
  const all = [...Deno.readDirSync(TOPICS)].filter((e) => e.isDirectory && !/^[._]/.test(e.name)).map((e) =>
    e.name
  );
  const unknown = names.find((name) => !all.includes(name));
  if (unknown) {
    console.error(`No topic "${unknown}". There are: ${all.sort().join(", ")}`);
    return 2;
  }
  let python: string;
  try {
    python = await interopPython();
  } catch (error) {
    if (!(error instanceof NibbleError)) throw error;
    // On a machine without Python this is no failure; a run that must not be without it sees that nothing passed.
    console.log(`skipped: ${error.message}`);
    console.log("\nok | 0 passed | 0 failed | 1 ignored (0s)");
    return 0;
  }
  const total: Count = { passed: 0, failed: 0, ignored: 0 };
  const scratch = await Deno.makeTempDir({ prefix: "nibble-interop-" });
  try {
    for (const topic of (names.length ? names : all.sort())) {
      const at = performance.now();
      console.log(`\n${topic}:`);
      const folder = join(scratch, topic);
      Deno.mkdirSync(folder);
      const count = await runTopic(topic, python, folder);
      for (const key of ["passed", "failed", "ignored"] as const) total[key] += count[key];
      console.log(`(${((performance.now() - at) / 1000).toFixed(0)}s)`);
    }
  } finally {
    await Deno.remove(scratch, { recursive: true });
  }
  const { passed, failed, ignored } = total;
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  console.log(
    `\n${failed ? "FAILED" : "ok"} | ${passed} passed | ${failed} failed | ${ignored} ignored (${seconds}s)`,
  );
  return failed ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
