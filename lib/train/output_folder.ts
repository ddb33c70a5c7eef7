/**
 * The folder that a run writes to: made before anything is loaded, never the model's own, and without what an earlier
 * run of another kind left in it.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { isFile, isSamePlace, makeOutputFolder } from "../formats/mod.ts";
import { findLocal } from "../hub/mod.ts";
import type { TrainSettings } from "./settings.ts";

/** Keys that may name a folder that a run reads and must not write to. */
const SOURCES = ["model_name_or_path", "ref_model"] as const;

/**
 * Makes the output folder.
 *
 * @param base folder against which relative paths of the recipe are tried too
 * @throws NibbleError `train/output-is-model`, `train/output-holds-model`; `formats/cannot-write` where it cannot be made
 */
export function openOutputFolder(s: TrainSettings, base: string | undefined): void {
  for (const key of SOURCES) {
    const path = s[key] && findLocal(s[key], base, []);
    if (path) refuseModelFolder(s, path, key);
  }
  // who opens a folder with both gets the whole model, and not what was learned last
  const whole = ["model.safetensors", "model.safetensors.index.json"].map((name) => join(s.output_dir, name));
  if (s.use_peft && whole.some(isFile)) {
    throw new NibbleError(
      "train/output-holds-model",
      "output_dir holds a whole model, and this run makes an adapter",
      {
        where: `output_dir: ${s.output_dir}`,
        remedy: "Set output_dir to another folder, or take the model out of it.",
      },
    );
  }
  makeOutputFolder(s.output_dir);
}

/** Refuses a model's folder as the place for the result, by whatever way its path leads there. */
export function refuseModelFolder(
  s: TrainSettings,
  path: string,
  key: typeof SOURCES[number] = "model_name_or_path",
): void {
  if (!isSamePlace(path, s.output_dir)) return;
  throw new NibbleError(
    "train/output-is-model",
    `output_dir is the folder of ${key}, which the run would overwrite`,
    {
      where: `output_dir: ${s.output_dir}, ${key}: ${s[key]}`,
      remedy: "Set output_dir to another folder.",
    },
  );
}

/**
 * Takes an earlier run's adapter out of a folder into which a whole model was written: Transformers would load that
 * adapter, and its base in place of the model.
 *
 * @returns a line for the log where there was one
 */
export function removeStaleAdapter(folder: string): string | undefined {
  const stale = ["adapter_config.json", "adapter_model.safetensors"].filter((name) =>
    isFile(join(folder, name))
  );
  for (const name of stale) Deno.removeSync(join(folder, name));
  return stale.length === 0
    ? undefined
    : `removed     ${stale.join(", ")} of an earlier run: ${folder} now holds a whole model`;
}
