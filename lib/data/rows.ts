/**
 * Rows, and where each came from: a row keeps its file and number through shuffles, so that an error can name it.
 * @module
 */

/** One row of a data set: column name to value. */
export type Row = Record<string, unknown>;

/** File and row number (line for JSON Lines, from 1) of a row. */
export interface Origin {
  /** Path as it was opened. */
  file: string;
  /** Row or line, from 1. */
  row: number;
}

const ORIGINS = new WeakMap<Row, Origin>();

/** Remembers where a row came from; returns the row. */
export function withOrigin(row: Row, origin: Origin | undefined): Row {
  if (origin !== undefined) ORIGINS.set(row, origin);
  return row;
}

/** Where a row came from, if it was read from a file. */
export function originOf(row: Row): Origin | undefined {
  return ORIGINS.get(row);
}

/** `train.jsonl:17` where the origin is known, else `row N`. */
export function nameRow(row: Row, number: number): string {
  const origin = ORIGINS.get(row);
  if (origin === undefined) return `row ${number}`;
  return `${origin.file.split(/[/\\]/).at(-1)}:${origin.row}`;
}

/** A row with only these columns, keeping its origin. */
export function selectColumns(row: Row, columns: readonly string[]): Row {
  const selected: Row = {};
  for (const column of columns) if (column in row) selected[column] = row[column];
  return withOrigin(selected, ORIGINS.get(row));
}
