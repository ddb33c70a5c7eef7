/**
 * Notebook 09 in JupyterLab in a headless Chromium: the live chart changes in place and ends, Stop keeps the kernel.
 * Started by `deno task test:jupyterlab`, which installs Chromium, JupyterLab and Playwright, since it takes some minutes.
 * Pictures of what was seen go into the folder that `NIBBLE_SHOTS` names.
 */
import assert from "node:assert/strict";
import { fromFileUrl, join } from "@std/path";
import {
  BROWSER,
  findChromium,
  hasJupyter,
  jupyterEnv,
  PYTHON,
  registerKernel,
  ROOT,
} from "../../tools/jupyter.ts";
import { readNotebook, textOf, writeNotebook } from "../../tools/notebook_file.ts";

const CHROMIUM = findChromium();
const MISSING = !Deno.env.get("NIBBLE_JUPYTERLAB")
  ? "deno task test:jupyterlab runs it"
  : !CHROMIUM
  ? "no Chromium"
  : !(await hasJupyter(BROWSER))
  ? "no Playwright and JupyterLab in .venv"
  : "";
if (!MISSING) registerKernel();

/** What the training cell showed at one moment. */
interface State {
  /** Outputs below the cell. */
  outputs: number;
  /** The line beside the bar, and where the bar stands. */
  line: string;
  value: number | null;
  /** Characters of the picture. */
  drawn: number;
}

interface Seen {
  states: State[];
  /** Lines below finished charts. */
  status: string[];
  errors: string[];
  /** Figures that Plotly drew; `least`: how far the faintest text is from its ground, 0 to 1. */
  figures: { title: string; width: number; least: number }[];
  /** Outputs of the training cell at the end. */
  training: number;
}

/** The notebook as a page without a network. */
interface Page {
  figures: Seen["figures"];
  /** Addresses of other machines that it asked for. */
  asked: string[];
}

/** A folder that looks like this repository, with `notebooks` and `data` of its own. */
function copyOfCourse(): string {
  const root = Deno.makeTempDirSync({ prefix: "nibble-lab-" });
  for (const { name } of Deno.readDirSync(ROOT)) {
    if (!/^(\..*|notebooks|data)$/.test(name)) Deno.symlinkSync(join(ROOT, name), join(root, name));
  }
  Deno.mkdirSync(join(root, "notebooks"));
  return root;
}

/** Writes notebook 09 without outputs; as `long` with many steps, and up to the training cell. */
function write09(root: string, name: string, long: boolean): void {
  const notebook = readNotebook(join(ROOT, "notebooks", "09_training.ipynb"));
  for (const cell of notebook.cells) {
    if (cell.cell_type === "code") [cell.outputs, cell.execution_count] = [[], null];
  }
  if (long) {
    const source = (i: number) => textOf(notebook.cells[i]!.source);
    const at = notebook.cells.findIndex((_, i) => source(i).includes("trainLive(recipe"));
    const recipe = notebook.cells.findIndex((_, i) => source(i).includes("--max_steps=100"));
    assert.ok(at > 0 && recipe > 0, "notebook 09 trains for 100 steps in a cell of its own");
    notebook.cells.length = at + 1;
    // without evaluation, which takes longer than the few steps that are needed
    notebook.cells[recipe]!.source = source(recipe).replace("--max_steps=100", "--max_steps=5000")
      .replace("--eval_strategy=steps", "--eval_strategy=no").replace("09_training", "09_long");
    notebook.cells.push({ ...notebook.cells[at]!, id: "alive", source: `"kernel " + (1 + 1)` });
  }
  writeNotebook(join(root, "notebooks", name), notebook);
}

interface Found {
  whole: Seen;
  page: Page;
  stopped: Seen & { alive: string };
  resumed: Seen;
}

async function drive(): Promise<Found> {
  const root = copyOfCourse(), scratch = Deno.makeTempDirSync({ prefix: "nibble-jupyter-" });
  try {
    write09(root, "whole.ipynb", false);
    write09(root, "long.ipynb", true);
    const script = fromFileUrl(new URL("jupyterlab.py", import.meta.url));
    const shots = Deno.env.get("NIBBLE_SHOTS");
    const child = new Deno.Command(PYTHON, {
      args: ["-W", "ignore", script, CHROMIUM!, root, "whole.ipynb", "long.ipynb", ...(shots ? [shots] : [])],
      env: jupyterEnv(scratch),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
    const { success, stdout, stderr } = await child.output();
    assert.ok(success, new TextDecoder().decode(stderr));
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    Deno.removeSync(root, { recursive: true });
    Deno.removeSync(scratch, { recursive: true });
  }
}

const stepOf = (line: string): number => Number(/step +(\d+)/.exec(line)?.[1]);

Deno.test({
  name: `JupyterLab: the chart of notebook 09 lives, Stop stops, the cell goes on${
    MISSING && ` (skipped: ${MISSING})`
  }`,
  ignore: MISSING !== "",
  fn: async () => {
    const { whole, page, stopped, resumed } = await drive();
    assert.deepEqual([...whole.errors, ...stopped.errors, ...resumed.errors], []);

    // the chart: one output that changes in place, grows, and gives way to a finished figure and the result
    const live = whole.states.filter((state) => state.value !== null);
    assert.ok(live.length >= 5, `${live.length} states seen: ${JSON.stringify(whole.states.slice(0, 3))}`);
    assert.deepEqual([...new Set(live.map((state) => state.outputs))], [1]);
    const values = live.map((state) => state.value!);
    assert.deepEqual(values, values.toSorted((a, b) => a - b), "the bar moves on");
    assert.ok(live.at(-1)!.drawn > live[0]!.drawn, "the picture grows");
    assert.equal(whole.training, 2, "chart and result");

    // every figure is drawn, in the width of the page, in letters that can be read on light and on dark ground
    assert.equal(whole.figures.length, 5);
    assert.equal(stopped.figures.length, 4);
    assert.deepEqual(page.asked, []);
    assert.deepEqual(page.figures.map((f) => f.title), whole.figures.map((f) => f.title));
    for (const { title, width, least } of [...whole.figures, ...page.figures, ...stopped.figures]) {
      assert.ok(
        width > 500 && least > 0.4,
        `${title}: ${width} wide, faintest text ${least} from its ground`,
      );
    }

    // Stop
    const [first] = stopped.status, [last] = resumed.status;
    assert.match(first!, /^Stopped after step \d+ of 5000 .* Run the cell again to go on\.$/);
    assert.match(stopped.alive, /kernel 2/);
    const went = resumed.states.find((state) => state.value !== null)!;
    assert.ok(stepOf(went.line) > stepOf(first!), `${went.line} after ${first}`);
    assert.ok(stepOf(last!) >= stepOf(went.line), `${last} after ${went.line}`);
  },
});
