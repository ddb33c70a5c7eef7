/**
 * Which files of a model repository nibble reads, and whether a folder holds them all.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { exists, type RepoFile } from "./cache.ts";

/** Small files that are fetched wherever a repository has them. */
const SIDE_FILES =
  /^(config\.json|generation_config\.json|tokenizer(_config)?\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.(jinja|json)|additional_chat_templates\/[^/]+\.jinja|adapter_config\.json|adapter_model\.safetensors|README\.md|LICENSE[^/]*)$/;
const SHARD = /^model-\d{5}-of-\d{5}\.safetensors$/;

/**
 * Picks from a repository's list what a model needs: weights as safetensors (with the index where they are sharded),
 * tokenizer, chat template and the small JSON files; nothing in pickle, Flax, ONNX or TensorFlow form. A repository
 * with GGUF files only gives its one file, or the one named.
 *
 * @param gguf path of a GGUF file inside the repository, where the user named one
 * @throws {NibbleError} `hub/no-weights`, `hub/which-gguf`
 *
 * @example
 * ```ts
 * import { chooseModelFiles } from "./model_files.ts";
 * const repo = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"];
 * const files = chooseModelFiles("org/name", repo.map((path) => ({ path, size: 1, hash: "" })));
 * if (files.some((f) => f.path.endsWith(".bin"))) throw new Error("pickles stay where they are");
 * ```
 */
export function chooseModelFiles(repo: string, files: RepoFile[], gguf?: string): RepoFile[] {
  const named = (path: string) => files.filter((f) => f.path === path);
  if (gguf !== undefined) {
    if (named(gguf).length === 0) throw new NibbleError("hub/no-file", `${repo} has no file ${gguf}`);
    return named(gguf);
  }
  const side = files.filter((f) => SIDE_FILES.test(f.path));
  const index = named("model.safetensors.index.json");
  if (named("model.safetensors").length > 0) return [...side, ...named("model.safetensors")];
  if (index.length > 0) return [...side, ...index, ...files.filter((f) => SHARD.test(f.path))];
  if (side.some((f) => f.path === "adapter_model.safetensors")) return side;
  const ggufs = files.filter((f) => f.path.endsWith(".gguf"));
  if (ggufs.length === 1) return ggufs;
  if (ggufs.length > 1) {
    throw new NibbleError("hub/which-gguf", `${repo} holds ${ggufs.length} GGUF files`, {
      where: ggufs.map((f) => f.path).join(", "),
      remedy: `Name one: ${repo}/${ggufs[0]!.path}`,
    });
  }
  throw new NibbleError("hub/no-weights", `${repo} holds no weights that nibble reads`, {
    where: files.map((f) => f.path).slice(0, 20).join(", "),
    remedy: "nibble reads safetensors and GGUF; pickled weights (.bin, .pt) can run code and are not read.",
  });
}

/** What a model repository has beside its weights: config, tokenizer, templates, documents. */
export function chooseSideFiles(files: RepoFile[]): RepoFile[] {
  return files.filter((f) => SIDE_FILES.test(f.path) && !f.path.endsWith(".safetensors"));
}

/**
 * Does a snapshot folder hold a whole model? With the repository's list: every chosen file. Without it (a cache that
 * an older huggingface_hub left): config.json, a tokenizer, and all the weights that the index names.
 */
export function isWholeModel(
  repo: string,
  snapshot: string,
  tree: RepoFile[] | undefined,
  gguf?: string,
): boolean {
  const has = (path: string) => exists(join(snapshot, ...path.split("/")));
  if (tree) {
    try {
      // The documents are for people; Python's loaders skip them, and a model without them is whole.
      return chooseModelFiles(repo, tree, gguf).every((f) => /^(README|LICENSE)/.test(f.path) || has(f.path));
    } catch {
      return false;
    }
  }
  if (gguf !== undefined) return has(gguf);
  if (!has("config.json") || !(has("tokenizer.json") || has("tokenizer.model") || has("vocab.json"))) {
    return false;
  }
  if (has("model.safetensors")) return true;
  try {
    const index = JSON.parse(Deno.readTextFileSync(join(snapshot, "model.safetensors.index.json")));
    return Object.values(index.weight_map as Record<string, string>).every(has);
  } catch {
    return false;
  }
}
