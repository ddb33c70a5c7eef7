/**
 * The notebooks as files: every one is built as promised, its outputs are those of its code, and its exercises can be
 * tried. What their code does is tested by `deno task notebooks:run`, which executes them.
 */
import assert from "node:assert/strict";
import { join } from "@std/path";
import {
  type Cell,
  codeHashes,
  exercisesOf,
  judgeVariants,
  keptOutputs,
  type Notebook,
  readNotebook,
  staleCells,
  textOf,
  withVariants,
} from "../../tools/notebook_file.ts";
import { ROOT } from "../../tools/jupyter.ts";

const FOLDER = join(ROOT, "notebooks");
const names = [...Deno.readDirSync(FOLDER)].map((e) => e.name).filter((n) => n.endsWith(".ipynb")).sort();
const course = names.filter((name) => /^\d\d_/.test(name));

Deno.test("the course is twelve notebooks, 00 to 11, of five MB at most with all others", () => {
  assert.deepEqual(
    course.map((n) => n.slice(0, 2)),
    Array.from({ length: 12 }, (_, i) => `${i}`.padStart(2, "0")),
  );
  const bytes = names.reduce((sum, name) => sum + Deno.statSync(join(FOLDER, name)).size, 0);
  assert.ok(bytes < 5e6, `${bytes} bytes`);
});

for (const name of course) {
  Deno.test(`${name} is built as promised`, () => {
    const { cells } = readNotebook(join(FOLDER, name));
    const code = cells.filter((c) => c.cell_type === "code");
    const prose = cells.filter((c) => c.cell_type === "markdown").map((c) => textOf(c.source));
    assert.ok(cells.length >= 15 && cells.length <= 30, `${cells.length} cells`);
    for (const [i, cell] of cells.entries()) {
      const lines = textOf(cell.source).trim().split("\n").length;
      assert.ok(cell.cell_type !== "code" || lines <= 12, `cell ${i + 1} has ${lines} lines`);
    }
    for (const word of [`# ${name.slice(0, 2)} · `, "**You will learn**", "**You need**", "**Time**"]) {
      assert.ok(prose[0]!.includes(word), `the opening has no ${word}`);
    }
    for (const word of ["## Summary", "**Exercises for later.**", "**Where this lives in lib/**"]) {
      assert.ok(prose.at(-1)!.includes(word), `the end has no ${word}`);
    }
    assert.ok(prose.some((text) => text.includes("**Predict")), "it asks for no prediction");
    // tagged cells come without outputs, and their figures count when they are run
    const figures = code.flatMap((c) => c.outputs ?? []).filter((o) =>
      o.data?.["application/vnd.plotly.v1+json"]
    );
    assert.ok(figures.length >= 2, `${figures.length} figures`);
    for (const figure of figures) {
      assert.ok(figure.data!["image/svg+xml"], "GitHub runs no script: a figure needs a picture");
      assert.match(
        textOf(figure.data!["text/plain"] as string),
        /^\[figure ".+": .{20,}\]$/s,
        "alternative text",
      );
    }
  });

  Deno.test(`${name} names files that are there`, () => {
    const { cells } = readNotebook(join(FOLDER, name));
    const end = textOf(cells.at(-1)!.source);
    const paths = [...end.matchAll(/`((?:lib|wgsl|bench|tests|recipes)\/[\w./-]*|\w+\.(?:ts|md))`/g)].map((
      m,
    ) => m[1]!);
    assert.ok(paths.length >= 3);
    for (const path of paths) assert.doesNotThrow(() => Deno.statSync(join(ROOT, path)), path);
  });

  Deno.test(`${name} has exercises with a solution and usual mistakes`, () => {
    const exercises = exercisesOf(readNotebook(join(FOLDER, name)));
    assert.ok(exercises.length >= 2, `${exercises.length} exercises`);
    for (const { name: exercise, cell, solution, mistakes } of exercises) {
      assert.ok(solution.trim(), `'${exercise}' has no folded solution`);
      assert.ok(mistakes.length >= 1, `'${exercise}' has no usual mistake to try`);
      for (const { code, says } of mistakes) assert.ok(code.trim() && says.length > 5, exercise);
      const said = (cell.outputs ?? []).map((o) => textOf(o.data?.["text/plain"] as string)).join("");
      assert.match(said, /^(✗|…) /m, `'${exercise}' is solved in the committed notebook, or was not run`);
    }
  });
}

