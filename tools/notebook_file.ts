/**
 * Notebook files: reading and writing them, what their exercises are, which outputs are kept, and whether those are
 * older than the code.
 * @module
 */
import { LIBRARY_TEXT } from "../lib/notebook/plotly.ts";

/** One output of a cell, in nbformat 4. */
export interface Output {
  output_type: string;
  data?: Record<string, unknown>;
  text?: string | string[];
  execution_count?: number | null;
  [key: string]: unknown;
}

/** What nibble keeps in a cell's metadata. */
export interface CellNotes {
  /** Hash of the code that made the outputs: this cell's and that of all before it. */
  code?: string;
  /** Of an exercise: what people type, and words of what they are told. */
  mistakes?: { code: string; says: string }[];
  /** Of a cell that is added for a test: which exercise it tries, and what must be said. */
  variant?: { exercise: string; says: string };
}

/** One cell, in nbformat 4. */
export interface Cell {
  cell_type: "code" | "markdown" | "raw";
  id?: string;
  source: string | string[];
  metadata: { nibble?: CellNotes; tags?: string[]; [key: string]: unknown };
  outputs?: Output[];
  execution_count?: number | null;
}

/** A notebook, in nbformat 4. */
export interface Notebook {
  cells: Cell[];
  metadata: Record<string, unknown>;
  nbformat: number;
  nbformat_minor: number;
}

/** Tag of cells whose outputs are times and speeds: they are not kept. */
export const TIMING = "timing";

/** Reads a notebook. */
export function readNotebook(path: string): Notebook {
  return JSON.parse(Deno.readTextFileSync(path));
}

/** Writes a notebook as Jupyter does, with one blank of indentation. */
export function writeNotebook(path: string, notebook: Notebook): void {
  Deno.writeTextFileSync(`${path}.tmp`, JSON.stringify(notebook, null, 1) + "\n");
  Deno.renameSync(`${path}.tmp`, path);
}

/** A cell's or an output's text in one piece. */
export function textOf(source: string | string[] | undefined): string {
  return source === undefined ? "" : [source].flat().join("");
}

/** For each code cell the hash of its code and of all code before it, which its outputs follow from. */
export async function codeHashes(notebook: Notebook): Promise<Map<Cell, string>> {
  const hashes = new Map<Cell, string>();
  let before = "";
  for (const cell of notebook.cells.filter((c) => c.cell_type === "code")) {
    const bytes = new TextEncoder().encode(`${before}\n${textOf(cell.source).trim()}`);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    before = digest.toHex().slice(0, 12);
    hashes.set(cell, before);
  }
  return hashes;
}

/** Numbers (from 1) of the code cells whose outputs are older than the code, or were never made. */
export async function staleCells(notebook: Notebook): Promise<number[]> {
  const hashes = await codeHashes(notebook);
  return notebook.cells.flatMap((cell, i) => {
    const hash = hashes.get(cell);
    return hash === undefined || cell.metadata.nibble?.code === hash ? [] : [i + 1];
  });
}

/** An exercise of a notebook. */
export interface Exercise {
  /** Its name, the first argument of `check`. */
  name: string;
  /** The cell with the blank and the check below it. */
  cell: Cell;
  /** The lines from `await check(` on. */
  check: string;
  /** Code in the folded solution, which takes the place of what stands above the check. */
  solution: string;
  mistakes: { code: string; says: string }[];
}

/**
 * The exercises: code cells that end with `await check("name", ...)`. The solution is the first block of TypeScript
 * in the next cell that folds something away; usual mistakes are in the cell's metadata.
 */
export function exercisesOf(notebook: Notebook): Exercise[] {
  return notebook.cells.flatMap((cell, i) => {
    const text = textOf(cell.source);
    const at = /^await check\(\s*"([^"]+)"/m.exec(text);
    if (cell.cell_type !== "code" || !at) return [];
    const folded = notebook.cells.slice(i + 1).map((c) => textOf(c.source)).find((t) =>
      t.includes("<details>")
    );
    const solution = /```ts\n([\s\S]*?)```/.exec(folded ?? "")?.[1] ?? "";
    return [{
      name: at[1]!,
      cell,
      check: text.slice(at.index),
      solution,
      mistakes: cell.metadata.nibble?.mistakes ?? [],
    }];
  });
}

/**
 * The notebook with cells added below each exercise that try its solution and its usual mistakes, each in a block of
 * its own, so that what follows sees the notebook's own names.
 */
export function withVariants(notebook: Notebook): Notebook {
  const exercises = new Map(exercisesOf(notebook).map((e) => [e.cell, e]));
  const cells = notebook.cells.flatMap((cell) => {
    const exercise = exercises.get(cell);
    if (!exercise) return [cell];
    const { name, check, solution, mistakes } = exercise;
    const tried = [{ code: solution, says: `✓ ${name}` }, ...mistakes];
    return [
      cell,
      ...tried.map(({ code, says }, k): Cell => ({
        cell_type: "code",
        id: `variant-${exercises.size}-${name.replaceAll(/\W/g, "")}-${k}`.slice(0, 64),
        source: `{\n${code}\n${check}\n}`,
        metadata: { nibble: { variant: { exercise: `${name}, ${k ? `mistake ${k}` : "solution"}`, says } } },
        outputs: [],
        execution_count: null,
      })),
    ];
  });
  return { ...notebook, cells };
}

/** What went wrong with the variants of an executed notebook, and how many there were. */
export function judgeVariants(executed: Notebook): { tried: number; problems: string[] } {
  const problems: string[] = [];
  let tried = 0;
  for (const cell of executed.cells) {
    const variant = cell.metadata.nibble?.variant;
    if (!variant) continue;
    tried++;
    const said = (cell.outputs ?? []).map((o) => textOf(o.text) + textOf(o.data?.["text/plain"] as string))
      .join("\n");
    const right = said.trimStart().startsWith("✓") === variant.says.startsWith("✓");
    if (!right || !said.includes(variant.says)) {
      problems.push(`${variant.exercise}: said '${said.trim()}', not '${variant.says}'`);
    }
  }
  return { tried, problems };
}

/** The outputs that a committed notebook keeps: no library of figures, no scripts, no times. */
export function keptOutputs(cell: Cell): Output[] {
  if (cell.metadata.tags?.includes(TIMING)) return [];
  return (cell.outputs ?? []).filter((o) => textOf(o.data?.["text/plain"] as string) !== LIBRARY_TEXT).map(
    (output) => {
      const { data } = output;
      if (!data?.["application/vnd.plotly.v1+json"]) return output;
      const { "text/html": _, ...rest } = data;
      return { ...output, data: rest };
    },
  );
}
