/**
 * `deno task recipe explain recipe.yaml [--key=value ...]`: what a recipe comes to, without running it.
 *
 * Prints every setting with its value, the line of the file, the command line or the library that it comes from, and
 * every key that changes nothing here with the reason. Exit status 1 for a recipe that cannot be read.
 * @module
 */
import { explainRecipe, parseTrainArguments, readRecipe } from "../lib/recipe/mod.ts";
import { runCommand } from "./command.ts";

const HELP = `Usage: deno task recipe explain recipe.yaml [--key=value ...]

Prints each setting of the recipe: its value, where that comes from (line of the file, command line, or whose
default), and each key that has no effect here, with the reason. Nothing is fetched and nothing is trained.`;

function main(): number {
  const [action, ...rest] = Deno.args;
  const word = action !== undefined && !action.startsWith("-");
  if (word && action !== "explain") {
    console.error(`error: There is no "deno task recipe ${action}"\n`);
    console.log(HELP);
    return 2;
  }
  const { recipePath, overrides, help } = parseTrainArguments(word ? rest : Deno.args);
  if (help || !word || !recipePath) {
    console.log(HELP);
    return help ? 0 : 2;
  }
  console.log(explainRecipe(readRecipe(recipePath, overrides)));
  return 0;
}

await runCommand(main);
