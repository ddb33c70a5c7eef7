import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { defineKernel, gpu, openGpu, rehearse } from "../../lib/gpu/mod.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, modelInput } from "../../lib/model/model.ts";
import { createOptimizer, createParameterPages } from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { empty, keep, scope, type Tensor, tensor, zeros } from "../../lib/tensor/tensor.ts";
import { adapterShapes, addAdapter } from "../../lib/lora/lora.ts";
import { gpuTest } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice } from "../model/tiny.ts";

await warmDevice();

const put = defineKernel(
  "put",
  `struct Params { index: u32, value: f32, shift: i32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { y[p.index] += p.value + f32(p.shift); }
`,
);

gpuTest("more different parameter blocks than there are slots: each launch reads its own", async () => {
  const n = 9001; // 4,096 slots: the table is cleared twice
  const y = zeros([n]);
  for (let i = 0; i < n; i++) {
    gpu().kernels.launch(put, {
      params: { index: i, value: i / 2, shift: -i },
      bind: { y: y.range },
      groups: [1],
    });
  }
  assert.deepEqual([...await y.data()], Array.from({ length: n }, (_, i) => i / 2 - i));
  y.dispose();
});

gpuTest("waiting submits what is encoded, and what follows comes after it", async () => {
  const { stream } = gpu();
  const y = zeros([64]);
  for (let i = 0; i < 3; i++) {
    gpu().kernels.launch(put, {
      params: { index: 0, value: 1, shift: 0 },
      bind: { y: y.range },
      groups: [1],
    });
    const before = stream.counters().submits;
    stream.wait();
    assert.equal(stream.counters().submits, before + 1);
    stream.wait(); // nothing to submit
    assert.equal(stream.counters().submits, before + 1);
    y.write(Float32Array.of(10), 1 + i);
  }
  assert.deepEqual([...(await y.data()).subarray(0, 5)], [3, 10, 10, 10, 0]);
  y.dispose();
});

gpuTest("when the slots run out, launches that are not submitted yet keep their blocks", async () => {
  const { stream } = gpu();
  const y = zeros([64]);
  const launch = (index: number) =>
    gpu().kernels.launch(put, {
      params: { index, value: index, shift: 0 },
      bind: { y: y.range },
      groups: [1],
    });
  let unique = 0;
  const fill = (until: number) => {
    while (stream.uniformSlot(Uint32Array.of(77, 77, 77, unique++).buffer) !== until);
  };
  fill(0); // the table begins anew
  launch(1); // its block lies in the second slot
  fill(4095 * 256); // and now the table is full
  stream.flush();
  launch(1); // by the slot that it knows
  launch(2); // begins the table anew, in the first slot
  launch(3); // in the second
  assert.deepEqual([...(await y.data()).subarray(0, 4)], [0, 2, 2, 3]);
  y.dispose();
});

gpuTest(
  "equal blocks share a slot, and launches keep their order among writes, clears and copies",
  async () => {
    const y = zeros([64]), z = zeros([64]);
    const add = (value: number) =>
      gpu().kernels.launch(put, { params: { index: 0, value, shift: 0 }, bind: { y: y.range }, groups: [1] });
    for (let i = 0; i < 300; i++) add(1);
    gpu().stream.copy(y.buffer, 0, z.buffer, 0, 256); // 300
    y.write(Float32Array.of(5));
    add(2); // 7
    gpu().stream.copy(y.buffer, 0, z.buffer, 4, 4);
    gpu().stream.clear(y.buffer, 0, 4);
    add(3);
    assert.equal((await y.data())[0], 3);
    assert.deepEqual([...(await z.data()).subarray(0, 2)], [300, 7]);
    const slot = gpu().stream.uniformSlot(new ArrayBuffer(16));
    assert.equal(gpu().stream.uniformSlot(new ArrayBuffer(16)), slot);
    assert.equal(slot % 256, 0);
    y.dispose();
    z.dispose();
  },
);

