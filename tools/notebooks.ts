/**
 * `deno task notebooks` opens the course in JupyterLab; `deno task notebooks:run [--write] [names]` executes the
 * notebooks without a window, tries their exercises with solutions and usual mistakes, and writes HTML to
 * `.cache/notebooks`. With `--write` the outputs go into the notebooks too.
 * @module
 */
import { basename, dirname, join, resolve } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { isFile } from "../lib/formats/mod.ts";
import { asksForHelp } from "./command.ts";
import { ensureJupyter, jupyterEnv, LAB, PYTHON, registerKernel, ROOT, RUN } from "./jupyter.ts";
import { quiet } from "./python.ts";
import {
  codeHashes,
  judgeVariants,
  keptOutputs,
  type Notebook,
  readNotebook,
  withVariants,
  writeNotebook,
} from "./notebook_file.ts";

const OUT = join(ROOT, ".cache", "notebooks");
/** Seconds that one cell may take. */
const CELL_TIMEOUT = 1800;
/** Training steps of the notebook with a real model where nothing is kept: enough to show that it works. */
const SHORT = "2";

/** What executing a notebook came to. */
interface Outcome {
  problems: string[];
  /** Exercises tried, solutions and mistakes. */
  tried: number;
}

async function execute(path: string, write: boolean, scratch: string): Promise<Outcome> {
  const name = basename(path, ".ipynb");
  const notebook = readNotebook(path);
  const input = join(scratch, `${name}.ipynb`), output = join(scratch, `${name}.out.ipynb`);
  writeNotebook(input, withVariants(notebook));
  const script = join(ROOT, "tools", "execute_notebook.py");
  const args = [script, input, dirname(path), output, join(OUT, `${name}.html`), String(CELL_TIMEOUT)];
  // outputs that are kept are those of the whole run, and without times, which differ from run to run
  const how = write ? { NIBBLE_TIMINGS: "off" } : { NIBBLE_STEPS: Deno.env.get("NIBBLE_STEPS") ?? SHORT };
  const env = { ...jupyterEnv(scratch), ...how };
  const { ok, text } = await quiet(PYTHON, args, env);
  if (!ok) return { problems: [text], tried: 0 };
  const executed = readNotebook(output);
  const { tried, problems } = judgeVariants(executed);
  if (write && problems.length === 0) await keep(path, notebook, executed);
  return { problems, tried };
}

/** Puts the outputs of an executed copy into the notebook, with the hash of the code that made them. */
async function keep(path: string, notebook: Notebook, executed: Notebook): Promise<void> {
  const hashes = await codeHashes(notebook);
  const cells = executed.cells.filter((cell) => !cell.metadata.nibble?.variant);
  let count = 0;
  notebook.cells.forEach((cell, i) => {
    if (cell.cell_type !== "code") return;
    cell.execution_count = ++count;
    cell.outputs = keptOutputs({ ...cell, outputs: cells[i]!.outputs ?? [] }).map((output) =>
      "execution_count" in output ? { ...output, execution_count: count } : output
    );
    cell.metadata = { ...cell.metadata, nibble: { ...cell.metadata.nibble, code: hashes.get(cell)! } };
  });
  writeNotebook(path, notebook);
}

/** Executes notebooks one after the other; prints a closing line as `deno test` does. */
async function runAll(paths: string[], write: boolean): Promise<boolean> {
  const scratch = await Deno.makeTempDir({ prefix: "nibble-jupyter-" });
  Deno.mkdirSync(OUT, { recursive: true });
  let failed = 0, exercises = 0;
  const started = performance.now();
  const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(0)}s`;
  try {
    for (const path of paths) {
      const at = performance.now();
      const { problems, tried } = await execute(path, write, scratch);
      exercises += tried;
      if (problems.length) failed++;
      for (const problem of problems) console.log(problem);
      const how = problems.length ? "FAILED" : `ok, ${tried} answers to exercises tried`;
      console.log(`${basename(path)} ... ${how} (${seconds(at)})`);
    }
  } finally {
    await Deno.remove(scratch, { recursive: true });
  }
  const passed = paths.length - failed;
  const steps = `${exercises} step${exercises === 1 ? "" : "s"}`;
  console.log(
    `\n${failed ? "FAILED" : "ok"} | ${passed} passed (${steps}) | ${failed} failed (${seconds(started)})`,
  );
  return failed === 0;
}

function notebooks(names: string[]): string[] {
  const missing = names.find((name) => !isFile(name));
  if (missing) {
    throw new NibbleError("notebooks/missing", "There is no such notebook", {
      where: missing,
      remedy: "Give paths of .ipynb files, or none for all of notebooks/.",
    });
  }
  if (names.length > 0) return names.map((name) => resolve(name));
  const folder = join(ROOT, "notebooks");
  const found = [...Deno.readDirSync(folder)].map((entry) => entry.name);
  return found.filter((name) => name.endsWith(".ipynb")).sort().map((name) => join(folder, name));
}

const HELP = `Usage: deno task notebooks [arguments of JupyterLab]
       deno task notebooks:run [--write] [notebook.ipynb ...]

The first opens the course in JupyterLab, and installs Jupyter in .venv where there is none. The second executes the
notebooks without a window, all of them or those named, tries their exercises, and writes HTML to .cache/notebooks.

  --write   put the outputs into the notebooks too, without times`;

async function main(args: string[]): Promise<number> {
  if (asksForHelp(args)) {
    console.log(HELP);
    return 0;
  }
  const flags = ["--run", "--write"];
  const [run, write] = flags.map((flag) => args.includes(flag));
  if (run) {
    const paths = notebooks(args.filter((arg) => !flags.includes(arg)));
    await ensureJupyter(RUN);
    registerKernel();
    return await runAll(paths, write!) ? 0 : 1;
  }
  await ensureJupyter(LAB);
  registerKernel();
  // JupyterLab refuses root unless told; who runs this as root has decided already.
  const root = Deno.build.os !== "windows" && Deno.uid() === 0 ? ["--allow-root"] : [];
  const lab = new Deno.Command(PYTHON, {
    args: ["-m", "jupyterlab", ...root, "--notebook-dir", join(ROOT, "notebooks"), ...args],
    env: { JUPYTER_PREFER_ENV_PATH: "1" },
  }).spawn();
  Deno.addSignalListener("SIGINT", () => {}); // JupyterLab asks before it ends
  return (await lab.status).code;
}

try {
  Deno.exit(await main(Deno.args));
} catch (error) {
  if (!(error instanceof NibbleError)) throw error;
  console.error(`[setup] ${error.message}`);
  Deno.exit(1);
}
