/**
 * A peer's process as `bench/peers.ts` sees it.
 * @module
 */
import { lines, type Work } from "./serve.ts";
import type { Task } from "./task.ts";

/** Milliseconds after which a peer is given up, by what it was asked. */
const LIMIT = { open: 120_000, time: 200_000, values: 60_000, about: 120_000 };

/** A peer; its process starts when it is first asked something, and again after it has broken off. */
export class Peer {
  #process: ReturnType<typeof start> | undefined;

  /** @param name as tables call it */
  constructor(
    readonly name: string,
    readonly command: string,
    readonly args: readonly string[],
  ) {}

  /** Version and adapter. */
  async about(): Promise<string> {
    return (await this.#ask({ about: true }, LIMIT.about)).about as string;
  }

  /** Prepares a task; what was prepared before is gone then. */
  async open(task: Task): Promise<Work> {
    await this.#ask({ open: task }, LIMIT.open);
    return {
      time: async (repeats) => (await this.#ask({ time: repeats }, LIMIT.time)).ms as number,
      values: async (at) => (await this.#ask({ values: at }, LIMIT.values)).values as number[],
      close() {},
    };
  }

  /** Ends the process, and with it what the peer holds on the device. */
  stop(): void {
    try {
      this.#process?.child.kill("SIGKILL");
    } catch {
      // it has ended by itself
    }
    this.#process = undefined;
  }

  /** The line of the standard error output that names an error, if there is one. */
  complaint(): string | undefined {
    return this.#process?.said().split("\n").findLast((line) => /error/i.test(line) && !/XDG_/.test(line))
      ?.trim();
  }

  async #ask(request: Record<string, unknown>, limit: number): Promise<Record<string, unknown>> {
    const { child, writer, answers } = this.#process ??= start(this.command, this.args);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, limit);
    try {
      await writer.write(new TextEncoder().encode(JSON.stringify(request) + "\n"));
      const { value, done } = await answers.next();
      if (done) throw new Error("its process ended");
      const reply = JSON.parse(value);
      if (reply.error) throw new PeerError(reply.error);
      return reply;
    } catch (error) {
      if (error instanceof PeerError) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200)); // what it said last is still on its way
      const why = late ? `no answer in ${limit / 1000} s` : this.complaint() ?? `${error}`;
      this.stop();
      throw new PeerError(why);
    } finally {
      clearTimeout(timer);
    }
  }
}

function start(command: string, args: readonly string[]) {
  const child = new Deno.Command(command, {
    args: [...args],
    ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
    env: { NO_COLOR: "1", PYTHONDONTWRITEBYTECODE: "1", TRANSFORMERS_VERBOSITY: "error" },
  }).spawn();
  let said = "";
  (async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      said = (said + text).slice(-8000);
    }
  })();
  return { child, writer: child.stdin.getWriter(), answers: lines(child.stdout), said: () => said };
}

/** What a peer says of why it does not do something. */
export class PeerError extends Error {}
