/**
 * How a command ends: its status, or one line for an error that the user can mend.
 * @module
 */
import { NibbleError } from "../lib/errors.ts";

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
