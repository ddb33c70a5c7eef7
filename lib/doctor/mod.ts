/**
 * The doctor: what the machine's adapter can do, whether the kernels compute what they should there, and advice.
 * @module
 */
import { adapterKind, environment, type Gpu, gpu, mib } from "../gpu/mod.ts";
import { scope } from "../tensor/tensor.ts";
import { type Check, CHECKS, type Compared } from "./checks.ts";

export { type Check, CHECKS, type Compared } from "./checks.ts";

/** What became of one check. */
export interface CheckResult {
  name: string;
  ok: boolean;
  /** Largest absolute error; NaN when there are no numbers to compare. */
  maxError: number;
  tolerance: number;
  /** Why there are no numbers: the error's message. */
  problem?: string;
  seconds: number;
}

/**
 * Runs checks one after the other. One that throws, or whose kernel the device refuses, counts as failed; the rest
 * go on.
 */
export async function runChecks(checks: readonly Check[] = CHECKS): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const check of checks) {
    const { name, tolerance } = check;
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    try {
      const maxError = await errorOf(check);
      // NaN is above every tolerance
      results.push({ name, tolerance, maxError, ok: maxError <= tolerance, seconds: seconds() });
    } catch (error) {
      const problem = (error as Error).message;
      results.push({ name, tolerance, maxError: NaN, ok: false, problem, seconds: seconds() });
    }
  }
  return results;
}

async function errorOf(check: Check): Promise<number> {
  const { read, compare } = scope(() => check.build());
  try {
    const { stream } = gpu();
    const parts = await stream.read(
      read.map((t) => ({ buffer: t.buffer, offset: t.offset, bytes: t.bytes })),
    );
    gpu().check();
    return largestError(compare(parts.map((bytes) => new Float32Array(bytes))));
  } finally {
    for (const t of read) t.dispose();
  }
}

/** Largest `|got - want|`; Infinity for a number that is not finite, or for another count. */
function largestError({ got, want }: Compared): number {
  if (got.length !== want.length || got.length === 0) return Infinity;
  let most = 0;
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (!Number.isFinite(error)) return Infinity;
    most = Math.max(most, error);
  }
  return most;
}

/** Results as a table, one line a check. */
export function checkTable(results: readonly CheckResult[]): string {
  const width = Math.max(...results.map((r) => r.name.length));
  return results.map((r) => {
    const numbers = r.problem === undefined
      ? `error ${r.maxError.toExponential(1)}, at most ${r.tolerance.toExponential(1)}`
      : r.problem.split("\n")[0];
    return `${r.ok ? "ok  " : "FAIL"}  ${r.name.padEnd(width)}  ${numbers}`;
  }).join("\n");
}

/** Environment variables that choose an adapter. */
const VARIABLES = [
  "DENO_WEBGPU_BACKEND",
  "VK_DRIVER_FILES",
  "VK_ICD_FILENAMES",
  "LD_LIBRARY_PATH",
  "XDG_RUNTIME_DIR",
  "MESA_VK_DEVICE_SELECT",
];

/** What the device is and offers, as lines. */
export function describeDevice(device: Gpu): string {
  const { limits, features } = device;
  const line = (name: string, text: string | number) => `${name.padEnd(20)}${text}`;
  const set = VARIABLES.flatMap((name) => {
    const value = environment(name);
    return value ? [line("  environment", `${name}=${value}`)] : [];
  });
  return [
    line("adapter", device.name),
    line("  vendor", device.vendor || "not told"),
    ...Object.entries(features).map(([name, there]) => line(`  ${name}`, there ? "works" : "no")),
    line("  largest buffer", mib(limits.maxBufferSize)),
    line("  largest binding", mib(limits.maxStorageBufferBindingSize)),
    line("  bindings a stage", limits.maxStorageBuffersPerShaderStage),
    line(
      "  workgroup",
      `${limits.maxComputeInvocationsPerWorkgroup} invocations, ${
        limits.maxComputeWorkgroupStorageSize / 1024
      } KiB`,
    ),
    ...(set.length > 0 ? set : [line("  environment", "no variable chooses an adapter")]),
    line("Deno", `${Deno.version.deno}, V8 ${Deno.version.v8}, ${Deno.build.target}`),
  ].join("\n");
}

/** What the user should know or do, one sentence each. */
export function adviceFor(device: Gpu, results: readonly CheckResult[]): string[] {
  const advice: string[] = [];
  const failed = results.filter((r) => !r.ok).length;
  if (failed > 0) {
    advice.push(
      `${failed} of ${results.length} kernels are wrong on this adapter: do not train on it. Update its driver, or try ` +
        "another backend (DENO_WEBGPU_BACKEND=vulkan, metal, dx12 or gl), and report this table.",
    );
  }
  if (adapterKind(device) !== "gpu") {
    advice.push(
      "This adapter is software: everything works, at the speed of the processor. Models up to some 150 M parameters " +
        "are practical; a GPU with a Vulkan, Metal or Direct3D 12 driver is far faster.",
    );
  }
  if (adapterKind(device) === "swiftshader") {
    advice.push(
      "llvmpipe, from Mesa, is the faster one in software: apt-get install mesa-vulkan-drivers (as root).",
    );
  }
  if (device.limits.maxStorageBufferBindingSize <= 128 * 2 ** 20) {
    advice.push(
      "Bindings are small here; larger tensors are walked in ranges of rows, which costs a little time.",
    );
  }
  if (!device.features.timestamps) advice.push("No timestamp queries: profiles show no times by kernel.");
  if (advice.length === 0) advice.push("All is well.");
  return advice;
}
