/**
 * Which kernels are tuned, where their choices are kept, and when: the commands tune on the first use of an adapter, a
 * library's user calls {@link tune}, CI and tests go by the rules alone.
 * @module
 */
import { join } from "@std/path";
import { makeOutputFolder, writeText } from "./formats/mod.ts";
import {
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
import { matmulTunables } from "./tensor/ops/matmul_tuning.ts";
import { VERSION } from "./version.ts";

/** Every kernel that is tuned, those that count for most first: time may run out. */
export function tunables(options: { f16?: boolean | undefined } = {}): Tunable[] {
  return [...matmulTunables(options)];
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
 * Measures which configurations of the kernels are fastest on this adapter, or takes what was measured before (nibble's
 * cache folder, `tuning/`), and uses them from then on.
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

/** What was measured before on the open device, or undefined; nothing is measured. */
export function knownTuning(options: Pick<TuneOptions, "f16"> = {}): Tuning | undefined {
  return storedTuning(gpu(), tunables(options), { version: VERSION, store: tuneStore() });
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
