/**
 * Which configurations of the kernels a run takes: those that it began with, whatever was measured since, since rounding
 * may differ between them.
 * @module
 */
import { type Choices, gpu } from "../gpu/mod.ts";
import { peekState } from "./checkpoint_folder.ts";

/** Choices of a run, as its checkpoints hold them. */
export interface RunKernels {
  /** The adapter that they were measured on. */
  adapter: string;
  choices: Record<string, string>;
}

/** Those of the open device. */
export function runKernels(): RunKernels {
  return { adapter: gpu().name, choices: Object.fromEntries(gpu().choices) };
}

/**
 * Puts the choices of a checkpoint on the open device, those of a run that was not tuned too.
 *
 * @returns a line for the log where they are others than the device had, or cannot be had
 */
export function resumeKernels(folder: string): string | undefined {
  const saved = readKernels(folder);
  const device = gpu(), now = describeKernels(device.choices);
  if (saved && saved.adapter !== device.name) {
    return `kernels     ${now}; the checkpoint was made on ${saved.adapter}: expect other roundings from here`;
  }
  device.choices = new Map(Object.entries(saved?.choices ?? {}));
  const then = describeKernels(device.choices);
  return then === now ? undefined : `kernels     as the checkpoint had them: ${then}`;
}

/** Choices as words for the log: by kernel, `matmul nt.large quad64, nn.large tile64`. */
export function describeKernels(choices: Choices): string {
  if (choices.size === 0) return "by rule";
  const byKernel = new Map<string, string[]>();
  for (const [name, chosen] of [...choices].sort(([a], [b]) => a < b ? -1 : 1)) {
    const [kernel, ...rest] = name.split(".");
    byKernel.set(kernel!, [...byKernel.get(kernel!) ?? [], [rest.join("."), chosen].join(" ").trim()]);
  }
  return [...byKernel].map(([kernel, words]) => `${kernel} ${words.join(", ")}`).join("; ");
}

/** undefined for a checkpoint from before there were choices, which the rules made; damage is `loadState`'s to tell. */
function readKernels(folder: string): RunKernels | undefined {
  return peekState(folder)?.kernels as RunKernels | undefined;
}
