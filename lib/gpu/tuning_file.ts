/**
 * When a tuning holds: where the environment allows one at all, and what its file was made for.
 * @module
 */
import { createHash } from "node:crypto";
import { environment, type Gpu } from "./device.ts";
import type { Choices, Tunable, TunedKernel, Tuning } from "./tuner.ts";

/** Whether the environment forbids tuning, and by which variable: `NIBBLE_TUNE=off`, or `CI`. */
export function tuningOff(): string | undefined {
  if (environment("NIBBLE_TUNE") === "off") return "NIBBLE_TUNE=off";
  const ci = environment("CI");
  return ci && ci !== "false" && ci !== "0" ? `CI=${ci}` : undefined;
}

/**
 * What choices hold for. WebGPU tells no driver's version; what it tells of a driver is in the description, the features
 * and the limits. After an update of the driver that changes none of them, measure again by hand.
 */
export function tuningKey(device: Gpu, tunables: readonly Tunable[], version: string): string {
  const { name, vendor, features, limits } = device;
  const candidates = tunables.map((t) => [t.name, ...t.candidates(device)]);
  return JSON.stringify({
    ...{ adapter: name, vendor, features, nibble: version, deno: Deno.version.deno },
    backend: environment("DENO_WEBGPU_BACKEND") ?? (Deno.build.os === "linux" ? "vulkan" : Deno.build.os),
    limits: [limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupStorageSize],
    candidates: hashOf(JSON.stringify(candidates)),
  });
}

/** Name of the file for a key: readable, and another one for another key. */
export function tuningFile(device: Gpu, key: string): string {
  const slug = device.name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${slug}-${hashOf(key)}.json`;
}

const hashOf = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 16);

/** The configuration chosen for each kernel. */
export function choicesOf(kernels: readonly TunedKernel[]): Choices {
  return new Map(kernels.map(({ name, chosen }) => [name, chosen]));
}

type Kept = Pick<Tuning, "seconds" | "kernels" | "left">;

/** The file's text. */
export function textOf({ seconds, kernels, left }: Kept, key: string): string {
  return JSON.stringify({ key, seconds, kernels, left }, null, 1) + "\n";
}

/** A kept file's tuning; undefined for one that is damaged or was made for something else. */
export function parseTuning(text: string | undefined, key: string): Tuning | undefined {
  try {
    const kept = JSON.parse(text ?? "") as Kept & { key: string };
    const whole = kept.key === key && typeof kept.seconds === "number" && Array.isArray(kept.left) &&
      kept.kernels.every(({ name, chosen, measured }) =>
        typeof name === "string" && measured.some(({ candidate }) => candidate === chosen)
      );
    if (!whole) return undefined;
    const { seconds, kernels, left } = kept;
    return { choices: choicesOf(kernels), from: "store", seconds, kernels, left };
  } catch {
    return undefined; // not there, or damaged: measured again
  }
}
