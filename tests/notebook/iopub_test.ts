import assert from "node:assert/strict";
import { listen, publisher } from "../../lib/notebook/iopub.ts";

/** A publisher of one subscriber that keeps its manners: what it reads is what ZMTP 3.0 says must come. */
async function published(send: (conn: Deno.TcpConn) => Promise<void>) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const heard = await listen({ hostname: "127.0.0.1", port });
  const conn = await listener.accept();
  const got = new Uint8Array(64 + 2 + 25 + 3);
  for (let n = 0; n < got.length;) n += await conn.read(got.subarray(n)) ?? assert.fail("too short");
  listener.close();
  await send(conn);
  return { heard, conn, got };
}
const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("a subscriber greets, says what it is, and takes everything", async () => {
  const { conn, got } = await published(() => Promise.resolve());
  assert.deepEqual(
    [...got.subarray(0, 12)],
    [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0],
    "signature, version 3.0",
  );
  assert.equal(new TextDecoder().decode(got.subarray(12, 32)), "NULL".padEnd(20, "\0"), "mechanism");
  assert.ok(got.subarray(32, 64).every((b) => b === 0), "as a client");
  assert.deepEqual([got[64], got[65]], [4, 25], "a command and its length");
  assert.equal(new TextDecoder().decode(got.subarray(66, 91)), "\x05READY\x0bSocket-Type\0\0\0\x03SUB");
  assert.deepEqual([...got.subarray(91)], [0, 1, 1], "a message: subscribe to the empty prefix");
  conn.close();
});

Deno.test("a mark is heard wherever it lies, also across two chunks, and not before it was sent", async () => {
  const { heard, conn } = await published((conn) => conn.write(bytes("early")).then(() => {}));
  assert.equal(await heard("absent", 20), false, "not in time");
  const late = heard("mark-1", 5000), other = heard("mark-2", 5000);
  await conn.write(bytes("x".repeat(100_000) + " mar"));
  await new Promise((done) => setTimeout(done, 20));
  await conn.write(bytes("k-2 and"));
  assert.equal(await other, true);
  assert.equal(await Promise.race([late, Promise.resolve("waiting")]), "waiting");
  await conn.write(bytes("mark-1"));
  assert.equal(await late, true);
  conn.close();
});

Deno.test("where the publisher goes away nobody waits", async () => {
  const { heard, conn } = await published(() => Promise.resolve());
  const waiting = heard("mark", 60_000);
  conn.close();
  assert.equal(await waiting, false);
  assert.equal(await heard("mark", 60_000), false);
});

Deno.test("a kernel's command line names the file that says where it publishes", () => {
  const path = Deno.makeTempFileSync({ suffix: ".json" });
  const write = (transport: string) =>
    Deno.writeTextFileSync(path, JSON.stringify({ transport, ip: "127.0.0.1", iopub_port: 4242, key: "k" }));
  write("tcp");
  const line = ["deno", "jupyter", "--kernel", "--conn", path];
  assert.deepEqual(publisher(line), { hostname: "127.0.0.1", port: 4242 });
  write("ipc");
  assert.equal(publisher(line), undefined, "not a port");
  assert.equal(publisher(["deno", "test"]), undefined);
  assert.equal(publisher([]), undefined);
  assert.equal(publisher(), undefined, "this is no kernel");
  Deno.removeSync(path);
});
