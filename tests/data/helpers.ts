/** Small things that the tests of this folder share. */
import { join } from "@std/path";

/** A temporary folder with these files (path to text), removed after `body`. */
export async function withFolder(
  files: Record<string, string | Uint8Array>,
  body: (folder: string) => Promise<void> | void,
): Promise<void> {
  const folder = Deno.makeTempDirSync();
  try {
    for (const [name, content] of Object.entries(files)) {
      const path = join(folder, name);
      Deno.mkdirSync(join(path, ".."), { recursive: true });
      if (typeof content === "string") Deno.writeTextFileSync(path, content);
      else Deno.writeFileSync(path, content);
    }
    await body(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** JSON Lines. */
export function jsonl(...rows: unknown[]): string {
  return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

/** The path of a fixture. */
export function fixture(name: string): string {
  return join(import.meta.dirname!, "fixtures", name);
}
