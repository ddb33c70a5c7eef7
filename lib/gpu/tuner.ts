/**
 * The tuner: measures the configurations of kernels on the user's adapter, once, and keeps what was fastest in a file.
 *
 * To have a kernel tuned, describe it as a {@link Tunable} and put that into the list of `lib/tuning.ts`; where it is
 * launched, ask for the choice, and go by a rule where there is none:
 *
 * ```ts ignore
 * const configuration = gpu().choices.get("nf4_matmul.nt.large") ?? ruleFor(piece);
 * ```
 *
 * Without a tuned adapter (in CI, in tests, for a library's user who did not ask) `choices` is empty and the rule alone
 * decides, so the same seed gives the same bits. A choice holds for all that goes by its name: look whether the work at
 * hand fits it (alignment, size) before taking it.
 * @module
 */
import { type Gpu, withGpu } from "./device.ts";
import type { BufferRange } from "./kernel.ts";
import { timeEach } from "./profile.ts";
import { choicesOf, parseTuning, textOf, tuningFile, tuningKey } from "./tuning_file.ts";

/** A kernel, at one class of works, that can run in several configurations. */
export interface Tunable {
  /** Unique: the choice is filed under it. Kernel, then class, such as `matmul.nt.large`. */
  readonly name: string;
  /**
   * Configurations that this device can run, by name. The first is the portable one: what the others compute is
   * compared with what it computes, and it wins where they are equally fast.
   */
  candidates(device: Gpu): readonly string[];
  /** Makes the inputs of a typical work, well below 0.5 s for any configuration on any adapter. */
  probe(device: Gpu): Probe;
}

/** A work to try configurations on. */
export interface Probe {
  /** Launches the work once. */
  run(candidate: string): void;
  /** What it computes, in f32. Cleared before each configuration's first run. */
  readonly result: BufferRange;
  /** Largest difference from the first configuration's result that rounding explains. */
  tolerance(candidate: string): number;
  /** Floating-point operations of a run, for tables. */
  readonly flops: number;
  /** Gives the inputs back. */
  dispose(): void;
}

/** Configurations by the name of their {@link Tunable}. */
export type Choices = ReadonlyMap<string, string>;

/** Where choices are kept: texts by file name. Neither function throws. */
export interface TuneStore {
  read(file: string): string | undefined;
  write(file: string, text: string): void;
}

/** Milliseconds of each of several works. */
export type Clock = (works: readonly (() => void)[]) => Promise<number[]>;

/** Options of {@link tuneDevice}. */
export interface TuneDeviceOptions {
  /** nibble's version: another one measures again. */
  version: string;
  /** Without one everything is measured and nothing kept. */
  store?: TuneStore;
  /** Measure again whatever the store holds. */
  redo?: boolean;
  /** Seconds after which nothing more is measured, and the rule keeps deciding; default 18. */
  seconds?: number;
  /** Called before each kernel is measured, and with `done == total` at the end. */
  onProgress?: (name: string, done: number, total: number) => void;
  /** Default {@link deviceClock}. */
  clock?: Clock;
  /** Milliseconds; default `performance.now`. */
  now?: () => number;
}

/** What one configuration came to. */
export interface Measured {
  candidate: string;
  /** Milliseconds of a run. */
  ms?: number;
  /** In place of them: why it was left out: the device refused it, or it computed something else. */
  problem?: string;
}

/** What was measured for one kernel, and its work. */
export interface TunedKernel {
  name: string;
  flops: number;
  chosen: string;
  measured: Measured[];
}

/** What {@link tuneDevice} found. */
export interface Tuning {
  /** Also in the device's `choices`. */
  choices: Choices;
  /** The store knew them, or they were measured now. */
  from: "store" | "measurement";
  /** Seconds that measuring took, now or then. */
  seconds: number;
  kernels: readonly TunedKernel[];
  /** Kernels that no time was left for, or of which no configuration works: the rule decides about them. */
  left: readonly string[];
}

/**
 * What a configuration may take of the first one's time at most to be chosen, in all rounds but one: noise alone seldom
 * gives that, and leaves it at the portable one.
 */
const ADVANTAGE = 0.97;
/** Milliseconds that a configuration runs for in a round. */
const ROUND = 12;
const ROUNDS = 5;

/**
 * Chooses a configuration for each kernel, from the store or by measuring, and puts the choices on the device.
 *
 * A configuration that the device refuses, or whose result is not that of the first, is left out.
 *
 * @throws NibbleError `gpu/lost` when a configuration brings the device down
 */
export async function tuneDevice(
  device: Gpu,
  tunables: readonly Tunable[],
  options: TuneDeviceOptions,
): Promise<Tuning> {
  const key = tuningKey(device, tunables, options.version);
  const file = tuningFile(device, key);
  const kept = options.redo ? undefined : parseTuning(options.store?.read(file), key);
  const tuning = kept ?? await withGpu(device, () => measure(device, tunables, options));
  if (!kept) options.store?.write(file, textOf(tuning, key));
  device.choices = tuning.choices;
  return tuning;
}

/** Choices that the store holds for this device, or undefined; nothing is measured. */
export function storedTuning(
  device: Gpu,
  tunables: readonly Tunable[],
  options: Pick<TuneDeviceOptions, "version" | "store">,
): Tuning | undefined {
  const key = tuningKey(device, tunables, options.version);
  return parseTuning(options.store?.read(tuningFile(device, key)), key);
}