gpuTest("ranges are read in one batch, whatever their sizes, and batches may overlap", async () => {
  const a = tensor(Float32Array.from({ length: 100 }, (_, i) => i), [100]);
  const b = tensor(Uint32Array.from([7, 8, 9]), [3]);
  const big = tensor(Float32Array.from({ length: 40000 }, (_, i) => -i), [40000]); // beyond the kept staging buffer
  const range = (t: typeof a, offset = 0, bytes = t.bytes - offset) => ({ buffer: t.buffer, offset, bytes });
  const before = gpu().stream.counters().readbacks;
  const [x, y, z] = await gpu().stream.read([range(a, 12, 20), range(b), range(big)]);
  assert.equal(gpu().stream.counters().readbacks - before, 1);
  assert.deepEqual([...new Float32Array(x!)], [3, 4, 5, 6, 7]);
  assert.deepEqual([...new Uint32Array(y!)], [7, 8, 9]);
  assert.equal(new Float32Array(z!)[39999], -39999);
  const both = await Promise.all([a.data(), b.data(), a.data()]);
  assert.deepEqual([...both[1]!], [7, 8, 9]);
  assert.deepEqual(both[0], both[2]);
  for (const t of [a, b, big]) t.dispose();
});

/** Errors that the device still has to report, oldest first. */
function problems(): NibbleError[] {
  const all: NibbleError[] = [];
  for (;;) {
    try {
      gpu().check();
      return all;
    } catch (e) {
      all.push(e as NibbleError);
    }
  }
}

gpuTest("a kernel that does not compile is named, with its variant, parameters and bindings", async () => {
  const bad = defineKernel("halve", put.source.replace("y[p.index] +=", "y[p.index] = wrong_name *"));
  const y = zeros([64]);
  gpu().kernels.launch(bad, { params: { index: 3, value: 1, shift: 0 }, bind: { y: y.range }, groups: [1] });
  const first = await gpu().stream.fence().then(() => undefined, (e: NibbleError) => e);
  const all = [...(first ? [first] : []), ...problems()];
  const named = all.find((e) => e.code === "gpu/kernel");
  assert.ok(named, `among ${all.map((e) => e.code)}`);
  assert.match(named.message, /halve\.main/);
  assert.match(named.message, /index:3/);
  assert.match(named.message, /y:256B/);
  assert.match(named.message, /wrong_name/, "and the compiler's own words");
  const [, path] = /specialised text: (.+\.wgsl)$/.exec(named.message.trim())!;
  assert.match(Deno.readTextFileSync(path!), /y\[p\.index\] = wrong_name \*/, "the text that was compiled");
  Deno.removeSync(path!);
  y.dispose();
});

gpuTest("launches that cannot be right are refused at once", () => {
  const y = zeros([64]);
  const launch = (options: Partial<Parameters<ReturnType<typeof gpu>["kernels"]["launch"]>[1]>) => () =>
    gpu().kernels.launch(put, {
      params: { index: 0, value: 1, shift: 0 },
      bind: { y: y.range },
      groups: [1],
      ...options,
    });
  const code = (code: string, pattern: RegExp) => (e: unknown) =>
    e instanceof NibbleError && e.code === code && pattern.test(e.message);
  assert.throws(
    launch({ params: { index: 0, value: NaN, shift: 0 } }),
    code("gpu/params", /put: parameter 'value'/),
  );
  assert.throws(launch({ params: { index: 0, value: 1 } }), code("gpu/params", /'shift' is missing/));
  assert.throws(launch({ groups: [70000] }), code("gpu/grid", /70000x1x1 exceeds 65535.*put\.main/s));
  assert.throws(
    launch({ bind: { y: { buffer: y.buffer, offset: 0, bytes: 1024 } } }),
    code("gpu/bind", /Cannot bind 'y': 1024 bytes at 0.*buffer of 256 bytes/s),
  );
  const dispatches = gpu().stream.counters().dispatches;
  launch({ groups: [0] })();
  assert.equal(gpu().stream.counters().dispatches, dispatches, "an empty grid is no launch");
  const gone = zeros([128]);
  launch({ bind: { y: gone.range } })(); // its bind group is cached now, and must not hide the release
  gone.dispose();
  assert.throws(launch({ bind: { y: gone.range } }), code("gpu/released", /Cannot bind 'y'.*given back/s));
  y.dispose();
});

