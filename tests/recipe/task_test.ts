import assert from "node:assert/strict";
import { parseRecipe } from "../../lib/recipe/mod.ts";
import { inferTask } from "../../lib/recipe/task.ts";

const task = (given: Record<string, unknown>, file?: string) =>
  inferTask(new Map(Object.entries(given)), file).task;

Deno.test("task: a word wins over the folder, the folder over the keys", () => {
  assert.equal(task({ nibble_task: "orpo", beta: 1 }, "x/dpo/a.yaml"), "orpo");
  assert.equal(task({ packing: true }, "x/orpo/a.yaml"), "orpo");
  assert.equal(task({}, "dpo/x/sft/a.yaml"), "sft"); // the nearest folder
  assert.equal(task({}, "C:\\recipes\\cpt\\a.yaml"), "cpt");
  assert.equal(task({}, "x/sft.yaml"), "sft"); // a file's own name says nothing
  assert.equal(task({ beta: 0.1 }, "x/sft.yaml"), "dpo");
  assert.equal(task({ beta: 0.1 }, "x/sft"), "dpo");
});

Deno.test("task: by keys", () => {
  assert.equal(task({}), "sft");
  assert.equal(task({ beta: 0.1 }), "dpo");
  assert.equal(task({ loss_type: "ipo" }), "dpo");
  assert.equal(task({ loss_type: "nll", beta: 0.1 }), "sft");
  assert.equal(task({ packing: true }), "sft");
  assert.equal(task({ loss_type: "kto" }), "kto");
  assert.equal(task({ loss_type: "kto_pair" }), "dpo");
  assert.equal(task({ beta: 0.1, desirable_weight: 2 }), "kto");
  const pairs = { datasets: [{ columns: ["chosen", "rejected", "prompt"] }] };
  assert.equal(task({ dataset_mixture: pairs }), "dpo");
  assert.equal(task({ dataset_mixture: { datasets: [{ columns: ["messages"] }] } }), "sft");
  assert.equal(task({ dataset_mixture: { datasets: [{ columns: null }] } }), "sft");
});

Deno.test("task: decides defaults, and a guess is told", () => {
  const recipe = parseRecipe("model_name_or_path: a/b\ndataset_name: c/d\nbeta: 0.1\n");
  assert.equal(recipe.task, "dpo");
  assert.equal(recipe.settings.nibble_task, "dpo");
  assert.equal(recipe.settings.learning_rate, 1e-6);
  assert.equal(recipe.settings.loss_type, "sigmoid");
  assert.equal(recipe.provenance.get("learning_rate")?.why, "dpo");
  assert.ok(recipe.notices.some((notice) => notice.includes("beta is given")));
});
