/**
 * Text as HTML, and tables.
 * @module
 */
import { brief } from "./chart.ts";
import type { MimeBundle } from "./kernel.ts";

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Text for HTML, in an element or in an attribute. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (c) => ENTITIES[c]!);
}

/** Rows of a table. */
export type Table = Record<string, unknown>[];

/** Whether it is a list of flat objects, which all have the first one's keys. */
export function isTable(x: unknown): x is Table {
  if (!Array.isArray(x) || x.length === 0) return false;
  return x.every((row) =>
    typeof row === "object" && row !== null && Object.getPrototypeOf(row) === Object.prototype &&
    `${Object.keys(row)}` === `${Object.keys(x[0])}`
  );
}

/** A table as HTML and as columns of text. */
export function tableBundle(rows: Table): MimeBundle {
  return { "text/html": tableHtml(rows), "text/plain": tableText(rows) };
}

/** A table as HTML. */
export function tableHtml(rows: Table): string {
  const { keys, cells } = cellsOf(rows);
  const style = "text-align:left;vertical-align:top;white-space:pre-wrap";
  const line = (tag: string, row: string[]) =>
    `<tr>${row.map((t) => `<${tag} style="${style}">${escapeHtml(t)}</${tag}>`).join("")}</tr>`;
  return `<table>${line("th", keys)}${cells.map((row) => line("td", row)).join("")}</table>`;
}

/** A table as columns of text, one line a row. */
export function tableText(rows: Table): string {
  const { keys, cells } = cellsOf(rows);
  const width = keys.map((key, k) => Math.max(key.length, ...cells.map((row) => oneLine(row[k]!).length)));
  const line = (row: string[]) => row.map((text, k) => oneLine(text).padEnd(width[k]!)).join("  ").trimEnd();
  return [keys, ...cells].map(line).join("\n");
}

function cellsOf(rows: Table): { keys: string[]; cells: string[][] } {
  const keys = Object.keys(rows[0]!);
  return { keys, cells: rows.map((row) => keys.map((key) => cell(row[key]))) };
}

function cell(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (typeof value === "number") return figures(value);
  return typeof value === "string" ? value : Deno.inspect(value);
}

const oneLine = (text: string): string => text.replaceAll("\n", " / ");

/** A number with four figures; whole ones as they are. */
export const figures = (v: number): string => Number.isInteger(v) ? String(v) : v.toPrecision(4);

/** Bytes with their unit: `512 B`, `3.5 KiB`, `62.3 MiB`, `1.31 GiB`. */
export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.max(0, Math.min(4, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${brief(bytes / 1024 ** step)} ${units[step]}`;
}
