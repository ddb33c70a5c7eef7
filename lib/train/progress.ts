/**
 * What a run tells while it runs: a line per logging interval, a moving line in a terminal, a log in JSON lines.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { readTextIfThere, writeText } from "../formats/file.ts";

/** Figures of one line. What is not known is left out of it. */
export interface Progress {
  /** Optimizer steps done, and of how many. */
  step: number;
  maxSteps: number;
  /** What is going on, where that is no optimizer step: its share done is shown then. */
  what?: string;
  /** Mean training loss since the last line, nats a token. */
  loss?: number;
  /** Learning rate of this step. */
  learningRate?: number;
  /** Global norm of the gradient before clipping. */
  gradNorm?: number;
  /** Tokens trained on each second. */
  tokensPerSecond?: number;
  /** Device memory in use, bytes. */
  deviceBytes?: number;
  /** Seconds to go. */
  secondsLeft?: number;
}

/** Where lines go. */
export interface Screen {
  write(text: string): void;
  /** Whether a line can be written over. */
  isTerminal: boolean;
  /** Characters in a row. */
  columns(): number;
}

/** The console of a run. */
export interface Reporter {
  /** Show where we are in the moving line; nothing where there is no terminal. */
  step(progress: Progress): void;
  /** Write a lasting line of figures. */
  log(progress: Progress): void;
  /** Write a lasting line of any text. */
  note(text: string): void;
  /** Take the moving line away. */
  done(): void;
}

/**
 * One line of figures.
 *
 * @example
 * ```ts
 * import { progressLine } from "./progress.ts";
 * const line = progressLine({ step: 12, maxSteps: 40, loss: 3.4123, learningRate: 9.8e-4, secondsLeft: 130 });
 * if (line !== "step 12/40  loss 3.412  lr 9.8e-4  ETA 2m10s") throw new Error(line);
 * ```
 */
export function progressLine(p: Progress): string {
  const parts = [
    p.what
      ? `${p.what} ${Math.floor(100 * p.step / p.maxSteps)} %`
      : `step ${String(p.step).padStart(String(p.maxSteps).length)}/${p.maxSteps}`,
  ];
  if (p.loss !== undefined) parts.push(`loss ${p.loss.toFixed(3)}`);
  if (p.learningRate !== undefined) parts.push(`lr ${formatRate(p.learningRate)}`);
  if (p.gradNorm !== undefined) parts.push(`norm ${p.gradNorm.toFixed(2)}`);
  if (p.tokensPerSecond !== undefined) parts.push(`tok/s ${formatCount(p.tokensPerSecond)}`);
  if (p.deviceBytes !== undefined) parts.push(`mem ${formatBytes(p.deviceBytes)}`);
  if (p.secondsLeft !== undefined) parts.push(`ETA ${formatDuration(p.secondsLeft)}`);
  return parts.join("  ");
}

/** A time in seconds as people say it: `0.4s`, `42s`, `2m10s`, `1h02m`, `1d03h`; `?` when it is not known. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`;
  // Rounded once, to the smaller unit shown, so that no part ever reads 60.
  const s = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
  const hours = Math.round(seconds / 3600);
  return `${Math.floor(hours / 24)}d${two(hours % 24)}h`;
}

/** Bytes in MiB or GiB, three figures: `312 MiB`, `4.5 MiB`, `1.31 GiB`. */
export function formatBytes(bytes: number): string {
  const mib = bytes / 2 ** 20;
  if (mib >= 1023.5) return `${(mib / 1024).toFixed(mib < 10240 ? 2 : 1)} GiB`;
  return `${mib.toFixed(mib < 9.95 ? 1 : 0)} MiB`;
}

/**
 * Seconds left at the pace so far, or NaN when there is none yet.
 *
 * @param step steps done of `maxSteps`
 * @param seconds what the last `timed` steps took; the first step, which compiles kernels, is best left out
 *
 * @example
 * ```ts
 * import { etaOf } from "./progress.ts";
 * // Resumed at step 20, ten steps done since in 5 seconds, ten to go.
 * if (etaOf(30, 40, 5, 10) !== 5) throw new Error("half a second a step");
 * ```
 */
export function etaOf(step: number, maxSteps: number, seconds: number, timed: number = step): number {
  if (step >= maxSteps) return 0;
  return timed > 0 ? (maxSteps - step) * seconds / timed : NaN;
}

/**
 * A callback for work that counts what is done: moves the reporter's line ten times a second, and takes it away in the
 * end.
 */
