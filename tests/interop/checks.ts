/**
 * What the read.ts scripts share: a check, told in the one line that tools/interop.ts counts.
 * @module
 */

/** Runs a check: it returns a short detail (its largest difference, a count) or nothing, and fails by throwing. */
export async function check(name: string, body: () => Promise<string | void> | string | void): Promise<void> {
  const at = performance.now();
  const took = () => `${((performance.now() - at) / 1000).toFixed(1)}s`;
  try {
    const detail = await body();
    console.log(`${name} ... ok (${detail ? `${detail}, ` : ""}${took()})`);
  } catch (error) {
    console.error(error);
    const why = String((error as Error).message ?? error).split("\n")[0]!.slice(0, 300);
    console.log(`${name} ... FAILED (${why}, ${took()})`);
    Deno.exitCode = 1;
  }
}

/** The folder that the script was given. */
export function folder(): string {
  const path = Deno.args[0];
  if (!path) throw new Error("Give the folder: it is run by deno task test:interop");
  return path;
}