for (const doubleQuant of [undefined, false, true]) {
  const what = doubleQuant === undefined ? "f32" : doubleQuant ? "NF4, double" : "NF4";
  gpuTest(`a rehearsal counts what the device then takes, byte for byte: ${what}`, async () => {
    const raw = tinyConfig(), weights = tinyWeights(raw, 1);
    const ids = Uint32Array.from({ length: 32 }, (_, i) => i);
    const config = {
      r: 2,
      lora_alpha: 4,
      lora_dropout: 0.1,
      use_rslora: false,
      target_modules: "all-linear",
    };
    const work = async () => {
      const model = await buildModel(raw, memorySource(raw, weights), {
        ...(doubleQuant === undefined
          ? {}
          : { quantization: { quantType: "nf4", blocksize: 64, doubleQuant } }),
      });
      const shapes = adapterShapes(model, config);
      const pages = createParameterPages(shapes.map((p) => ({ ...p, decay: true })), "adapter");
      addAdapter(model, config, pages.tensors, 1);
      const optimizer = createOptimizer(pages);
      scope(() => {
        const input = modelInput({ ids, positions: ids, segments: ids.map(() => 1), batch: 1, time: 32 });
        const labels = Int32Array.from(ids, (_, i) => (i + 1) % 32);
        differentiate(
          () => linearCrossEntropy(forward(model, input, { dropoutSeed: 3 }), model.head, labels).stats,
          undefined,
        );
      });
      await optimizer.step({ lr: 0, step: 1, gradScale: 1 });
      return () => {
        optimizer.dispose();
        model.dispose();
        pages.dispose();
      };
    };
    const created = gpu().pool.report().created;
    const plan = await rehearse(gpu(), Infinity, async () => void await work());
    assert.equal(gpu().pool.report().created, created, "a rehearsal makes no buffer");
    gpu().pool.resetPeak();
    const start = gpu().pool.report(), dispatches = gpu().stream.counters().dispatches;
    const dispose = await work();
    const report = gpu().pool.report();
    // the map of double quantization (with its borders and their tree, 3.5 KiB) is there already on the real device, and in every rehearsal made anew
    const shared = doubleQuant === undefined
      ? 0
      : plan.memory.live.base - (report.live.base - start.live.base);
    assert.ok(shared === 0 || shared === 3584, `map: ${shared}`);
    assert.equal(plan.memory.liveBytes - shared, report.liveBytes - start.liveBytes, "live");
    assert.equal(plan.memory.peakBytes - shared, report.peakBytes - start.liveBytes, "peak");
    for (const kind of ["adapter", "gradient", "optimizer", "activation", "scratch"] as const) {
      assert.equal(plan.memory.atPeak[kind], report.atPeak[kind] - start.live[kind], kind);
    }
    assert.equal(plan.dispatches, gpu().stream.counters().dispatches - dispatches, "launches");
    assert.ok(plan.largestBinding >= 32 * 44 * 4 && plan.largestBinding <= report.peakBytes);
    dispose();
  });
}

gpuTest("a rehearsal refuses what exceeds the budget, and leaves the device in its place", async () => {
  const real = gpu();
  await assert.rejects(
    rehearse(real, 10000, () => {
      keep(empty([1000]));
      keep(empty([2000]));
    }),
    (e: unknown) => e instanceof NibbleError && e.code === "gpu/budget",
  );
  assert.equal(gpu(), real);
});

