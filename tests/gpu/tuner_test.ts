import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import {
  type Clock,
  type Gpu,
  storedTuning,
  type Tunable,
  tuneDevice,
  type TuneDeviceOptions,
  type TuneStore,
  tuningOff,
} from "../../lib/gpu/mod.ts";

/** What a configuration of the fake kernel does. */
interface Fake {
  ms: number;
  /** What it computes; 1 is right. */
  value?: number;
  /** What launching it throws. */
  error?: Error;
}

/** A device that computes what the launched configuration says, a kernel on it, and a clock that adds up. */
function fakes(kernels: Record<string, Record<string, Fake>>) {
  let running: Fake | undefined, time = 0, runs = 0, probes = 0, live = 0;
  const buffer = { size: 8 } as never;
  const device = {
    ...{ name: "Fake GPU 9000", vendor: "1", features: { f16: true }, choices: new Map() },
    limits: { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupStorageSize: 16384 },
    check() {},
    pool: { trim() {} },
    stream: {
      clear: () => running = undefined,
      read: () => Promise.resolve([new Float32Array(2).fill(running?.value ?? 1).buffer]),
    },
  } as unknown as Gpu;
  const tunables = Object.entries(kernels).map(([name, table]): Tunable => ({
    name,
    candidates: () => Object.keys(table),
    probe() {
      probes++;
      live++;
      return {
        run(candidate) {
          running = table[candidate]!;
          if (running.error) throw running.error;
          time += running.ms;
          runs++;
        },
        result: { buffer },
        tolerance: (candidate) => candidate.startsWith("half") ? 0.01 : 1e-6,
        flops: 1,
        dispose: () => void live--,
      };
    },
  }));
  const options: TuneDeviceOptions = {
    version: "1.2.3",
    clock: (works) =>
      Promise.resolve(works.map((work) => {
        const began = time;
        work();
        return time - began;
      })),
    now: () => time,
  };
  return { device, tunables, options, count: () => ({ runs, probes, live }) };
}

/** A store in memory. */
function memory(files = new Map<string, string>()): TuneStore & { files: Map<string, string> } {
  return {
    files,
    read: (file) => files.get(file),
    write: (file, text) => void files.set(file, text),
  };
}

const TABLE = { "k.a": { plain: { ms: 4 }, fast: { ms: 1 }, slow: { ms: 9 } }, "k.b": { plain: { ms: 2 } } };

Deno.test("the fastest configuration is chosen, and a tie goes to the earlier one", async () => {
  const { device, tunables, options, count } = fakes({
    ...TABLE,
    "k.tie": { plain: { ms: 1 }, other: { ms: 0.98 }, third: { ms: 0.99 } },
    "k.close": { plain: { ms: 1 }, other: { ms: 0.96 } },
  });
  const seen: string[] = [];
  const tuning = await tuneDevice(device, tunables, {
    ...options,
    onProgress: (name, done, total) => seen.push(`${name} ${done}/${total}`),
  });
  const want = { "k.a": "fast", "k.b": "plain", "k.tie": "plain", "k.close": "other" };
  assert.deepEqual(Object.fromEntries(tuning.choices), want);
  assert.deepEqual(Object.fromEntries(device.choices), want, "the device has them");
  assert.deepEqual(seen, ["k.a 0/4", "k.b 1/4", "k.tie 2/4", "k.close 3/4", " 4/4"]);
  assert.deepEqual(tuning.kernels[0]!.measured.map(({ candidate, ms }) => [candidate, ms]), [
    ["plain", 4],
    ["fast", 1],
    ["slow", 9],
  ]);
  assert.equal(count().live, 0, "inputs are given back");
});

Deno.test("what is faster in most rounds only, while the machine does other things, is not chosen", async () => {
  // by round: the first run, then five; the portable one takes 10
  const chosenFor = async (...times: number[]) => {
    const table = { plain: { ms: 10 }, other: { ms: 0 } };
    const { device, tunables, options } = fakes({ "k.a": table });
    let round = 0;
    const clock: Clock = (works) => {
      table.other.ms = times[round++]!;
      return options.clock!(works);
    };
    const { kernels: [kernel] } = await tuneDevice(device, tunables, { ...options, clock });
    assert.equal(round, 6);
    return kernel!.chosen;
  };
  assert.equal(await chosenFor(5, 9, 9, 9, 9, 9), "other");
  assert.equal(await chosenFor(5, 9, 40, 9, 9, 9), "other", "one round may be disturbed");
  assert.equal(await chosenFor(5, 2, 11, 2, 11, 2), "plain");
  assert.equal(await chosenFor(5, 9.9, 9.9, 9.9, 9.9, 9.9), "plain", "too little to matter");
});

Deno.test("a clock that stands still or runs backwards leaves it at the portable configuration", async () => {
  for (const ms of [0, -5, NaN]) {
    const { device, tunables, options } = fakes(TABLE);
    const { kernels: [kernel] } = await tuneDevice(device, tunables, {
      ...options,
      clock: (works) => Promise.resolve(works.map(() => ms)),
    });
    assert.deepEqual([kernel!.chosen, kernel!.measured[0]], ["plain", { candidate: "plain" }]);
  }
});

Deno.test("what is stored is taken and nothing measured, until asked to", async () => {
  const { device, tunables, options, count } = fakes(TABLE);
  const store = memory();
  assert.equal(storedTuning(device, tunables, { ...options, store }), undefined);
  const first = await tuneDevice(device, tunables, { ...options, store });
  assert.equal(first.from, "measurement");
  const { runs } = count();
  device.choices = new Map();
  const again = await tuneDevice(device, tunables, { ...options, store });
  assert.deepEqual([again.from, count().runs], ["store", runs]);
  assert.deepEqual([...again.choices], [...first.choices]);
  assert.deepEqual([...device.choices], [...first.choices]);
  assert.deepEqual(again.kernels, first.kernels, "the table is kept too");
  assert.deepEqual(storedTuning(device, tunables, { ...options, store })?.seconds, first.seconds);
  const redone = await tuneDevice(device, tunables, { ...options, store, redo: true });
  assert.equal(redone.from, "measurement");
  assert.ok(count().runs > runs);
});

