import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { gpu, openGpu } from "../../lib/gpu/mod.ts";
import { createPool } from "../../lib/gpu/pool.ts";
import { empty, keep, scope, zeros } from "../../lib/tensor/tensor.ts";

/** A pool over a device that only notes what is made and destroyed. */
function counted(budget = Infinity) {
  const log: string[] = [];
  const device = {
    limits: { maxBufferSize: 2 ** 20 },
    createBuffer: ({ size }: { size: number }) => ({ destroy: () => log.push(`destroy ${size}`) }),
    createTexture: ({ format }: { format: string }) => ({
      createView: () => ({}),
      destroy: () => log.push(`destroy ${format}`),
    }),
  } as unknown as GPUDevice;
  const pool = createPool(device, budget, () => log.push("flush"), (id) => log.push(`forget ${id}`));
  return { pool, log };
}

Deno.test("bytes are counted by kind, to the 256 that are handed out, with the peak as it was", () => {
  const { pool } = counted();
  const a = pool.acquire(1000, "base"), b = pool.acquire(1, "activation");
  assert.equal(pool.report().liveBytes, 1024 + 256);
  assert.deepEqual([pool.report().live.base, pool.report().live.activation], [1024, 256]);
  pool.release(b);
  const c = pool.acquire(512, "optimizer");
  const report = pool.report();
  assert.equal(report.liveBytes, 1536);
  assert.equal(report.peakBytes, 1536);
  assert.deepEqual([report.atPeak.base, report.atPeak.activation, report.atPeak.optimizer], [1024, 0, 512]);
  assert.equal(report.idleBytes, 256);
  pool.release(a);
  assert.equal(pool.report().peakBytes, 1536);
  pool.resetPeak();
  assert.equal(pool.report().peakBytes, 512);
  assert.deepEqual(pool.report().atPeak, pool.report().live);
  pool.release(c);
  assert.equal(pool.report().liveBytes, 0);
});

Deno.test("a buffer that comes back serves again for its size, under another kind", () => {
  const { pool } = counted();
  const a = pool.acquire(500, "scratch");
  pool.release(a);
  const b = pool.acquire(512, "gradient");
  assert.equal(b.id, a.id);
  assert.equal(pool.report().created, 1);
  assert.deepEqual([pool.report().live.scratch, pool.report().live.gradient], [0, 512]);
  const c = pool.acquire(513, "gradient");
  assert.notEqual(c.id, a.id);
});

Deno.test("owners are counted, and releasing once too often is an error", () => {
  const { pool } = counted();
  const a = pool.acquire(256, "base");
  a.references++;
  pool.release(a);
  assert.equal(pool.report().liveBytes, 256, "one owner is left");
  pool.release(a);
  assert.equal(pool.report().liveBytes, 0);
  assert.throws(() => pool.release(a), /released twice/);
});

Deno.test("trimming submits, forgets and destroys idle buffers only", () => {
  const { pool, log } = counted();
  const a = pool.acquire(256, "base"), b = pool.acquire(512, "base");
  pool.trim();
  assert.deepEqual(log, [], "nothing is idle");
  pool.release(b);
  pool.trim();
  assert.deepEqual(log, ["flush", `forget ${b.id}`, "destroy 512"]);
  assert.deepEqual([pool.report().liveBytes, pool.report().idleBytes], [256, 0]);
  pool.release(a);
});

Deno.test("a budget first frees what is idle, then refuses with all figures", () => {
  const { pool, log } = counted(4096);
  pool.release(pool.acquire(2048, "scratch"));
  const a = pool.acquire(3072, "base");
  assert.ok(log.includes("destroy 2048"), "idle bytes made room");
  assert.throws(() => pool.acquire(2048, "activation"), (e: unknown) => {
    assert.ok(e instanceof NibbleError && e.code === "gpu/budget");
    assert.match(e.message, /Out of device memory: 0\.0 MiB more for activation/);
    assert.match(e.message, /base 0\.0 MiB.*per_device_train_batch_size.*nibble_memory_budget_gb/s);
    return true;
  });
  assert.equal(pool.report().liveBytes, 3072, "a refusal takes nothing");
  pool.release(a);
  const wide = counted(Infinity).pool;
  assert.throws(() => wide.acquire(2 ** 20 + 1, "base"), (e: unknown) => {
    return e instanceof NibbleError && e.code === "gpu/buffer-limit" &&
      /maxBufferSize is 1\.0 MiB/.test(e.message);
  });
});

