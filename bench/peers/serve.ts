/**
 * The side of a peer's process: one JSON request a line on standard input, one JSON answer a line on standard output.
 *
 *     {"open": Task}       -> {"ok": true}           prepares, and closes what was open before
 *     {"time": repeats}    -> {"ms": ...}            runs it so often and waits; what waiting costs is taken off
 *     {"values": [...]}    -> {"values": [...]}      these elements of the result
 *     {"about": true}      -> {"about": "..."}       version and adapter
 *
 * What goes wrong is answered as {"error": "..."}.
 * @module
 */
import type { Task } from "./task.ts";

/** A task made ready. */
export interface Work {
  time(repeats: number): Promise<number>;
  values(at: readonly number[]): Promise<number[]>;
  close(): void;
}

/** What a peer's module offers. */
export interface Server {
  about(): Promise<string>;
  open(task: Task): Work | Promise<Work>;
}

/** Lines of a stream. */
export async function* lines(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    yield* parts;
  }
}

/** Answers requests until there are no more. */
export async function serve(load: () => Promise<Server>): Promise<never> {
  console.log =
    console.info =
    console.warn =
    console.debug =
      console.error; // libraries talk
  let server: Server | undefined, work: Work | undefined;
  const answer = async (request: Record<string, unknown>): Promise<Record<string, unknown>> => {
    server ??= await load();
    if (request.about) return { about: await server.about() };
    if (request.open) {
      work?.close();
      work = undefined;
      work = await server.open(request.open as Task);
      return { ok: true };
    }
    if (!work) throw new Error("nothing is open");
    if (request.time) return { ms: await work.time(request.time as number) };
    return { values: await work.values(request.values as number[]) };
  };
  for await (const line of lines(Deno.stdin.readable)) {
    const reply = await answer(JSON.parse(line)).catch((error) => ({ error: messageOf(error) }));
    Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(reply) + "\n"));
  }
  Deno.exit(0);
}

/** The first line of what an error says. */
export function messageOf(error: unknown): string {
  return (error instanceof Error ? `${error.name}: ${error.message}` : `${error}`).trim().split("\n")[0]!;
}

/** Milliseconds of `work` and its `wait`, less what `wait` takes when there is nothing to wait for. */
export async function timed(work: () => void | Promise<void>, wait: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  await wait();
  const ended = performance.now();
  await wait();
  return ended - started - (performance.now() - ended);
}

/** The name of the adapter that a library's device is of, as nibble prints it. */
export async function adapterName(device?: GPUDevice): Promise<string> {
  const info = device?.adapterInfo ?? (await navigator.gpu.requestAdapter())?.info;
  return info?.description || info?.device || info?.vendor || "no adapter";
}
