/**
 * `deno task check`: formatting, lint and types of everything, the examples in docstrings and the cells of the
 * notebooks included. Prints a line for each part and exits 1 when one fails.
 * @module
 */
import { fromFileUrl, join, resolve } from "@std/path";
import { asksForHelp } from "./command.ts";
import { readNotebook, staleCells, textOf } from "./notebook_file.ts";

if (asksForHelp(Deno.args)) {
  console.log(
    "Usage: deno task check\n\nChecks formatting, lint and types of code, examples and notebooks, and that the " +
      "notebooks' outputs\nare those of their code. Writes nothing. Exit status 1 when a part fails.",
  );
  Deno.exit(0);
}

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const ROOTS = ["mod.ts", "train.ts", "lib", "tests", "tools", "bench", "compat", ".ci"];

/** The code cells of a notebook as one module. */
function cellsOf(notebook: string): string {
  const code = readNotebook(notebook).cells.filter((cell) => cell.cell_type === "code");
  return code.map((cell) => textOf(cell.source)).join("\n;\n");
}

async function deno(...args: string[]): Promise<boolean> {
  const child = new Deno.Command(Deno.execPath(), { args, cwd: ROOT });
  return (await child.spawn().status).success;
}

const exists = (path: string) => {
  try {
    Deno.statSync(resolve(ROOT, path));
    return true;
  } catch {
    return false;
  }
};
const roots = ROOTS.filter(exists);
const notebooks = exists("notebooks")
  ? [...Deno.readDirSync(join(ROOT, "notebooks"))].map((e) => e.name).filter((name) =>
    name.endsWith(".ipynb")
  ).sort()
  : [];

const results: [string, boolean][] = [];
results.push(["format", await deno("fmt", "--check", "--quiet")]);
if (notebooks.length > 0) {
  results.push(["format of notebooks", await notebooksFormatted()]);
  results.push(["outputs of notebooks", await notebooksFresh()]);
}
results.push(["lint", await deno("lint", "--quiet", ...roots)]);
results.push(["types", await deno("check", "--quiet", ...roots)]);

// An example is a module of its own that Deno gives imports of all its file exports, and a cell may define what only
// the reader uses: neither has to use all it names.
const config = join(ROOT, `.relaxed.${crypto.randomUUID().slice(0, 8)}.tmp.json`);
const settings = JSON.parse(Deno.readTextFileSync(join(ROOT, "deno.json")));
Object.assign(settings.compilerOptions, { noUnusedLocals: false, noUnusedParameters: false });
Deno.writeTextFileSync(config, JSON.stringify(settings));
// Beside the notebook, so that its relative imports hold.
const cells = notebooks.map((name) => join(ROOT, "notebooks", `.${name}.ts`));
try {
  const documented = ["mod.ts", "lib", "README.md"].filter(exists);
  results.push(["types of examples", await deno("check", "--quiet", "--doc", "-c", config, ...documented)]);
  notebooks.forEach((name, i) => Deno.writeTextFileSync(cells[i]!, cellsOf(join(ROOT, "notebooks", name))));
  if (cells.length > 0) {
    const types = await deno("check", "--quiet", "-c", config, ...cells);
    results.push([`types of the cells of ${cells.length} notebooks`, types]);
    // a name may be for the reader's own use, and cells are joined by empty statements
    const rules = "--rules-exclude=no-unused-vars,no-extra-semi";
    results.push(["lint of the cells", await deno("lint", "--quiet", rules, ...cells)]);
  }
} finally {
  [config, ...cells].filter((path) => exists(path)).forEach((path) => Deno.removeSync(path));
}

for (const [part, ok] of results) console.log(`check ${part}: ${ok ? "ok" : "FAILED"}`);
Deno.exit(results.every(([, ok]) => ok) ? 0 : 1);

/** `deno fmt --check` of Deno 2.9.6 calls every notebook unformatted, also what it wrote itself: so compare a copy. */
async function notebooksFormatted(): Promise<boolean> {
  const { lineWidth } = JSON.parse(Deno.readTextFileSync(join(ROOT, "deno.json"))).fmt;
  const folder = await Deno.makeTempDir();
  let same = true;
  for (const name of notebooks) {
    const [from, copy] = [join(ROOT, "notebooks", name), join(folder, name)];
    Deno.copyFileSync(from, copy);
    await deno("fmt", "--no-config", "--quiet", "--line-width", String(lineWidth), copy);
    if (Deno.readTextFileSync(from) === Deno.readTextFileSync(copy)) continue;
    console.error(`${from} is not formatted: deno fmt --no-config --line-width ${lineWidth} ${from}`);
    same = false;
  }
  await Deno.remove(folder, { recursive: true });
  return same;
}

/** Whether every committed output was made by the code above it. */
async function notebooksFresh(): Promise<boolean> {
  let fresh = true;
  for (const name of notebooks) {
    const stale = await staleCells(readNotebook(join(ROOT, "notebooks", name)));
    if (stale.length === 0) continue;
    console.error(
      `${name}: outputs of cells ${stale.join(", ")} are older than the code, or missing: ` +
        `deno task notebooks:run --write notebooks/${name}`,
    );
    fresh = false;
  }
  return fresh;
}