export function progressOf(
  reporter: Pick<Reporter, "step" | "done">,
  what: string,
  clock: () => number = () => performance.now(),
): (done: number, total: number) => void {
  const started = clock();
  let last = -Infinity;
  return (step, maxSteps) => {
    const now = clock();
    if (step >= maxSteps) return reporter.done();
    if (now - last < 100) return;
    last = now;
    reporter.step({ what, step, maxSteps, secondsLeft: etaOf(step, maxSteps, (now - started) / 1000) });
  };
}

/**
 * The terminal's console: lasting lines go to stdout, the moving line to stderr where that is a terminal.
 *
 * @param out where lasting lines go; stdout unless given
 * @param live where the moving line goes; stderr unless given
 */
export function createReporter(
  out: Screen = screenOf(Deno.stdout),
  live: Screen = screenOf(Deno.stderr),
): Reporter {
  let shown = false;
  const clear = () => {
    if (shown) live.write("\r\x1b[2K");
    shown = false;
  };
  const line = (text: string) => {
    clear();
    out.write(`${text}\n`);
  };
  return {
    step(progress) {
      if (!live.isTerminal) return;
      clear();
      const { step, maxSteps } = progress;
      // A line that fills the last column wraps in some terminals, and a wrapped line cannot be cleared.
      live.write(
        `${bar(step / maxSteps, 16)} ${progressLine(progress)}`.slice(0, Math.max(1, live.columns() - 1)),
      );
      shown = true;
    },
    log: (progress) => line(progressLine(progress)),
    note: line,
    done: clear,
  };
}

/** A log in JSON lines. */
export interface JsonLog {
  /** Add one object as one line. Numbers that are not finite become null. */
  write(entry: Record<string, unknown>): void;
  close(): void;
}

/**
 * Open a log of JSON lines to add to. A last line that a crash cut short is dropped.
 *
 * @param keepThrough when resuming from a checkpoint: entries with a later `step` are dropped, since they will be
 *   written again; -1 starts the log afresh
 * @throws NibbleError `train/cannot-write`
 *
 * @example
 * ```ts
 * import { openJsonLog } from "./progress.ts";
 * const folder = await Deno.makeTempDir();
 * const log = openJsonLog(`${folder}/logs.jsonl`);
 * log.write({ step: 10, loss: 3.41 });
 * log.close();
 * if (await Deno.readTextFile(`${folder}/logs.jsonl`) !== '{"step":10,"loss":3.41}\n') throw new Error("one line");
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function openJsonLog(path: string, keepThrough = Infinity): JsonLog {
  const before = readTextIfThere(path) ?? "";
  const kept = before.split("\n").filter((text) => stays(text, keepThrough)).map((text) => `${text}\n`).join(
    "",
  );
  if (kept !== before) writeText(path, kept);
  let file: Deno.FsFile | undefined;
  const guarded = (act: () => void) => {
    try {
      act();
    } catch (cause) {
      throw new NibbleError(
        "train/cannot-write",
        `Cannot write the log: ${cause instanceof Error ? cause.message : cause}`,
        {
          where: path,
          remedy: "Check that the folder exists, may be written, and has space left.",
          cause,
        },
      );
    }
  };
  guarded(() => file = Deno.openSync(path, { append: true, create: true }));
  return {
    write(entry) {
      const bytes = new TextEncoder().encode(`${JSON.stringify(entry)}\n`);
      guarded(() => {
        for (let done = 0; done < bytes.length;) done += file!.writeSync(bytes.subarray(done));
      });
    },
    close() {
      file?.close();
      file = undefined;
    },
  };
}

/** Whether a line of an earlier log is whole and not past the step that is gone back to. */
function stays(text: string, keepThrough: number): boolean {
  if (text.trim() === "") return false;
  try {
    const step = (JSON.parse(text) as { step?: unknown } | null)?.step;
    return typeof step === "number" ? step <= keepThrough : keepThrough >= 0;
  } catch {
    return false;
  }
}

function screenOf(stream: typeof Deno.stdout | typeof Deno.stderr): Screen {
  return {
    write(text) {
      const bytes = new TextEncoder().encode(text);
      for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
    },
    isTerminal: stream.isTerminal(),
    columns() {
      try {
        return Deno.consoleSize().columns || 80;
      } catch {
        return 80; // a terminal that does not say
      }
    },
  };
}

/** `[=====>    ]`: plain characters, since not every font has blocks. */
function bar(share: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share || 0)) * width);
  return `[${"=".repeat(full)}${full < width ? ">".padEnd(width - full) : ""}]`;
}

/** `9.8e-4`, and plain `0`. */
function formatRate(rate: number): string {
  return rate === 0 ? "0" : rate.toExponential(1);
}

/** Three figures: `0.52`, `8.1`, `61`, `1234`. */
function formatCount(n: number): string {
  return n.toFixed(n < 1 ? 2 : n < 10 ? 1 : 0);
}
