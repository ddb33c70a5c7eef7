/**
 * `deno task recipe explain|inspect recipe.yaml [--key=value ...]`: what a recipe comes to, without running it.
 *
 * `explain` prints every setting with its value, the line of the file, the command line or the library that it comes
 * from, and every key that changes nothing here with the reason. `inspect` prints the first sequences as the model will
 * see them, with the targets of the loss marked. Exit status 1 for a recipe, or data, that cannot be read.
 * @module
 */
import { dirname } from "@std/path";
import { explainRecipe, parseTrainArguments, readRecipe, type Recipe } from "../lib/recipe/mod.ts";
import { inspectRecipe } from "../lib/train/inspect_recipe.ts";
import { runCommand } from "./command.ts";

const HELP = `Usage: deno task recipe explain recipe.yaml [--key=value ...]
       deno task recipe inspect recipe.yaml [--key=value ...]

explain prints each setting of the recipe: its value, where that comes from (line of the file, command line, or whose
default), and each key that has no effect here, with the reason. Nothing is fetched and nothing is trained.

inspect reads the recipe's data as training does and prints the first sequences of the first step, cut and packed as
the model will see them; what the loss counts stands in ⟦brackets⟧, or in green on a terminal.`;

const ACTIONS: Record<string, (recipe: Recipe, path: string) => string | Promise<string>> = {
  explain: (recipe) => explainRecipe(recipe),
  inspect: ({ settings }, path) =>
    inspectRecipe(settings, {
      base: dirname(path),
      color: Deno.stdout.isTerminal() && !Deno.noColor,
      onNote: (note) => console.error(note),
    }),
};

async function main(): Promise<number> {
  const [action, ...rest] = Deno.args;
  const word = action !== undefined && !action.startsWith("-");
  if (word && !Object.hasOwn(ACTIONS, action)) {
    console.error(`error: There is no "deno task recipe ${action}"\n`);
    console.log(HELP);
    return 2;
  }
  const { recipePath, overrides, help } = parseTrainArguments(word ? rest : Deno.args);
  if (help || !word || !recipePath) {
    console.log(HELP);
    return help ? 0 : 2;
  }
  console.log(await ACTIONS[action!]!(readRecipe(recipePath, overrides), recipePath));
  return 0;
}

await runCommand(main);
