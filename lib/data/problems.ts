/**
 * What can be wrong with a row.
 * @module
 */

/** Raised while a row is read: `fatal` means that the data set has the wrong form, otherwise the row is left out. */
export class RowProblem extends Error {
  /** Is it the form of the data rather than this row? */
  readonly fatal: boolean;
  constructor(problem: string, fatal = false) {
    super(problem);
    this.fatal = fatal;
  }
}

/** The type of a value in a user's words. */
export function kindOf(value: unknown): string {
  if (value === undefined) return "missing";
  return value === null
    ? "null"
    : Array.isArray(value)
    ? "a list"
    : `a${typeof value === "object" ? "n" : ""} ${typeof value}`;
}
