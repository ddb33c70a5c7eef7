import assert from "node:assert/strict";
import { explainRecipe, parseRecipe, recipeHelp } from "../../lib/recipe/mod.ts";
import { SETTINGS } from "../../lib/train/settings.ts";

const TEXT = `model_name_or_path: a/b
dataset_name: c/d
use_peft: true
max_seq_length: 512
bf16: true
warmup_ratio: 0.1
warmup_steps: 10
chat_template: "${"x".repeat(400)}"
`;

Deno.test("explain: value, origin and effect of each setting", () => {
  const recipe = parseRecipe(TEXT, { file: "folder/my.yaml", overrides: ["--lora_r=8"] });
  const text = explainRecipe(recipe);
  assert.match(text, /^folder\/my.yaml: sft \(nothing says otherwise\)\n/);
  assert.match(text, /^ {2}lora_r +8 +command line$/m);
  assert.match(text, /^ {2}lora_alpha +32 +default of TRL 0.19$/m);
  assert.match(text, /^ {2}max_length +512 +my.yaml:4 as max_seq_length$/m);
  assert.match(text, /^ {2}warmup_ratio +0.1 +my.yaml:6 +no effect: warmup_steps: 10 wins$/m);
  assert.match(text, /^ {2}bf16 +my.yaml:5 +no effect: WebGPU has no bfloat16/m);
  assert.match(text, /^ {2}beta +0.1 +default of TRL 0.19 +no effect: only in dpo, orpo/m);
  for (const name of Object.keys(SETTINGS)) assert.match(text, new RegExp(`^ {2}${name} `, "m"), name);
  assert.ok(
    Math.max(...text.split("\n").filter((l) => l.includes("chat_template ")).map((l) => l.length)) < 110,
  );
  for (const notice of recipe.notices) assert.ok(text.includes(notice), notice);
});

Deno.test("explain: columns are aligned", () => {
  const rows = explainRecipe(parseRecipe(TEXT)).split("\n").filter((line) => / default of /.test(line));
  assert.ok(rows.length > 20);
  assert.equal(new Set(rows.map((row) => row.indexOf(" default of "))).size, 1);
});

Deno.test("help: every setting with its meaning and default", () => {
  const help = recipeHelp();
  for (const [name, { doc }] of Object.entries(SETTINGS)) {
    assert.ok(help.includes(`  --${name}\n      ${doc}`), name);
  }
  assert.match(
    help,
    /--learning_rate\n.*\n +a number, at least 0; default 2e-5, dpo: 1e-6, orpo: 1e-6, kto: 1e-6 \(TRL 0.19\)/,
  );
});
