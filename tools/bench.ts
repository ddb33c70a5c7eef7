/**
 * `deno task bench NAME [...]`: runs `bench/NAME.ts` with the arguments that follow; without a name, lists them.
 * @module
 */
import { fromFileUrl, join, toFileUrl } from "@std/path";
import { nearest } from "../lib/nearest.ts";

const FOLDER = fromFileUrl(new URL("../bench/", import.meta.url));
/** Opening of a benchmark's own documentation, which modules beside them do not say of themselves. */
const USAGE = /deno run -A bench\/(\w+)\.ts/;

/** Benchmarks by name, with the first sentence of what they say of themselves. */
function benches(): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name, isFile } of Deno.readDirSync(FOLDER)) {
    if (!isFile || !name.endsWith(".ts")) continue;
    const head = /^\/\*\*([^]*?)\*\//.exec(Deno.readTextFileSync(join(FOLDER, name)))?.[1] ?? "";
    if (USAGE.exec(head)?.[1] !== name.slice(0, -3)) continue;
    const text = head.replace(/\s*\n \* ?/g, " ").trim();
    found.set(name.slice(0, -3), /^.*?[.:](?=\s|$)/.exec(text)?.[0].replace(/:$/, ".") ?? text);
  }
  return new Map([...found].sort());
}

const [name, ...args] = Deno.args;
const all = benches();
if (name !== undefined && all.has(name)) {
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", toFileUrl(join(FOLDER, `${name}.ts`)).href, ...args],
  }).spawn().status;
  Deno.exit(code);
}
const help = name === undefined || name === "--help" || name === "-h";
if (!help) {
  const near = nearest(name, [...all.keys()]);
  console.error(`error: there is no benchmark '${name}'${near ? `; did you mean '${near}'?` : ""}\n`);
}
console.log("Usage: deno task bench NAME [arguments]\n");
for (const [each, text] of all) console.log(`  ${each.padEnd(14)}${text}`);
console.log("\nWhat they measured is in bench/README.md.");
Deno.exit(help ? 0 : 2);
