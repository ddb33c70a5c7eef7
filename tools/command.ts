/**
 * How a command reads its options, and how it ends: its status, or one line for an error that the user can mend.
 * @module
 */
import { parseArgs, type ParseArgsConfig } from "node:util";
import { NibbleError } from "../lib/errors.ts";

/** Types of options. */
export const text = { type: "string" } as const, flag = { type: "boolean" } as const;

type Options = NonNullable<ParseArgsConfig["options"]>;
type Values<T extends Options> = ReturnType<
  typeof parseArgs<{ options: T & { help: { type: "boolean"; short: "h" } }; allowNegative: true }>
>["values"];

/**
 * What was given on the command line, `--help` and `--no-flag` included.
 *
 * @throws NibbleError `<command>/arguments` for what is no option
 */
export function readOptions<const T extends Options>(command: string, options: T): Values<T> {
  try {
    const all = { ...options, help: { type: "boolean", short: "h" } } as const;
    return parseArgs({ options: all, allowNegative: true }).values as Values<T>;
  } catch (error) {
    throw badOption(command, (error as Error).message);
  }
}

/** Whether `--help` is among the words of a command that has few options or none. */
export function asksForHelp(words: readonly string[]): boolean {
  return words.includes("--help") || words.includes("-h");
}

/** The error for an option that cannot be. */
export function badOption(command: string, what: string): NibbleError {
  return new NibbleError(`${command}/arguments`, what, { remedy: "--help lists the options." });
}

/** One of a table's values, by the name that an option gives. */
export function oneOf<T>(
  command: string,
  option: string,
  given: string,
  table: Readonly<Record<string, T>>,
): T {
  const name = given.trim().toLowerCase();
  if (Object.hasOwn(table, name)) return table[name]!;
  throw badOption(command, `--${option} is '${given}', not one of ${Object.keys(table).join(", ")}`);
}

/** Runs a command and ends the process with its status, 1 where it threw a `NibbleError`. */
export async function runCommand(main: () => number | Promise<number>): Promise<never> {
  let status = 1;
  try {
    status = await main();
  } catch (error) {
    if (!(error instanceof NibbleError)) throw error;
    console.error(`error: ${error.message}`);
  }
  // the GPU device keeps the process alive
  Deno.exit(status);
}
