/**
 * `deno run -A train.ts recipe.yaml [--key=value ...]`: full fine-tuning, LoRA and QLoRA from one recipe.
 * @module
 */
import { dirname } from "@std/path";
import { NibbleError } from "./lib/errors.ts";
import { explainRecipe, parseTrainArguments, readRecipe, recipeHelp, writeRecipe } from "./lib/recipe/mod.ts";
import { train } from "./lib/train/run.ts";
import { stopOnInterrupt } from "./lib/train/signals.ts";
import { tuneForCommand } from "./lib/tuning.ts";

if (import.meta.main) {
  const interrupt = stopOnInterrupt();
  let stopped = false;
  try {
    const { recipePath, overrides, help, explain, tune } = parseTrainArguments(Deno.args);
    if (help || !recipePath) {
      console.log(recipeHelp());
      Deno.exit(help ? 0 : 2);
    }
    const recipe = readRecipe(recipePath, overrides);
    if (explain) {
      console.log(explainRecipe(recipe));
      Deno.exit(0);
    }
    for (const notice of recipe.notices) console.log(`note        ${notice}`);
    await tuneForCommand(tune);
    ({ stopped } = await train(recipe.settings, {
      recipeText: writeRecipe(recipe.settings),
      base: dirname(recipePath),
      signal: interrupt.signal,
    }));
  } catch (error) {
    if (!(error instanceof NibbleError)) throw error;
    console.error(`error: ${error.message}`);
    Deno.exit(interrupt.signal.aborted ? 130 : 1);
  } finally {
    interrupt.dispose();
  }
  // the GPU device keeps the process alive; a run that was stopped has not succeeded: `train && merge` must not go on
  Deno.exit(stopped ? 130 : 0);
}
