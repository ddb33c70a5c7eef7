/**
 * One run of a recipe beside its plan: device bytes by kind, and the host's memory while it lasts.
 * @module
 */
import { BUFFER_KINDS, type MemoryReport, mib } from "../lib/gpu/mod.ts";
import { readRecipe } from "../lib/recipe/mod.ts";
import { planRecipe, type RecipePlan } from "../lib/train/plan_recipe.ts";
import { createReporter } from "../lib/train/progress.ts";
import { train, type TrainResult } from "../lib/train/run.ts";

/** What a run took. */
export interface Measured {
  plan: RecipePlan;
  result: TrainResult;
  /** Most bytes of anonymous memory that the process held, its threads' and the software adapter's together. */
  hostBytes: number;
}

/** Plans and runs a recipe, a path in the repository, with overrides; its output folder is removed after. */
export async function measureRun(recipe: string, overrides: readonly string[]): Promise<Measured> {
  const output = Deno.makeTempDirSync({ prefix: "nibble_memory_" });
  const path = new URL(`../${recipe}`, import.meta.url).pathname;
  const { settings } = readRecipe(path, [...overrides, `--output_dir=${output}`]);
  try {
    const plan = await planRecipe(settings);
    const host = watchHost();
    const result = await train(settings, { reporter: createReporter() });
    return { plan, result, hostBytes: host.stop() };
  } finally {
    Deno.removeSync(output, { recursive: true });
  }
}

/** Anonymous bytes of this process (Linux), which leave the file cache out; 0 elsewhere. */
export function anonymousBytes(): number {
  try {
    const status = Deno.readTextFileSync("/proc/self/status");
    return 1024 * Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** Samples {@link anonymousBytes} until stopped; the event loop stands still in long submits, which a worker does not. */
export function watchHost(): { stop(): number } {
  const code = `
    ${anonymousBytes}
    let most = 0;
    self.onmessage = ({ data }) => {
      const shared = new BigInt64Array(data);
      setInterval(() => shared[0] = BigInt(most = Math.max(most, anonymousBytes())), 50);
    };
  `;
  const buffer = new SharedArrayBuffer(8);
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(code)}`, { type: "module" });
  worker.postMessage(buffer);
  return {
    stop() {
      worker.terminate();
      return Math.max(Number(new BigInt64Array(buffer)[0]), anonymousBytes());
    },
  };
}

/** Rows of a Markdown table: planned, held and their ratio for every kind, and for all that the pool holds. */
export function tableRows(name: string, plan: MemoryReport, run: MemoryReport): string[] {
  const row = (kind: string, planned: number, held: number) =>
    `| ${name} | ${kind} | ${mib(planned)} | ${mib(held)} | ${(100 * (held / planned - 1)).toFixed(1)} % |`;
  return [
    ...BUFFER_KINDS.filter((kind) => plan.atPeak[kind] + run.atPeak[kind] > 0)
      .map((kind) => row(kind, plan.atPeak[kind], run.atPeak[kind])),
    row("**together**", plan.peakBytes, run.peakBytes),
    row("with what waits for reuse", plan.heldPeakBytes, run.heldPeakBytes),
  ];
}

/** The head of {@link tableRows}. */
export const TABLE_HEAD = [
  "| run | kind | plan | device, at its peak | difference |",
  "| --- | --- | ---: | ---: | ---: |",
];
