/**
 * One family of errors for everything that a user can cause or mend.
 * @module
 */

/** Options of a {@link NibbleError}: where it happened, what mends it, and what lay below. */
export interface NibbleErrorOptions {
  /** File, key, tensor or row, as the user would name it. */
  where?: string;
  /** One sentence that tells the user what to do. */
  remedy?: string;
  /** The error underneath. */
  cause?: unknown;
}

/**
 * An error with a stable code, what was wrong, where, and what to do about it.
 *
 * @example
 * ```ts
 * import { NibbleError } from "./errors.ts";
 * const e = new NibbleError("data/empty", "No rows in the training split", {
 *   where: "train.jsonl",
 *   remedy: "Check dataset_train_split.",
 * });
 * if (!e.message.includes("train.jsonl")) throw new Error("the place must be in the message");
 * ```
 */
export class NibbleError extends Error {
  /** `room/what`, stable across versions. */
  readonly code: string;
  /** File, key, tensor or row. */
  readonly where: string | undefined;
  /** What to do. */
  readonly remedy: string | undefined;

  /** Its message has what, where and remedy, a line each. */
  constructor(code: string, what: string, options: NibbleErrorOptions = {}) {
    const lines = [what];
    if (options.where) lines.push(`  where: ${options.where}`);
    if (options.remedy) lines.push(`  to do: ${options.remedy}`);
    super(lines.join("\n"), options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "NibbleError";
    this.code = code;
    this.where = options.where;
    this.remedy = options.remedy;
  }
}