Deno.test("another adapter, version or list of configurations is measured for itself", async () => {
  const { device, tunables, options } = fakes(TABLE);
  const store = memory();
  await tuneDevice(device, tunables, { ...options, store });
  const from = async (
    change: { device?: object; options?: object; tunables?: readonly Tunable[] },
  ) =>
    (await tuneDevice({ ...device, ...change.device } as Gpu, change.tunables ?? tunables, {
      ...{ ...options, ...change.options, store: memory(new Map(store.files)) },
    })).from;
  assert.equal(await from({}), "store");
  assert.equal(await from({ device: { name: "Fake GPU 9001" } }), "measurement");
  assert.equal(await from({ device: { features: { f16: false } } }), "measurement");
  assert.equal(await from({ options: { version: "1.2.4" } }), "measurement");
  assert.equal(
    await from({ tunables: fakes({ ...TABLE, "k.c": { plain: { ms: 1 } } }).tunables }),
    "measurement",
  );
});

Deno.test("a damaged or foreign file is measured again and replaced", async () => {
  const { device, tunables, options } = fakes(TABLE);
  const store = memory();
  await tuneDevice(device, tunables, { ...options, store });
  const [file, whole] = [...store.files][0]!;
  assert.match(file, /^fake-gpu-9000-[0-9a-f]{16}\.json$/);
  const changed = (edit: (kept: { key: string; kernels: { chosen: string }[] }) => void) => {
    const kept = JSON.parse(whole);
    edit(kept);
    return JSON.stringify(kept);
  };
  const broken = [
    "",
    "{",
    "null",
    "[]",
    "{}",
    whole.slice(0, whole.length / 2),
    changed((kept) => kept.key += " "),
    changed((kept) => kept.kernels[0]!.chosen = "never heard of"),
    changed((kept) => delete (kept as { kernels?: unknown }).kernels),
  ];
  for (const text of broken) {
    store.files.set(file, text);
    const tuning = await tuneDevice(device, tunables, { ...options, store });
    assert.deepEqual([tuning.from, tuning.choices.get("k.a")], ["measurement", "fast"], text);
    assert.equal(store.files.size, 1);
    assert.equal(JSON.parse(store.files.get(file)!).kernels.length, 2);
  }
});

Deno.test("a configuration that computes something else, or that the device refuses, is not chosen", async () => {
  const refused = new NibbleError("gpu/kernel", "Cannot compile a kernel: bad\nno such type");
  const { device, tunables, options } = fakes({
    "k.a": {
      plain: { ms: 4 },
      wrong: { ms: 1, value: 1.1 },
      nothing: { ms: 1, value: NaN },
      refused: { ms: 1, error: refused },
      half: { ms: 2, value: 1.001 },
      worse: { ms: 3 },
    },
  });
  const { kernels: [kernel] } = await tuneDevice(device, tunables, options);
  assert.equal(kernel!.chosen, "half", "rounding that its tolerance explains is no error");
  assert.deepEqual(kernel!.measured.map(({ problem }) => problem), [
    undefined,
    "wrong by 1.0e-1",
    "wrong by NaN",
    "refused: no such type",
    undefined,
    undefined,
  ]);
});

Deno.test("a device that is lost ends it, and nothing is kept", async () => {
  const error = new NibbleError("gpu/lost", "The GPU device was lost");
  const { device, tunables, options, count } = fakes({
    "k.a": { plain: { ms: 4 }, deadly: { ms: 1, error } },
  });
  const store = memory();
  await assert.rejects(tuneDevice(device, tunables, { ...options, store }), /was lost/);
  assert.deepEqual([store.files.size, device.choices.size, count().live], [0, 0, 0]);
});

Deno.test("when time is up the rule keeps deciding about the rest", async () => {
  const slow = { plain: { ms: 400 }, other: { ms: 300 } };
  const { device, tunables, options, count } = fakes({ "k.a": slow, "k.b": slow, "k.c": slow });
  const tuning = await tuneDevice(device, tunables, { ...options, seconds: 5 });
  assert.deepEqual([...tuning.choices], [["k.a", "other"]]);
  assert.deepEqual(tuning.left, ["k.b", "k.c"]);
  // what was begun is ended: one run of one configuration beyond the limit at most, and its round
  assert.ok(tuning.seconds < 5 + 0.8, `${tuning.seconds}`);
  assert.equal(count().live, 0);
});

Deno.test("CI and NIBBLE_TUNE=off forbid tuning", () => {
  const before = ["CI", "NIBBLE_TUNE"].map((name) => [name, Deno.env.get(name)] as const);
  const with_ = (ci: string | undefined, tune: string | undefined) => {
    for (const [name, value] of [["CI", ci], ["NIBBLE_TUNE", tune]] as const) {
      if (value === undefined) Deno.env.delete(name);
      else Deno.env.set(name, value);
    }
    return tuningOff();
  };
  try {
    assert.equal(with_(undefined, undefined), undefined);
    assert.equal(with_("false", "f16"), undefined);
    assert.equal(with_("true", undefined), "CI=true");
    assert.equal(with_(undefined, "off"), "NIBBLE_TUNE=off");
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) Deno.env.delete(name);
      else Deno.env.set(name, value);
    }
  }
});
