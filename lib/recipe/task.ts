/**
 * What a recipe trains. The handbook decides it by script; here the recipe's folder and keys do.
 * @module
 */
import { SETTINGS, type Task } from "../train/settings.ts";

const TASKS: readonly string[] = SETTINGS.nibble_task.choices;
const PREFERENCE_KEYS = ["beta", "rpo_alpha", "precompute_ref_log_probs", "reference_free", "ref_model"];
const JUDGED_KEYS = ["desirable_weight", "undesirable_weight"];
const TEXT_KEYS = ["packing", "assistant_only_loss", "completion_only_loss", "dataset_text_field"];

/**
 * Finds a recipe's task: the nearest folder named sft, dpo, orpo, kto or cpt, as in the handbook; else a
 * preference loss or its keys mean DPO, or KTO; else chosen and rejected columns do; else SFT.
 *
 * @param given settings of recipe and command line, already under today's names
 * @returns the task and what told it
 * @example
 * ```ts
 * import { inferTask } from "./task.ts";
 * const { task } = inferTask(new Map([["beta", 0.1]]), "my/recipe.yaml");
 * if (task !== "dpo") throw new Error(task);
 * ```
 */
export function inferTask(given: ReadonlyMap<string, unknown>, file?: string): { task: Task; why: string } {
  const named = given.get("nibble_task");
  if (typeof named === "string") return { task: named as Task, why: "nibble_task" };
  const folder = file?.split(/[\\/]/).slice(0, -1).reverse().find((part) => TASKS.includes(part));
  if (folder) return { task: folder as Task, why: `the recipe lies in ${folder}/` };
  const loss = given.get("loss_type");
  if (loss === "nll") return { task: "sft", why: "loss_type: nll" };
  if (loss === "kto") return { task: "kto", why: "loss_type: kto" };
  if (loss !== undefined) return { task: "dpo", why: `loss_type: ${loss}` };
  const judged = JUDGED_KEYS.find((key) => given.has(key));
  if (judged) return { task: "kto", why: `${judged} is given` };
  const preference = PREFERENCE_KEYS.find((key) => given.has(key));
  if (preference) return { task: "dpo", why: `${preference} is given` };
  const text = TEXT_KEYS.find((key) => given.has(key));
  if (text) return { task: "sft", why: `${text} is given` };
  if (keepsPairs(given.get("dataset_mixture"))) {
    return { task: "dpo", why: "the columns chosen and rejected" };
  }
  return { task: "sft", why: "nothing says otherwise" };
}

function keepsPairs(mixture: unknown): boolean {
  const datasets = (mixture as { datasets?: { columns?: string[] | null }[] } | undefined)?.datasets ?? [];
  return datasets.length > 0 &&
    datasets.every(({ columns }) => columns?.includes("chosen") && columns.includes("rejected"));
}
