/**
 * The chat template that a recipe gives: as text, or by the path of a file or a tokenizer.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { isFile, openModelSides, readTextIfThere } from "../formats/mod.ts";
import { findLocal } from "../hub/local.ts";
import { fetchModel } from "../hub/mod.ts";
import type { TrainSettings } from "./settings.ts";

/** Endings by which TRL tells a template from a tokenizer. */
const TEMPLATE_FILE = /\.(jinja|j2)$/;

/**
 * The recipe's own template: `chat_template`, or what `chat_template_path` leads to, a Jinja file or the folder or Hub
 * name of a model whose tokenizer has one. Relative paths are tried as they are and beside the recipe. Undefined where
 * the recipe gives none; no token is added to the vocabulary.
 *
 * @param options those of the model's own files; `base` is the recipe's folder
 * @throws NibbleError `train/no-template` where nothing is there, or no template in it
 */
export async function givenTemplate(
  { chat_template, chat_template_path: path }: Pick<TrainSettings, "chat_template" | "chat_template_path">,
  options: Parameters<typeof fetchModel>[1] & { base?: string | undefined } = {},
): Promise<string | undefined> {
  if (chat_template !== null || path === null) return chat_template ?? undefined;
  const itself = TEMPLATE_FILE.test(path);
  const looked: string[] = [];
  const place = findLocal(path, options.base, looked);
  const file = place && (itself ? place : join(place, "chat_template.jinja"));
  if (file && isFile(file)) return readTextIfThere(file);
  const { revision: _, ...fetching } = options; // it is that of the model trained
  const found = itself ? undefined : openModelSides(await fetchModel(path, fetching)).chatTemplate;
  if (found !== undefined) return found;
  throw new NibbleError("train/no-template", `chat_template_path: there is no chat template at ${path}`, {
    where: place ?? looked.join("; "),
    remedy: "Give a .jinja or .j2 file, or the folder or Hub name of a model whose tokenizer has a template.",
  });
}
