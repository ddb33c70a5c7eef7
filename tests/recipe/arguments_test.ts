import assert from "node:assert/strict";
import { parseTrainArguments, splitOverrides } from "../../lib/recipe/arguments.ts";

const pairs = (...words: string[]) => splitOverrides(words).overrides.map(({ key, value }) => [key, value]);

Deno.test("arguments: recipe first, after --config, or between options", () => {
  const rest = { help: false, explain: false, tune: false };
  assert.deepEqual(parseTrainArguments(["r.yaml", "--lora_r=8"]), {
    recipePath: "r.yaml",
    overrides: ["--lora_r=8"],
    ...rest,
  });
  assert.equal(parseTrainArguments(["--config", "r.yaml", "--lora_r", "8"]).recipePath, "r.yaml");
  assert.equal(parseTrainArguments(["--config=r.yaml"]).recipePath, "r.yaml");
  assert.equal(parseTrainArguments(["--packing", "r.yaml"]).recipePath, "r.yaml");
  assert.equal(parseTrainArguments(["--report_to", "a", "b", "r.yaml"]).recipePath, "r.yaml");
  assert.equal(parseTrainArguments([]).recipePath, undefined);
});

Deno.test("arguments: the path is removed by its place, not by its text", () => {
  const args = parseTrainArguments(["--run_name", "r.yaml", "--lora_r", "8", "r.yaml"]);
  assert.equal(args.recipePath, "r.yaml");
  assert.deepEqual(args.overrides, ["--run_name", "r.yaml", "--lora_r", "8"]);
});

Deno.test("arguments: help and explain", () => {
  assert.equal(parseTrainArguments(["--help"]).help, true);
  assert.equal(parseTrainArguments(["-h"]).help, true);
  assert.deepEqual(parseTrainArguments(["r.yaml", "--tune"]), {
    ...parseTrainArguments(["r.yaml"]),
    tune: true,
  });
  const { explain, overrides } = parseTrainArguments(["r.yaml", "--explain"]);
  assert.deepEqual([explain, overrides], [true, []]);
});

Deno.test("arguments: two recipes, or a forgotten dash", () => {
  assert.throws(() => parseTrainArguments(["a.yaml", "b.yaml"]), /What is "b.yaml"/);
  assert.throws(
    () => parseTrainArguments(["a.yaml", "lora_r=8"]),
    /What is "lora_r=8"[\s\S]*mean --lora_r=8\?/,
  );
  assert.throws(() => parseTrainArguments(["a.yaml", "-lora-r=8"]), /mean --lora-r=8\?/);
});

Deno.test("overrides: --key=value keeps everything after the first =", () => {
  assert.deepEqual(pairs("--optim_args=rank=8,x=1"), [["optim_args", "rank=8,x=1"]]);
  assert.deepEqual(pairs("--learning-rate=1e-3"), [["learning_rate", "1e-3"]]);
  assert.deepEqual(pairs("--run_name="), [["run_name", ""]]);
});

Deno.test("overrides: --key value, negative numbers included", () => {
  assert.deepEqual(pairs("--max_steps", "-1", "--lora_r", "8"), [["max_steps", "-1"], ["lora_r", "8"]]);
});

Deno.test("overrides: flags on, off, and with a value", () => {
  assert.deepEqual(pairs("--packing"), [["packing", true]]);
  assert.deepEqual(pairs("--no_packing", "--no-use_peft"), [["packing", false], ["use_peft", false]]);
  assert.deepEqual(pairs("--packing", "false", "--use_peft", "--do_eval"), [
    ["packing", "false"],
    ["use_peft", true],
    ["do_eval", true],
  ]);
  assert.deepEqual(pairs("--packing=no"), [["packing", "no"]]);
});

Deno.test("overrides: lists at commas, as YAML, and as words", () => {
  const name = "lora_target_modules";
  const want = [[name, ["q_proj", "v_proj"]]];
  assert.deepEqual(pairs(`--${name}=q_proj,v_proj`), want);
  assert.deepEqual(pairs(`--${name}=[q_proj, v_proj]`), want);
  assert.deepEqual(pairs(`--${name}`, "q_proj", "v_proj"), want);
  assert.deepEqual(pairs(`--${name}=.*(q|v)_proj{1,2}`), [[name, ".*(q|v)_proj{1,2}"]]);
  assert.deepEqual(pairs(`--${name}=null`), [[name, null]]);
});

Deno.test("overrides: nested values are YAML or JSON", () => {
  assert.deepEqual(pairs("--lr_scheduler_kwargs={min_lr_rate: 0.1}"), [["lr_scheduler_kwargs", {
    min_lr_rate: 0.1,
  }]]);
  assert.deepEqual(pairs('--dataset_mixer={"a/b": 0.5}'), [["dataset_mixer", { "a/b": 0.5 }]]);
  assert.throws(() => pairs("--dataset_mixer={a"), /is not YAML/);
});

Deno.test("overrides: text is not read as YAML", () => {
  assert.deepEqual(pairs("--chat_template={{ messages[0] }}"), [["chat_template", "{{ messages[0] }}"]]);
});

Deno.test("overrides: keys that are ignored are split like flags or values", () => {
  assert.deepEqual(pairs("--bf16", "--ddp_timeout", "5"), [["bf16", true], ["ddp_timeout", "5"]]);
  assert.deepEqual(pairs("--no_bf16", "--no_cuda"), [["bf16", false], ["no_cuda", true]]);
});

Deno.test("overrides: unknown options are errors with the nearest name", () => {
  assert.throws(() => pairs("--lora_rnak=8"), /Unknown option --lora_rnak[\s\S]*Did you mean --lora_/);
  assert.throws(() => pairs("--no_lora_r"), /Unknown option --no_lora_r/);
  assert.throws(() => pairs("--lora_r"), /--lora_r needs a value[\s\S]*--lora_r=VALUE/);
  assert.throws(() => pairs("--lora_r", "--packing"), /--lora_r needs a value/);
});

Deno.test("arguments: a key without a value is refused", () => {
  for (const words of [["--learning_rate"], ["--learning_rate", "--max_steps=2"]]) {
    assert.throws(() => pairs(...words), {
      code: "recipe/no-value",
      message: /--learning_rate needs a value.*--learning_rate=VALUE/s,
    });
  }
});
