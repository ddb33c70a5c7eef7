import assert from "node:assert/strict";
import { fromFileUrl } from "@std/path";

const ROOT = fromFileUrl(new URL("../..", import.meta.url));

/** Runs `deno task recipe`'s script; exit status, standard output and standard error. */
async function recipe(...args: string[]): Promise<[code: number, out: string, err: string]> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "tools/recipe.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  return [code, new TextDecoder().decode(stdout), new TextDecoder().decode(stderr)];
}

Deno.test("recipe explain: every setting with its origin; a misspelled key with line and nearest name; usage", async () => {
  const [code, out] = await recipe("explain", "recipes/quickstart/config.yaml", "--lora_r=8", "--bf16");
  assert.equal(code, 0);
  assert.match(out, /^recipes\/quickstart\/config.yaml: sft/);
  assert.match(out, /^ {2}lora_r +8 +command line$/m);
  assert.match(out, /^ {2}lora_alpha +32 +config.yaml:\d+$/m);
  assert.match(out, /^ {2}weight_decay +0 +default of Trainer 4\.57$/m);
  assert.match(out, /^ {2}bf16 +command line +no effect: WebGPU/m);
  const bad = Deno.makeTempFileSync({ suffix: ".yaml" });
  Deno.writeTextFileSync(bad, "model_name_or_path: a/b\ndataset_name: c/d\nlora_rank: 8\n");
  const [failed, , error] = await recipe("explain", bad);
  Deno.removeSync(bad);
  assert.equal(failed, 1);
  assert.match(error, /Unknown key lora_rank.*lora_[\s\S]*:3/);
  const [usage, help] = await recipe("show");
  assert.equal(usage, 2);
  assert.match(help, /^Usage: deno task recipe explain/);
});