async function measure(
  device: Gpu,
  tunables: readonly Tunable[],
  options: TuneDeviceOptions,
): Promise<Tuning> {
  const { seconds = 18, onProgress, now = () => performance.now() } = options;
  const clock = options.clock ?? await deviceClock(device);
  const began = now();
  const late = () => now() - began > 1000 * seconds;
  const kernels: TunedKernel[] = [], left: string[] = [];
  for (const [i, tunable] of tunables.entries()) {
    onProgress?.(tunable.name, i, tunables.length);
    const kernel = late() ? undefined : await measureOne(device, tunable, clock, late);
    if (kernel) kernels.push(kernel);
    else left.push(tunable.name);
  }
  device.pool.trim();
  onProgress?.("", tunables.length, tunables.length);
  return {
    ...{ choices: choicesOf(kernels), from: "measurement", seconds: (now() - began) / 1000 },
    ...{ kernels, left },
  };
}

/** One kernel's configurations; undefined when time is up before all were tried, or none works. */
async function measureOne(
  device: Gpu,
  tunable: Tunable,
  clock: Clock,
  late: () => boolean,
): Promise<TunedKernel | undefined> {
  const probe = tunable.probe(device);
  try {
    const measured: Measured[] = [];
    let want: Float32Array | undefined;
    for (const candidate of tunable.candidates(device)) {
      if (late()) return undefined;
      const first = await firstRun(device, probe, candidate, want);
      if (first.problem === undefined) want ??= first.got;
      measured.push({ candidate, ...(first.problem ? { problem: first.problem } : {}) });
    }
    const running = measured.filter(({ problem }) => problem === undefined);
    if (running.length === 0) return undefined;
    const { least, ratios } = await timeInTurns(
      probe,
      running.map(({ candidate }) => candidate),
      clock,
      late,
    );
    for (const [i, m] of running.entries()) if (Number.isFinite(least[i])) m.ms = least[i]!;
    const chosen = running[convincing(ratios)]!.candidate;
    return { name: tunable.name, flops: probe.flops, chosen, measured };
  } finally {
    probe.dispose();
  }
}

/** Compiles and runs a configuration once, and holds its result against the first one's. */
async function firstRun(
  device: Gpu,
  probe: Probe,
  candidate: string,
  want: Float32Array | undefined,
): Promise<{ got?: Float32Array; problem?: string }> {
  const { buffer, offset = 0, bytes = buffer.size - offset } = probe.result;
  device.stream.clear(buffer, offset, bytes);
  try {
    probe.run(candidate);
    const [read] = await device.stream.read([{ buffer, offset, bytes }]);
    const got = new Float32Array(read!);
    const error = want ? largestDifference(got, want) : 0;
    if (error <= probe.tolerance(candidate)) return { got };
    return { problem: `wrong by ${error.toExponential(1)}` };
  } catch (error) {
    // what else the device has to say of the same launch
    for (let more: unknown = error; more !== undefined; more = complaint(device)) {
      if ((more as { code?: string }).code === "gpu/lost") throw more;
    }
    return { problem: `refused: ${(error as Error).message.split("\n").at(-1)!.trim()}` };
  }
}

function complaint(device: Gpu): unknown {
  try {
    device.check();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** NaN where one of them is; no tolerance is above that. */
function largestDifference(a: Float32Array, b: Float32Array): number {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
  return most;
}

/**
 * Times configurations in rounds, in turns, so that what else the machine does falls on all alike.
 *
 * @returns by configuration: the least time of a run, and its time over that of the first one in each round
 */
async function timeInTurns(
  probe: Probe,
  candidates: readonly string[],
  clock: Clock,
  late: () => boolean,
): Promise<{ least: number[]; ratios: number[][] }> {
  // a clock that stands still or runs backwards tells nothing
  const sane = (ms: number) => ms > 0 ? ms : Infinity;
  const least = (await clock(candidates.map((candidate) => () => probe.run(candidate)))).map(sane);
  const ratios = candidates.map((): number[] => []);
  // those far behind are measured well enough
  const most = 3 * Math.min(...least);
  const near = candidates.map((_, i) => i).filter((i) => i === 0 || least[i]! <= most);
  for (let round = 0; round < ROUNDS && near.length > 1 && !late(); round++) {
    const repeats = near.map((i) => Math.max(1, Math.min(20, Math.round(ROUND / Math.max(least[i]!, 0.01)))));
    const took = await clock(near.map((i, at) => () => {
      for (let n = 0; n < repeats[at]!; n++) probe.run(candidates[i]!);
    }));
    const times = took.map((ms, at) => sane(ms / repeats[at]!));
    for (const [at, i] of near.entries()) {
      least[i] = Math.min(least[i]!, times[at]!);
      ratios[i]!.push(Number.isFinite(times[at]) ? times[at]! / times[0]! : Infinity);
    }
  }
  return { least, ratios };
}

/** The configuration with the lowest median ratio among those that beat the first in all rounds but one, or the first. */
function convincing(ratios: readonly (readonly number[])[]): number {
  const sorted = ratios.map((own) => [...own].sort((a, b) => a - b));
  const median = (i: number) => sorted[i]![sorted[i]!.length >> 1] ?? 1;
  const beats = (own: number[]) => own.length > 0 && own[Math.max(0, own.length - 2)]! < ADVANTAGE;
  return sorted.reduce((best, own, i) => beats(own) && median(i) < median(best) ? i : best, 0);
}

/** Times works by timestamps where the adapter has them, else by waiting for them, what an empty wait takes taken off. */
export async function deviceClock(device: Gpu): Promise<Clock> {
  if (device.features.timestamps) return (works) => timeEach(device, works);
  const wait = async (work: () => void) => {
    const began = performance.now();
    work();
    await device.stream.fence();
    return performance.now() - began;
  };
  let idle = Infinity;
  for (let i = 0; i < 5; i++) idle = Math.min(idle, await wait(() => {}));
  return async (works) => {
    const times: number[] = [];
    for (const work of works) times.push(Math.max(1e-3, await wait(work) - idle));
    return times;
  };
}
