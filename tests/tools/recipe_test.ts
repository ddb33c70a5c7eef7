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

Deno.test("recipe inspect: sequences as the model gets them, the targets of the loss marked (R2)", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "nibble-inspect-" });
  const write = (name: string, rows: unknown[]) =>
    Deno.writeTextFileSync(`${folder}/${name}`, rows.map((row) => JSON.stringify(row) + "\n").join(""));
  const said = (role: string, content: string) => ({ role, content });
  write("train.jsonl", [
    { messages: [said("user", "Who goes?"), said("assistant", "A friend.")] },
    { messages: [said("user", "And you?"), said("assistant", "Peace!")] },
  ]);
  const model = ["--model_name_or_path=assets/models/tiny", `--dataset_name=${folder}`];
  const path = `${folder}/my.yaml`;
  Deno.writeTextFileSync(path, "max_length: 64\npacking: true\nassistant_only_loss: true\n");
  const [code, out, err] = await recipe("inspect", path, ...model);
  assert.equal(code, 0, err);
  assert.match(err, /train\nrows +2 of 2\n/);
  assert.match(
    out,
    /Who goes\?[^⟦]*⟦A friend\.[^⟧]*<\|im_end\|>⟧/,
    "the answer and its stop token, and no more",
  );
  assert.match(out, /⟦Peace![^⟧]*<\|im_end\|>⟧/);
  assert.match(out, /\[sequence 1, document 1 of 2: \d+ tokens, \d+ trained \(\d+\.\d %\)\]/);
  const all = await recipe("inspect", path, ...model, "--no_assistant_only_loss");
  assert.match(all[1], /⟦[^⟧]*Who goes\?[^⟧]*A friend/, "the whole conversation");
  write("train.jsonl", [{
    prompt: [said("user", "Who?")],
    chosen: [said("assistant", "Yes.")],
    rejected: [said("assistant", "No.")],
  }]);
  for (
    const [task, first, second] of [["dpo", "pair 1, chosen", "pair 1, rejected"], [
      "kto",
      "answer 1, (un)?desirable",
      "answer 2, (un)?desirable",
    ]]
  ) {
    const [, shown] = await recipe(
      "inspect",
      path,
      ...model,
      "--no_packing",
      "--max_prompt_length=32",
      `--nibble_task=${task}`,
    );
    assert.match(
      shown,
      new RegExp(`Who\\?[^]*⟦(Yes|No)\\.[^]*\\[${first}: [^]*⟦(Yes|No)\\.[^]*\\[${second}: `),
      task,
    );
  }
  const [failed, , error] = await recipe("inspect", path, ...model, "--dataset_train_split=none");
  assert.equal(failed, 1);
  assert.match(error, /error: .*none/);
  Deno.removeSync(folder, { recursive: true });
});