for (const name of names) {
  Deno.test(`${name}: outputs are those of its code, without errors, scripts, machine paths or times`, async () => {
    const notebook = readNotebook(join(FOLDER, name));
    assert.deepEqual(await staleCells(notebook), [], `deno task notebooks:run --write notebooks/${name}`);
    const outputs = notebook.cells.flatMap((c) => c.outputs ?? []);
    assert.ok(outputs.every((o) => o.output_type !== "error"));
    const text = JSON.stringify(outputs);
    assert.doesNotMatch(text, /<script|"\/(?:root|home|work|tmp|Users)\//);
    assert.doesNotMatch(text, /tok\/s|tokens per second|ETA|loaded in [\d.]+ s/);
  });
}

const code = (source: string, notes: Cell["metadata"]["nibble"] = {}): Cell => ({
  cell_type: "code",
  source: source.split(/(?<=\n)/),
  metadata: { nibble: notes },
  outputs: [],
});
const markdown = (source: string): Cell => ({ cell_type: "markdown", source, metadata: {} });
const SMALL: Notebook = {
  cells: [
    code("const a = 1;"),
    code(`const b = 0;\nawait check("two", b, { expected: 2 });`, {
      mistakes: [{ code: "const b = 3;", says: "odd" }],
    }),
    markdown("<details><summary>Solution</summary>\n\n```ts\nconst b = 2;\n```\n\n</details>"),
    code("const c = a;"),
  ],
  metadata: {},
  nbformat: 4,
  nbformat_minor: 5,
};

Deno.test("an output is stale when its own code or any code before it has changed", async () => {
  const notebook = structuredClone(SMALL);
  assert.deepEqual(await staleCells(notebook), [1, 2, 4], "never run");
  for (const [cell, hash] of await codeHashes(notebook)) cell.metadata.nibble!.code = hash;
  assert.deepEqual(await staleCells(notebook), []);
  notebook.cells[2]!.source = "other words";
  assert.deepEqual(await staleCells(notebook), [], "text makes no output");
  notebook.cells[1]!.source = "const b = 1;";
  assert.deepEqual(await staleCells(notebook), [2, 4]);
});

Deno.test("exercises are tried below their cells: the solution, and each mistake, with the check", () => {
  const { cells } = withVariants(SMALL);
  assert.deepEqual(cells.map((c) => c.metadata.nibble?.variant?.exercise), [
    undefined,
    undefined,
    "two, solution",
    "two, mistake 1",
    undefined,
    undefined,
  ]);
  assert.equal(
    textOf(cells[2]!.source),
    `{\nconst b = 2;\n\nawait check("two", b, { expected: 2 });\n}`,
    "in a block, so that the notebook's own names stay",
  );
});

Deno.test("a variant fails when the verdict or the words are others", () => {
  const tried = (says: string, said: string): Cell => ({
    ...code("", { variant: { exercise: "e", says } }),
    outputs: [{ output_type: "display_data", data: { "text/plain": said } }],
  });
  const judge = (says: string, said: string) =>
    judgeVariants({ ...SMALL, cells: [tried(says, said)] }).problems.length;
  assert.equal(judge("✓ two", "✓ two: Right."), 0);
  assert.equal(judge("odd", "✗ two: Not right yet. That is odd."), 0);
  assert.equal(judge("✓ two", "✗ two: Not right yet."), 1);
  assert.equal(judge("odd", "✗ two: Not right yet."), 1, "without the diagnosis");
  assert.equal(judge("odd", "✓ two: Right, but odd."), 1, "a mistake that is taken for right");
});

Deno.test("kept outputs have no library, no script, and nothing of cells that measure time", () => {
  const figure = { "application/vnd.plotly.v1+json": {}, "text/html": "<script>", "image/svg+xml": "<svg/>" };
  const outputs = [
    { output_type: "display_data", data: { "text/plain": "[plotly.js]", "text/html": "<script>" } },
    { output_type: "display_data", data: figure },
    { output_type: "stream", text: "x" },
  ];
  const cell = { ...code(""), outputs };
  const [kept, stream, ...none] = keptOutputs(cell);
  assert.deepEqual(Object.keys(kept!.data!), ["application/vnd.plotly.v1+json", "image/svg+xml"]);
  assert.deepEqual([stream!.text, none], ["x", []]);
  assert.deepEqual(keptOutputs({ ...cell, metadata: { tags: ["timing"] } }), []);
});
