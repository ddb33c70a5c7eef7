/**
 * `deno task NAME …`: sets up what the task needs, then starts it.
 *
 *     deno run -A tools/task.ts NAME [arguments of the task]
 *
 * Deno need not be on the PATH: children are started with the executable that runs this file.
 * @module
 */
import { fromFileUrl, join } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { baseEnv, ensureAdapter } from "./setup.ts";

/** What a task needs, and the command it becomes. */
interface Task {
  /** Driver to provide: any, the slow one that needs no privilege, or none. */
  adapter: "any" | "swiftshader" | "none";
  /** Arguments of `deno`, given the user's own. */
  command: (args: string[]) => string[];
  /** Same kernels everywhere: nothing is measured, whatever the machine. */
  untuned?: true;
}

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const run = (script: string) => (args: string[]) => ["run", "-A", script, ...args];

/** `deno test`, examples in docstrings and README included; paths given by the user replace the usual ones. */
function test(args: string[]): string[] {
  const given = args.some((arg) => !arg.startsWith("-") && exists(arg));
  const usual = ["tests", "lib", "mod.ts", "README.md"].filter((path) => exists(join(ROOT, path)));
  // Types are `check`'s business: examples get imports that they do not use, which the compiler options refuse.
  return ["test", "-A", "--doc", "--no-check", ...args, ...(given ? [] : usual)];
}

const TASKS: Record<string, Task> = {
  quickstart: {
    adapter: "any",
    command: (args) => ["run", "-A", "train.ts", "recipes/quickstart/config.yaml", ...args],
  },
  train: { adapter: "any", command: run("train.ts") },
  chat: { adapter: "any", command: run("tools/chat.ts") },
  doctor: { adapter: "any", command: run("tools/doctor.ts") },
  plan: { adapter: "any", command: run("tools/plan.ts") },
  merge: { adapter: "any", command: run("tools/merge.ts") },
  quantize: { adapter: "any", command: run("tools/quantize.ts") },
  recipe: { adapter: "none", command: run("tools/recipe.ts") },
  test: { adapter: "any", command: test, untuned: true },
  "test:swiftshader": { adapter: "swiftshader", command: test, untuned: true },
  "test:interop": { adapter: "any", command: run("tools/interop.ts"), untuned: true },
  "test:jupyterlab": { adapter: "any", command: run("tools/jupyterlab.ts"), untuned: true },
  bench: { adapter: "any", command: run("tools/bench.ts") },
  check: { adapter: "none", command: run("tools/check.ts") },
  notebooks: { adapter: "any", command: run("tools/notebooks.ts") },
  "notebooks:run": {
    adapter: "any",
    command: (args) => ["run", "-A", "tools/notebooks.ts", "--run", ...args],
    untuned: true,
  },
};

/** Sets up and starts a task; resolves to its exit status. */
async function main([name = "", ...args]: string[]): Promise<number> {
  const task = Object.hasOwn(TASKS, name) ? TASKS[name] : undefined;
  if (!task) {
    console.error(`No task "${name}". There are: ${Object.keys(TASKS).join(", ")}`);
    return 2;
  }
  const scratch = await Deno.makeTempDir({ prefix: "nibble-" });
  try {
    let env = baseEnv(scratch);
    if (task.adapter !== "none") {
      const say = (text: string) => console.error(`[setup] ${text}`);
      const found = await ensureAdapter(env, say, task.adapter);
      say(`WebGPU adapter: ${found.name}`);
      env = found.env;
    }
    if (task.untuned) env = { ...env, NIBBLE_TUNE: "off" };
    return await start(task.command(args), env);
  } catch (error) {
    if (!(error instanceof NibbleError)) throw error;
    console.error(`[setup] ${error.message}`);
    return 1;
  } finally {
    await Deno.remove(scratch, { recursive: true });
  }
}

/** Starts Deno and hands signals on. */
async function start(args: string[], env: Record<string, string>): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), { args, env }).spawn();
  // A Ctrl-C in a terminal reaches the child by itself, and a second copy would mean "at once" to it. Without a
  // terminal the signal came to this process alone.
  const terminal = [Deno.stdin, Deno.stdout, Deno.stderr].some((stream) => stream.isTerminal());
  const pass = (signal: Deno.Signal) => () => {
    try {
      child.kill(signal);
    } catch {
      // it has just ended
    }
  };
  const keep = () => {}; // stay alive until the child has saved its work
  Deno.addSignalListener("SIGINT", terminal ? keep : pass("SIGINT"));
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", pass("SIGTERM"));
  return (await child.status).code;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

Deno.exit(await main(Deno.args));
