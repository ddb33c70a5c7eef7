/**
 * `deno task plan recipe.yaml [--key=value ...]`: the bytes that a run will take, without running it.
 *
 * Reads the recipe, the model's files and the data as training does, and loads no weights. Exit status 1 when
 * the run cannot fit or cannot begin.
 * @module
 */
import { dirname } from "@std/path";
import { parseTrainArguments, readRecipe } from "../lib/recipe/mod.ts";
import { planRecipe, planTable } from "../lib/train/plan_recipe.ts";
import { runCommand } from "./command.ts";

const HELP = `Usage: deno task plan recipe.yaml [--key=value ...]

Prints the device memory that the run will take, by kind, and the largest binding. Takes the same recipe and
overrides as deno task train. Exit status 1 when the run cannot fit.

  --nibble_memory_budget_gb=N   refuse what would take more than N billion bytes`;

async function main(): Promise<number> {
  const { recipePath, overrides, help } = parseTrainArguments(Deno.args);
  if (help || !recipePath) {
    console.log(HELP);
    return help ? 0 : 2;
  }
  const recipe = readRecipe(recipePath, overrides);
  for (const notice of recipe.notices) console.log(`note: ${notice}`);
  const plan = await planRecipe(recipe.settings, {
    base: dirname(recipePath),
    onNote: (text) => console.log(text),
  });
  console.log(planTable(plan));
  return 0;
}

await runCommand(main);
