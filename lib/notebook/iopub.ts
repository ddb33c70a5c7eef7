/**
 * Listens on the socket by which the kernel publishes outputs, as a notebook does, to know when one has been sent: the
 * kernel itself acknowledges nothing. Formats: Jupyter's connection file; ZMTP 3.0 (rfc.zeromq.org/spec/23), NULL
 * security.
 * @module
 */

/** Where a kernel publishes. */
export interface Publisher {
  hostname: string;
  port: number;
}

/**
 * Resolves to true once a message that contains `mark` has passed the socket, to false where none came in time or the
 * socket was closed. Ask before the message is sent.
 *
 * @param mark ASCII
 * @param timeout milliseconds
 */
export type Heard = (mark: string, timeout: number) => Promise<boolean>;

const ascii = (text: string) => new TextEncoder().encode(text);

/** What a subscriber to everything says: its greeting, its READY command, its subscription. */
function subscription(): Uint8Array<ArrayBuffer> {
  const ready = ascii("\x05READY\x0bSocket-Type\0\0\0\x03SUB");
  const bytes = new Uint8Array(64 + 2 + ready.length + 3);
  bytes.set([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0, ...ascii("NULL")]);
  bytes.set([4, ready.length, ...ready], 64);
  bytes.set([0, 1, 1], 66 + ready.length);
  return bytes;
}

/** Subscribes to a publisher. What it sends is read at once, whether or not anyone waits: it must never stand still. */
export async function listen({ hostname, port }: Publisher): Promise<Heard> {
  const conn = await Deno.connect({ hostname, port });
  const waiting = new Map<string, (heard: boolean) => void>();
  let closed = false;
  const read = async () => {
    const latin1 = new TextDecoder("latin1"), chunk = new Uint8Array(65536);
    let end = "";
    for (let n = await conn.read(chunk); n !== null; n = await conn.read(chunk)) {
      if (waiting.size === 0) continue;
      const text = end + latin1.decode(chunk.subarray(0, n));
      let longest = 0;
      for (const [mark, resolve] of waiting) {
        if (text.includes(mark)) resolve(true);
        longest = Math.max(longest, mark.length);
      }
      end = text.slice(-longest); // a mark may lie across two chunks
    }
  };
  const close = () => {
    closed = true;
    conn.close();
    for (const resolve of waiting.values()) resolve(false);
  };
  await conn.write(subscription());
  conn.unref(); // listening alone keeps no kernel alive
  read().then(close, close);
  return async (mark, timeout) => {
    if (closed) return false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const heard = await new Promise<boolean>((resolve) => {
      waiting.set(mark, resolve);
      timer = setTimeout(() => resolve(false), timeout);
    });
    clearTimeout(timer);
    waiting.delete(mark);
    return heard;
  };
}

/**
 * Where this process, a kernel, publishes: its command line names the connection file.
 *
 * @returns undefined where that cannot be found out (Windows)
 */
export function publisher(commandLine: string[] = commandLineOf(Deno.pid)): Publisher | undefined {
  const path = commandLine[commandLine.indexOf("--conn") + 1];
  if (!commandLine.includes("--conn") || !path) return undefined;
  const { ip, iopub_port, transport } = JSON.parse(Deno.readTextFileSync(path));
  return transport === "tcp" ? { hostname: ip, port: iopub_port } : undefined;
}

/** The words that a process was started with; none where the system does not tell. */
function commandLineOf(pid: number): string[] {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/cmdline`).split("\0");
  } catch {
    // no /proc: macOS
  }
  try {
    const { stdout } = new Deno.Command("ps", { args: ["-ww", "-o", "args=", "-p", `${pid}`] }).outputSync();
    return new TextDecoder().decode(stdout).trim().split(" ");
  } catch {
    return [];
  }
}
