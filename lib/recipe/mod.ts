/**
 * Recipes: YAML files with the alignment-handbook's keys, old and new, brought to typed settings.
 *
 * @example
 * ```ts
 * import { explainRecipe, parseRecipe } from "./mod.ts";
 * const recipe = parseRecipe("model_name_or_path: a/b\ndataset_name: c/d\nuse_peft: true\n", {
 *   overrides: ["--lora_r", "8"],
 * });
 * if (recipe.provenance.get("lora_r")?.from !== "command line") throw new Error("the command line wins");
 * if (!explainRecipe(recipe).includes("lora_r")) throw new Error("the table names every setting");
 * ```
 * @module
 */
export { parseTrainArguments, type TrainArguments } from "./arguments.ts";
export { explainRecipe, recipeHelp } from "./explain.ts";
export type { KeyLine } from "./lines.ts";
export type { IgnoredKey, Origin } from "./collect.ts";
export { parseRecipe, readRecipe, type Recipe, recipeOf, type RecipeOptions } from "./read.ts";
export { writeRecipe } from "./write.ts";