Deno.test("the device: one is shared, options open another, and a closed one is gone", async () => {
  const first = await openGpu();
  assert.equal(await openGpu(), first);
  assert.ok(first.name.length > 0);
  const small = await openGpu({ defaultLimits: true, maxBinding: 2 ** 20, budgetBytes: 2 ** 21 });
  assert.notEqual(small, first);
  assert.equal(gpu(), small);
  assert.equal(small.maxBinding, 2 ** 20);
  assert.equal(small.limits.maxStorageBufferBindingSize, 2 ** 27, "WebGPU's default");
  assert.throws(() => zeros([2 ** 20]), /budget of 2\.0 MiB/);
  small.close();
  assert.throws(() => gpu(), (e: unknown) => e instanceof NibbleError && e.code === "gpu/not-open");
  await openGpu();
});

gpuTest("a bind group serves every length from its start, and goes with any of its buffers", async () => {
  const { kernels, pool } = gpu();
  const add = defineKernel(
    "add_one",
    `struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { for (var i = 0u; i < p.n; i++) { y[i] = x[i] + 1.0; } }
`,
  );
  const launch = (x: Tensor, y: Tensor, n: number) => {
    const before = kernels.bindGroups();
    const bytes = 4 * n;
    const bind = { x: { ...x.range, bytes }, y: { ...y.range, bytes } };
    kernels.launch(add, { params: { n }, bind, groups: [1] });
    return kernels.bindGroups() - before;
  };
  pool.trim();
  const x = tensor(new Float32Array(192), [192]), y = zeros([192]);
  assert.deepEqual([3, 192, 64, 3].map((n) => launch(x, y, n)), [1, 0, 0, 0]);
  assert.deepEqual([...new Set(await y.data())], [1]);
  assert.throws(() => launch(x, y, 193), /Cannot bind 'x': 772 bytes/, "a length that the buffer has not");
  const column = x.view([192, 1]), part = column.slice(64, 192);
  column.dispose();
  assert.equal(launch(part, y, 3), 1, "another start");
  part.dispose();
  x.dispose();
  pool.trim(); // x's buffer is destroyed, and every group that named it forgotten
  const other = tensor(new Float32Array(192), [192]);
  assert.equal(launch(other, y, 3), 1);
  y.dispose();
  pool.trim();
  const again = zeros([192]);
  assert.equal(launch(other, again, 3), 1);
  other.dispose();
  again.dispose();
});

gpuTest(
  "a buffer read in two places needs one group for every length, one read and written keeps its parts apart",
  async () => {
    const { kernels, pool } = gpu();
    const two = (access: string) =>
      defineKernel(
        `two_${access}`,
        `struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, ${access}> a: array<f32>;
@group(0) @binding(2) var<storage, ${access}> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { for (var i = 0u; i < p.n; i++) { y[i] = a[i] + b[i]; } }
`,
      );
    pool.trim();
    const whole = tensor(Float32Array.from({ length: 128 }, (_, i) => i), [128, 1]), y = zeros([64]);
    const low = whole.slice(0, 64), high = whole.slice(64, 128);
    const made = (access: string, second: Tensor, n: number) => {
      const before = kernels.bindGroups(), bytes = 4 * n;
      const bind = {
        a: { ...low.range, bytes },
        b: { ...second.range, bytes },
        y: y.range,
      };
      kernels.launch(two(access), { params: { n }, bind, groups: [1] });
      return kernels.bindGroups() - before;
    };
    assert.deepEqual([3, 64, 17].map((n) => made("read", low, n)), [1, 0, 0], "the same place twice");
    assert.equal((await y.data())[16], 32);
    // ranges that overlap would be refused where both are written
    assert.deepEqual([64, 64, 17].map((n) => made("read_write", high, n)), [1, 0, 1], "two halves");
    assert.equal((await y.data())[16], 16 + 80);
    for (const t of [low, high, whole, y]) t.dispose();
  },
);
