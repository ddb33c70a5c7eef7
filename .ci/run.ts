/**
 * The stages of continuous integration, each with its time and what it counted. Started by `.ci/run`.
 * @module
 */
import { fromFileUrl, join } from "@std/path";

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const DENO = ["npx", "--yes", "deno@2.9.6"];

interface Stage {
  name: string;
  command: string[];
  /** Are there tests in it whose closing line must be there? */
  counts: boolean;
  /** A folder without which there is nothing to do. */
  needs?: string;
}

const STAGES: Stage[] = [
  { name: "check", command: [...DENO, "task", "check"], counts: false },
  // The README's own command.
  { name: "test", command: [...DENO, "task", "test"], counts: true, needs: "tests" },
  {
    name: "test on SwiftShader",
    // what needs no device ran above; SwiftShader is several times slower
    command: [
      ...[...DENO, "task", "test:swiftshader"],
      ...["gpu", "tensor", "quant", "optim", "model", "lora", "train", "parity"].map((room) =>
        `tests/${room}`
      )
        .filter(isThere),
    ],
    counts: true,
    needs: "tests",
  },
  // Python's libraries on nibble's files
  { name: "interop", command: [...DENO, "task", "test:interop"], counts: true, needs: "tests/interop" },
  { name: "notebooks", command: [...DENO, "task", "notebooks:run"], counts: true, needs: "notebooks" },
  // what needs Jupyter, which the stage before provides: nothing is lost, Stop stops
  {
    name: "Jupyter",
    command: [...DENO, "task", "test", "tests/notebook/jupyter_test.ts"],
    counts: true,
    needs: "tests/notebook",
  },
];

/** What a stage came to. */
export interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
  seconds: number;
  ok: boolean;
}

/** Runs a stage, showing its output as it comes. */
async function run(stage: Stage): Promise<Outcome> {
  const started = performance.now();
  const [command, ...args] = stage.command;
  const child = new Deno.Command(command!, {
    args,
    cwd: ROOT,
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    Deno.stdout.writeSync(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  const { success } = await child.status;
  return { ...count(text, success, stage.counts), seconds: (performance.now() - started) / 1000 };
}

/** Adds up closing lines such as `ok | 3 passed (1 step) | 1 failed | 2 ignored (378ms)`. */
export function count(text: string, success: boolean, counts: boolean): Omit<Outcome, "seconds"> {
  const closing = text.split("\n").filter((line) => /^(ok|FAILED) \| \d+ passed\b/.test(line));
  const sum = (word: string) =>
    closing.reduce((total, line) => total + Number(new RegExp(`\\| (\\d+) ${word}`).exec(line)?.[1] ?? 0), 0);
  const [passed, failed, skipped] = [sum("passed"), sum("failed"), sum("ignored")];
  // A stage that broke off before its closing line has failed too; one that ran no test has shown nothing.
  const silent = counts && passed + failed === 0;
  const broken = !success || silent;
  return { passed, failed: failed || (broken ? 1 : 0), skipped, ok: !broken && failed === 0 };
}

/** Is there anything in this folder? */
function isThere(folder: string): boolean {
  try {
    return [...Deno.readDirSync(join(ROOT, folder))].some((entry) => !entry.name.startsWith("."));
  } catch {
    return false;
  }
}

/** Runs every stage; resolves to whether all went well. */
async function main(): Promise<boolean> {
  const outcomes: [string, Outcome][] = [];
  for (const stage of STAGES) {
    if (stage.needs && !isThere(stage.needs)) {
      console.log(`\n== ${stage.name}: nothing in ${stage.needs}/ yet, not counted`);
      continue;
    }
    console.log(`\n== ${stage.name}: ${stage.command.join(" ")}`);
    outcomes.push([stage.name, await run(stage)]);
  }

  console.log("\n== summary");
  for (const [name, o] of outcomes) {
    const counted = `${o.passed} passed, ${o.failed} failed, ${o.skipped} skipped`;
    console.log(
      `${o.ok ? "ok    " : "FAILED"} ${name.padEnd(20)} ${o.seconds.toFixed(0).padStart(5)} s   ${counted}`,
    );
  }
  const total = (key: "passed" | "failed") => outcomes.reduce((sum, [, o]) => sum + o[key], 0);
  const ok = outcomes.every(([, o]) => o.ok) && total("passed") > 0;
  console.log(`\n${total("passed")} passed, ${total("failed")} failed`);
  return ok;
}

if (import.meta.main) Deno.exit(await main() ? 0 : 1);