Deno.test("textures are counted by the byte, reused by shape and format, trimmed, and kept to the budget", () => {
  const { pool, log } = counted(2 ** 16);
  const shape = { format: "rgba32float", width: 64, height: 8 } as const;
  const a = pool.acquireTexture(shape, "scratch"), b = pool.acquire(1024, "base");
  assert.equal(a.size, 64 * 8 * 16);
  assert.notEqual(a.id, b.id, "bind groups are cached by id");
  assert.deepEqual([pool.report().live.scratch, pool.report().liveBytes], [8192, 9216]);
  pool.release(a);
  assert.throws(() => pool.release(a), /released twice/);
  assert.deepEqual([pool.report().live.scratch, pool.report().idleBytes], [0, 8192]);
  const same = pool.acquireTexture({ ...shape }, "scratch");
  assert.equal(same.id, a.id);
  const half = pool.acquireTexture({ ...shape, format: "rgba16float" }, "scratch");
  assert.equal(half.size, 4096);
  assert.notEqual(pool.acquire(8192, "base").id, a.id, "a buffer of that size is another thing");
  pool.release(half);
  pool.trim();
  assert.deepEqual(log, ["flush", `forget ${half.id}`, "destroy rgba16float"]);
  assert.throws(
    () => pool.acquireTexture({ ...shape, height: 64 }, "scratch"),
    /Out of device memory: 0\.1 MiB more for scratch/,
  );
});

Deno.test("tensors give buffers back by scope, by dispose, and views hold them", async () => {
  await openGpu();
  const live = () => gpu().pool.report().liveBytes;
  const before = live();
  const kept = scope(() => {
    empty([100]);
    zeros([10, 10]).view([100]);
    return empty([64], "f32", "scratch");
  });
  assert.equal(live() - before, 256, "all but the result went");
  const view = kept.view([8, 8]);
  kept.dispose();
  kept.dispose();
  assert.equal(live() - before, 256, "the view holds the bytes");
  view.dispose();
  assert.equal(live(), before);
  let escaped;
  assert.throws(() =>
    scope(() => {
      escaped = keep(empty([64]));
      empty([64]);
      throw new Error("stop");
    }), /stop/);
  assert.equal(live() - before, 256, "what was made before an error goes, what was kept stays");
  escaped!.dispose();
  assert.equal(live(), before);
});

Deno.test("what lies idle for three steps is destroyed, what each step uses is kept", () => {
  const { pool, log } = counted();
  pool.release(pool.acquire(7 * 256, "scratch")); // of a shape that comes once
  for (let step = 0; step < 6; step++) {
    pool.release(pool.acquire(9 * 256, "scratch"));
    pool.age(3);
    assert.equal(pool.report().idleBytes, (step < 3 ? 16 : 9) * 256, `after step ${step + 1}`);
  }
  assert.deepEqual(log, ["flush", "forget 1", `destroy ${7 * 256}`]);
  assert.equal(pool.report().created, 2);
  assert.equal(pool.report().heldPeakBytes, 16 * 256);
});

Deno.test("sizes that never come back do not pile up, those that do are kept", () => {
  const MIB = 2 ** 20;
  const run = (sizes: (step: number) => number[]) => {
    const { pool } = counted();
    let settled = 0;
    for (let step = 0; step < 40; step++) {
      if (step === 3) settled = pool.report().created;
      const lent = sizes(step).flatMap((size) =>
        Array.from({ length: 40 }, () => pool.acquire(size, "activation"))
      );
      lent.forEach(pool.release);
      pool.age(16);
    }
    const { peakBytes, heldPeakBytes, created } = pool.report();
    return { peakBytes, excess: heldPeakBytes - peakBytes, later: created - settled };
  };
  const changing = run((step) => [MIB - 256 * step, MIB - 256 * step - 128 * 256]);
  assert.ok(
    changing.excess <= Math.max(0.25 * changing.peakBytes, 64 * MIB),
    `${changing.excess} bytes idle`,
  );
  assert.ok(changing.later > 1000, "each step makes buffers of its own");
  assert.equal(run(() => [MIB, MIB / 2]).later, 0);
});
