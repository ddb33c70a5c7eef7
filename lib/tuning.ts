/**
 * Which kernels are tuned, where their choices are kept, and when: the commands tune on the first use of an adapter, a
 * library's user calls {@link tune}, CI and tests go by the rules alone.
 * @module
 */
import { join } from "@std/path";
import { makeOutputFolder, writeText } from "./formats/mod.ts";
import {
  environment,
  gpu,
  openGpu,
  storedTuning,
  type Tunable,
  tuneDevice,
  type TuneStore,
  type Tuning,
  tuningOff,
} from "./gpu/mod.ts";
import { nibbleCache } from "./hub/mod.ts";
import { quantizedTunables } from "./quant/mod.ts";
import { matmulTunables } from "./tensor/ops/matmul_tuning.ts";
import { VERSION } from "./version.ts";

/** Every kernel that is tuned, those that count for most first: time may run out. */
export function tunables(options: { f16?: boolean | undefined } = {}): Tunable[] {
  return [...matmulTunables(options), ...quantizedTunables()];
}

/** Options of {@link tune}. */
export interface TuneOptions {
  /** Measure again, whatever was measured before. */
  redo?: boolean;
  /**
   * Let tiles take part that hold operands of matrix products in 16 bits (`NIBBLE_TUNE=f16` for the commands). They
   * may be faster where the adapter has `shader-f16`, and they round: each operand to 11 bits, and above 65,504 to
   * infinity. Default false: choices then change speed alone.
   */
  f16?: boolean;
  /** Seconds that measuring may take; default 18. */
  seconds?: number;
  /** Called before each kernel is measured, and with `done == total` at the end. */
  onProgress?: (name: string, done: number, total: number) => void;
  /** Called with one sentence where choices cannot be kept. */
  onNote?: (note: string) => void;
}

/**
 * Measures which configurations of the kernels are fastest on this adapter, or takes what was measured before (from
 * nibble's cache folder, `tuning/`), and uses them from then on. A WebGPU adapter tells no driver's version: measure
 * again (`redo`) after an update.
 *
 * @returns what was found; undefined where `NIBBLE_TUNE=off` or `CI` forbids tuning, and the rules decide
 * @throws NibbleError `gpu/no-adapter`, `gpu/lost`
 * @example
 * ```ts
 * import { tune } from "./tuning.ts";
 * Deno.env.set("NIBBLE_TUNE", "off"); // as in CI: the same kernels everywhere
 * if (await tune() !== undefined) throw new Error("nothing was measured");
 * Deno.env.delete("NIBBLE_TUNE");
 * ```
 */
export async function tune(options: TuneOptions = {}): Promise<Tuning | undefined> {
  await openGpu();
  if (tuningOff()) return undefined;
  const { redo, f16, seconds, onProgress, onNote } = options;
  return await tuneDevice(gpu(), tunables({ f16 }), {
    version: VERSION,
    store: tuneStore(onNote),
    ...(redo === undefined ? {} : { redo }),
    ...(seconds === undefined ? {} : { seconds }),
    ...(onProgress ? { onProgress } : {}),
  });
}

/** Whether `NIBBLE_TUNE=f16` lets tiles in 16 bits take part. */
const withF16 = () => environment("NIBBLE_TUNE") === "f16";

/**
 * {@link tune} as the commands do it: on the first use of an adapter and when asked to, told on stderr.
 *
 * @param redo measure again, and say why not where that is forbidden
 */
export async function tuneForCommand(redo: boolean): Promise<void> {
  const forbidden = tuningOff();
  if (forbidden) {
    if (redo) console.error(`[tune] not measured: ${forbidden}`);
    return;
  }
  const terminal = Deno.stderr.isTerminal(), encoder = new TextEncoder();
  let measuring = false;
  const tuning = await tune({
    redo,
    f16: withF16(),
    onNote: (note) => console.error(`[tune] ${note}`),
    onProgress(name, done, total) {
      if (!measuring) {
        console.error(`[tune] measuring ${total} kernels on ${gpu().name}, once, in under 20 s`);
      }
      measuring = true;
      const line = done < total ? `[tune] ${name} ${done + 1}/${total} ...` : "";
      if (terminal) Deno.stderr.writeSync(encoder.encode(`\r\x1b[K${line}`));
    },
  });
  if (tuning?.from === "measurement") console.error(`[tune] ${describeTuning(tuning)}`);
}

/** What came of tuning, in a sentence. */
export function describeTuning({ kernels, left, seconds }: Tuning): string {
  const other = kernels.filter(({ chosen, measured }) => chosen !== measured[0]!.candidate).length;
  const rest = left.length > 0 ? `; no time was left for ${left.length}` : "";
  return `${kernels.length} kernels measured in ${
    seconds.toFixed(1)
  } s, ${other} faster than by the rule${rest}`;
}

/** Puts what was measured before on the open device, where tuning is not forbidden; nothing is measured. */
export function useKnownTuning(): Tuning | undefined {
  if (tuningOff()) return undefined;
  const options = { version: VERSION, store: tuneStore() };
  const known = storedTuning(gpu(), tunables({ f16: withF16() }), options);
  if (known) gpu().choices = known.choices;
  return known;
}

/** What the doctor says of it, a line a kernel: configuration, time, and how many times the portable one's speed. */
export function describeKnown(known: Tuning | undefined): string {
  const line = (name: string, text: string) => `${name.padEnd(20)}${text}`;
  const off = tuningOff();
  if (off) return line("tuned", `no: ${off}`);
  if (!known) return line("tuned", "not yet: training and chat measure on their first run");
  const rows = known.kernels.map(({ name, chosen, measured }) => {
    const time = (candidate: string) => measured.find((m) => m.candidate === candidate)!.ms;
    const portable = measured[0]!.candidate, ms = time(chosen), before = time(portable);
    const gain = chosen !== portable && ms && before ? `, ${(before / ms).toFixed(2)} x ${portable}` : "";
    const problems = measured.flatMap((m) => m.problem ? [`; ${m.candidate}: ${m.problem}`] : []);
    return line(`  ${name}`, [chosen, ms ? `, ${ms.toFixed(3)} ms` : "", gain, ...problems].join(""));
  });
  return [line("tuned", describeTuning(known)), ...rows].join("\n");
}

/** Files in nibble's cache folder, each whole or not there. */
function tuneStore(note: (text: string) => void = () => {}): TuneStore {
  const folder = join(nibbleCache(), "tuning");
  return {
    read(file) {
      try {
        return Deno.readTextFileSync(join(folder, file));
      } catch {
        return undefined; // measured for the first time
      }
    },
    write(file, text) {
      try {
        makeOutputFolder(folder);
        writeText(join(folder, file), text);
      } catch (error) {
        note(`The tuning cannot be kept, so the next run measures again: ${(error as Error).message}`);
      }
    },
  };
}
