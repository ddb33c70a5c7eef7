/**
 * Ctrl-C that keeps what was learned.
 * @module
 */

/** A wish to stop, and the way to stop listening for one. */
export interface Interrupt {
  /** Aborted at the first Ctrl-C. The loop looks at it between steps. */
  readonly signal: AbortSignal;
  /** Give the keys back. Twice is harmless. */
  dispose(): void;
}

/** Options of {@link stopOnInterrupt}. */
export interface InterruptOptions {
  /** Where the message goes; stderr unless given. */
  say?: (text: string) => void;
  /** How to leave at the second Ctrl-C; `Deno.exit` unless given. */
  exit?: (code: number) => void;
  /** Milliseconds since some start, for the clock that tells two signals from one; tests set it. */
  now?: () => number;
}

/** What the first Ctrl-C says. */
export const INTERRUPT_MESSAGE =
  "Stopping: a step in progress ends and is saved. Press Ctrl-C again to quit at once.";

/**
 * One key press reaches us twice within milliseconds when a parent such as `deno task` or `npx` passes the signal on
 * that the terminal sent to the whole group. Signals this close (in ms) count as one.
 */
export const SAME_PRESS_MS = 500;

/**
 * Listen for SIGINT (Ctrl-C) and SIGTERM: the first aborts the signal gently, the second ends the process with exit
 * status 130 at once. While the device keeps the thread busy a signal waits; it is heard between two slices of work.
 *
 * @example
 * ```ts
 * import { stopOnInterrupt } from "./signals.ts";
 * const interrupt = stopOnInterrupt();
 * try {
 *   for (let step = 0; step < 3 && !interrupt.signal.aborted; step++) {
 *     await Promise.resolve(); // train one step
 *   }
 * } finally {
 *   interrupt.dispose();
 * }
 * ```
 */
export function stopOnInterrupt(options: InterruptOptions = {}): Interrupt {
  const { say = (text) => console.error(text), exit = Deno.exit, now = () => performance.now() } = options;
  const controller = new AbortController();
  let first = 0;

  function onSignal(): void {
    if (!controller.signal.aborted) {
      first = now();
      say(`\n${INTERRUPT_MESSAGE}`);
      controller.abort(new DOMException("Stopped by the user", "AbortError"));
    } else if (now() - first > SAME_PRESS_MS) {
      exit(130);
    }
  }

  // Windows knows no SIGTERM that could be listened for.
  let listening: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  for (const name of listening) Deno.addSignalListener(name, onSignal);
  return {
    signal: controller.signal,
    dispose() {
      for (const name of listening) Deno.removeSignalListener(name, onSignal);
      listening = [];
    },
  };
}
