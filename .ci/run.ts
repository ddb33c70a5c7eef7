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
  /** Runs beside the stages after it: it waits more than it computes. Its output comes when it has ended. */
  beside?: true;
}

const STAGES: Stage[] = [
  { name: "check", command: [...DENO, "task", "check"], counts: false },
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
    beside: true,
  },
  // The README's own command.
  { name: "test", command: [...DENO, "task", "test"], counts: true, needs: "tests" },
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

/** Runs a stage, showing its output as it comes, or when it has ended. */
async function run(stage: Stage): Promise<Outcome> {
  const started = performance.now();
  const title = `\n== ${stage.name}: ${stage.command.join(" ")}\n`;
  const [command, ...args] = stage.command;
  const stderr = stage.beside ? "piped" : "inherit";
  const child = new Deno.Command(command!, { args, cwd: ROOT, stdin: "null", stdout: "piped", stderr })
    .spawn();
  let text = "", held = title;
  const show = (part: string) => stage.beside ? held += part : Deno.stdout.writeSync(encode(part));
  const follow = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>, counted: boolean) => {
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      show(part);
      if (counted) text += part;
    }
  };
  if (!stage.beside) show(title);
  await Promise.all([follow(child.stdout, true), ...(stage.beside ? [follow(child.stderr, false)] : [])]);
  const { success } = await child.status;
  if (stage.beside) console.log(held);
  return { ...count(text, success, stage.counts), seconds: (performance.now() - started) / 1000 };
}

const encode = (text: string) => new TextEncoder().encode(text);

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
  const running: [string, Promise<Outcome>][] = [];
  for (const stage of STAGES) {
    if (stage.needs && !isThere(stage.needs)) {
      console.log(`\n== ${stage.name}: nothing in ${stage.needs}/ yet, not counted`);
      continue;
    }
    const outcome = run(stage);
    running.push([stage.name, outcome]);
    if (!stage.beside) await outcome;
  }
  const outcomes: [string, Outcome][] = [];
  for (const [name, outcome] of running) outcomes.push([name, await outcome]);

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
