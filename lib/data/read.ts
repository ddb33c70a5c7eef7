/**
 * Reading data sets: JSON Lines, JSON and Parquet, from a file or a folder in the Hub's layouts.
 * @module
 */
import { createHash } from "node:crypto";
import { NibbleError } from "../errors.ts";
import { findFiles, type SplitOptions } from "./folder.ts";
import { countParquet, readParquet } from "./parquet.ts";
import { type Row, withOrigin } from "./rows.ts";

/**
 * All rows of a split, in file order. See {@link streamRows}.
 *
 * @example
 * ```ts
 * import { readRows } from "./mod.ts";
 * const file = await Deno.makeTempFile({ suffix: ".jsonl" });
 * await Deno.writeTextFile(file, '{"text": "one"}\n\n{"text": "two"}\n');
 * const rows = await readRows(file);
 * if (rows.length !== 2 || rows[1].text !== "two") throw new Error(JSON.stringify(rows));
 * await Deno.remove(file);
 * ```
 */
export async function readRows(path: string, options: SplitOptions = {}): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const row of streamRows(path, options)) rows.push(row);
  return rows;
}

/**
 * The rows of a split one by one: `.jsonl` line by line and `.parquet` by row groups, so memory stays bounded; a
 * `.json` array is parsed whole. Plain and gzipped JSON are read. Each row remembers its file and line.
 *
 * Throws {@link NibbleError} `data/json-line` with the line number, `data/json`, `data/not-an-object`,
 * `data/parquet`, and those of the folder layouts (`data/no-such-split`, ...).
 */
export async function* streamRows(path: string, options: SplitOptions = {}): AsyncGenerator<Row> {
  for (const file of findFiles(path, options)) {
    let number = 0;
    if (file.endsWith(".parquet")) {
      for await (const row of readParquet(file)) yield withOrigin(row, { file, row: ++number });
    } else if (/\.json(\.gz)?$/.test(file) && !await isJsonLines(file)) {
      for (const row of await readJson(file, options.split)) {
        yield withOrigin(checkRow(row, `${file}: entry ${++number}`), { file, row: number });
      }
    } else {
      yield* readJsonLines(file);
    }
  }
}

/** How many rows a split has, the columns of its first, and a digest of its files; no row is kept. */
export async function countRows(
  path: string,
  options: SplitOptions = {},
): Promise<{ count: number; columns: Set<string>; digest: string }> {
  const hash = createHash("sha256");
  let count = 0;
  for (const file of findFiles(path, options)) {
    hash.update(`${await fileDigest(file)}\n`);
    if (file.endsWith(".parquet")) count += await countParquet(file);
    else if (/\.json(\.gz)?$/.test(file) && !await isJsonLines(file)) {
      count += (await readJson(file, options.split)).length;
    } else for await (const [line] of readLines(file)) if (line.trim() !== "") count++;
  }
  for await (const row of streamRows(path, options)) {
    return { count, columns: new Set(Object.keys(row)), digest: hash.digest("hex") };
  }
  return { count: 0, columns: new Set(), digest: hash.digest("hex") };
}

/** SHA-256 of a file's bytes; the Hub's cache names its files by their hash, which is taken at its word. */
async function fileDigest(file: string): Promise<string> {
  const real = Deno.realPathSync(file).split(/[\\/]/).at(-1)!;
  if (/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(real)) return real;
  const hash = createHash("sha256");
  const { readable } = await Deno.open(file);
  for await (const chunk of readable) hash.update(chunk);
  return hash.digest("hex");
}

async function openText(file: string): Promise<ReadableStream<string>> {
  const { readable } = await Deno.open(file);
  const bytes = file.endsWith(".gz") ? readable.pipeThrough(new DecompressionStream("gzip")) : readable;
  return bytes.pipeThrough(new TextDecoderStream());
}

/** Lines with their numbers, from 1. */
async function* readLines(file: string): AsyncGenerator<[line: string, number: number]> {
  let rest = "", number = 0;
  for await (const chunk of await openText(file)) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) yield [line, ++number];
  }
  if (rest !== "") yield [rest, ++number];
}

async function* readJsonLines(file: string): AsyncGenerator<Row> {
  for await (const [line, number] of readLines(file)) {
    if (line.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw new NibbleError("data/json-line", `Line ${number} is not JSON: ${(cause as Error).message}`, {
        where: `${file}:${number}`,
        remedy: "A .jsonl file has one whole JSON object a line.",
        cause,
      });
    }
    yield withOrigin(checkRow(value, `${file}:${number}`), { file, row: number });
  }
}

/** Some `.json` files hold JSON Lines: then the first line is an object by itself, and more than one line has text. */
async function isJsonLines(file: string): Promise<boolean> {
  let first = "";
  for await (const [line] of readLines(file)) {
    if (line.trim() === "") continue;
    if (first !== "") return true;
    if (!line.trimStart().startsWith("{")) return false;
    try {
      JSON.parse(line);
    } catch {
      return false;
    }
    first = line;
  }
  return false;
}

/** The rows of a `.json` file: an array, an object that holds one, or one row. */
async function readJson(file: string, split: string | undefined): Promise<unknown[]> {
  let value: unknown;
  try {
    let text = "";
    for await (const chunk of await openText(file)) text += chunk;
    value = JSON.parse(text);
  } catch (cause) {
    throw new NibbleError("data/json", `Cannot read JSON: ${(cause as Error).message}`, {
      where: file,
      remedy: "Write an array of objects, or better JSON Lines (.jsonl), which is read line by line.",
      cause,
    });
  }
  if (Array.isArray(value)) return value;
  if (typeof value === "object" && value !== null) {
    const isRows = (v: unknown) =>
      Array.isArray(v) && v.every((row) => typeof row === "object" && row !== null);
    const fields = value as Record<string, unknown>;
    for (const key of [split, "data", "rows", "train"]) {
      if (key !== undefined && isRows(fields[key])) return fields[key] as unknown[];
    }
  }
  return [value];
}

function checkRow(value: unknown, where: string): Row {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Row;
  throw new NibbleError("data/not-an-object", "A row is not an object with columns", {
    where,
    remedy: 'Write rows such as {"messages": [...]} or {"text": "..."}.',
  });
}
