/**
 * Deno's Jupyter kernel: what it offers, and three things in it that need mending: outputs get lost, the Stop button
 * ends the process, stacks bury the message. Outside Jupyter nothing here does anything.
 * @module
 */
import { environment } from "../gpu/mod.ts";
import { type Heard, listen, publisher } from "./iopub.ts";

/** A MIME bundle: one thing in several forms, of which the notebook picks the richest that it can draw. */
export type MimeBundle = Record<string, unknown>;

/** The part of `Deno.jupyter` that is used. */
export interface Jupyter {
  display(
    bundle: MimeBundle,
    options: { raw: true; update?: boolean; display_id?: string },
  ): Promise<void>;
  broadcast(type: string, content: object, options: { metadata: object }): void;
}

/** The kernel, or undefined under `deno run` and `deno test`, where looking at it throws. */
export function jupyter(): Jupyter | undefined {
  try {
    return (Deno as unknown as { jupyter: Jupyter }).jupyter;
  } catch {
    return undefined;
  }
}

/** What the kernel calls after each cell, looked up by name each time; internal to Deno, so perhaps absent. */
interface Internals {
  broadcastResult?: (count: number, result: unknown) => Promise<void>;
}

/**
 * Waits after every cell until its outputs are out. Deno 2.9's kernel says "idle" while messages still lie in its
 * queue, and what comes after that is dropped by Jupyter: up to a sixth of all results in bursts.
 *
 * @param sent resolves once all that was printed and displayed is out
 * @param internals where the kernel keeps `broadcastResult`; tests pass their own
 * @returns whether the hook is in place
 */
export function keepOutputs(
  sent: () => Promise<void>,
  internals: Internals | undefined = internalsOf(),
): boolean {
  const original = internals?.broadcastResult;
  if (!internals || !original) return false;
  internals.broadcastResult = async (count, result) => {
    await original(count, result);
    await sent();
  };
  return true;
}

/** Ears on the kernel's own socket; undefined where they cannot be had. */
let ears: Promise<Heard | undefined> | undefined;
/** Milliseconds of the first wait for a message to be heard and of the last: 200,000 printed lines take as long. */
const PATIENCE = [50, 50_000] as const;
/** Milliseconds in which about a thousand lines go out. */
const BLIND = 200;

async function findEars(): Promise<Heard | undefined> {
  try {
    const where = publisher();
    return where && await listen(where);
  } catch {
    return undefined;
  }
}

/**
 * Waits until all that was printed and displayed so far is out: sends a message that no notebook shows, which follows
 * the others through the kernel's queue, and listens for it (about 1 ms; 0.25 ms more for each line before it).
 *
 * @param blind milliseconds to wait where one cannot listen
 */
export async function sent(
  kernel: Jupyter,
  blind: number = BLIND,
  listening: Promise<Heard | undefined> = ears ??= findEars(),
): Promise<void> {
  const heard = await listening;
  const [first, last] = PATIENCE;
  // Once is not enough: a subscription is taken up some time after it was sent, and nothing says when. No mark is left
  // behind in the queue, since the next is only sent where one was not heard, and the last of them was.
  for (let patience = first; heard && patience < last; patience *= 2) {
    const mark = `nibble-${crypto.randomUUID()}`;
    const passed = heard(mark, patience);
    // busy it is anyway: no notebook shows this
    kernel.broadcast("status", { execution_state: "busy" }, { metadata: { mark } });
    if (await passed) return;
  }
  if (heard) ears = Promise.resolve(undefined); // not to be heard: the kernel gave up its side
  await new Promise((done) => setTimeout(done, blind));
}

function internalsOf(): Internals | undefined {
  const deno = Deno as unknown as { internal?: symbol } & Record<symbol, { jupyter?: Internals } | undefined>;
  return deno.internal ? deno[deno.internal]?.jupyter : undefined;
}

let running: AbortController | undefined;
let listening = false;

/**
 * Makes the notebook's Stop button stop a training run instead of the kernel: without a listener its SIGINT ends the
 * process, and everything in it is lost.
 */
export function listenForStop(): void {
  if (listening || !jupyter()) return;
  listening = true;
  Deno.addSignalListener("SIGINT", stopRunning);
}

/** What the Stop button does; for tests too. */
export function stopRunning(): void {
  running?.abort(new DOMException("Stopped in the notebook", "AbortError"));
}

/** A signal that the next Stop aborts, in place of the one before. */
export function stopSignal(): AbortSignal {
  running = new AbortController();
  return running.signal;
}

/**
 * Displays a bundle and waits until it is out: the kernel signs and sends it after `display` resolves, and a cell that
 * ends with an error before that loses it.
 */
export async function display(
  kernel: Jupyter,
  bundle: MimeBundle,
  options: { update?: boolean; display_id?: string } = {},
): Promise<void> {
  await kernel.display(bundle, { raw: true, ...options });
  await sent(kernel, settleTime(JSON.stringify(bundle).length));
}

/** Milliseconds in which a message of so many characters goes out: 25, and 1 for every 5,000. */
export function settleTime(characters: number): number {
  return 25 + Math.min(3000, characters / 5000);
}

/** Where one call of a stack lies, as V8 tells it. */
export interface CallSite {
  getFileName(): string | null;
  getFunctionName(): string | null;
  getLineNumber(): number | null;
}

/**
 * The stack of an error as a learner needs it: the message, which names the remedy, and the lines of the cell. What
 * lies between is nibble's own business; of other modules the frames stay.
 */
export function shortStack(error: Error, sites: readonly CallSite[], own: string = ROOT): string {
  const lines = sites.flatMap((site) => {
    const file = (site.getFileName() ?? "").replace(/^file:\/\//, "");
    if (file.startsWith(own) || /^(ext|node):/.test(file)) return [];
    const name = site.getFunctionName();
    const place = file === ""
      ? `line ${site.getLineNumber()} of the cell`
      : `${file}:${site.getLineNumber()}`;
    return [`    at ${place}${name ? `, in ${name}` : ""}`];
  });
  return [`${error.name}: ${error.message}`, ...lines].join("\n");
}
const ROOT = new URL("../../", import.meta.url).pathname;

/** Makes errors short, from now on. */
function shortenErrors(): void {
  (Error as unknown as { prepareStackTrace?: typeof shortStack }).prepareStackTrace = (error, sites) =>
    shortStack(error, sites);
}

/** Whether figures may hold seconds and speeds: not where outputs are made to be kept (`NIBBLE_TIMINGS=off`). */
export function showsTimings(): boolean {
  return environment("NIBBLE_TIMINGS") !== "off";
}

/** Mends what needs it, once; importing `mod.ts` calls it. */
export function mendKernel(): void {
  const kernel = jupyter();
  if (mended || !kernel) return;
  mended = true;
  keepOutputs(() => sent(kernel));
  listenForStop();
  shortenErrors();
}
let mended = false;
