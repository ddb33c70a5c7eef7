import assert from "node:assert/strict";
import { adapterKind, deviceClock, type Gpu, gpu, openGpu, tuneDevice } from "../../lib/gpu/mod.ts";
import {
  type MatmulClass,
  matmulClass,
  matmulFits,
  tunedMatmul,
} from "../../lib/tensor/ops/matmul_choice.ts";
import {
  chooseMatmul,
  matmulInto,
  type MatmulKernel,
  type MatmulLayout,
  type Piece,
} from "../../lib/tensor/ops/matmul_kernel.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { matmulTunables, workOf } from "../../lib/tensor/ops/matmul_tuning.ts";
import { empty, tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";

await openGpu();

function piece(layout: MatmulLayout, M: number, N: number, K: number): Piece {
  const [ldx, ldw] = [layout === "tn" ? M : K, layout === "nt" ? K : N];
  return { layout, M, N, K, x0: 0, y0: 0, ldx, ldw, ldy: N, wKind: 0 } as Piece;
}

const ALL = { f16: true, subgroups: true, octets: true, timestamps: true };
const NONE = { f16: false, subgroups: false, octets: false, timestamps: false };
const devices = [
  { name: "NVIDIA GeForce RTX 4090", features: ALL },
  { name: "Intel(R) Iris(R) Xe Graphics", features: NONE },
  { name: "llvmpipe (LLVM 15.0.6, 256 bits)", features: ALL },
  { name: "llvmpipe (LLVM 15.0.6, 128 bits)", features: ALL },
  { name: "llvmpipe (LLVM 15.0.6, 512 bits)", features: ALL },
  { name: "SwiftShader Device (LLVM 10.0.0)", features: { ...ALL, octets: false } },
] as unknown as Gpu[];

Deno.test("classes: which edge is as short as a rank, else how much there is", () => {
  const of = (M: number, N: number, K: number) => matmulClass({ M, N, K });
  assert.equal(of(2048, 16, 4096), "narrow");
  assert.equal(of(16, 4096, 2048), "short");
  assert.equal(of(16, 16, 2048), "narrow");
  assert.equal(of(2048, 4096, 16), "shallow");
  assert.equal(of(512, 576, 1536), "medium");
  assert.equal(of(512, 1024, 576), "large");
});

Deno.test("what the tuner tries: the rule's kernel first, and only what computes its work on the adapter", () => {
  for (const device of devices) {
    const names = new Set<string>();
    for (const f16 of [false, true]) {
      for (const tunable of matmulTunables({ f16 })) {
        const at = `${device.name} ${tunable.name}`;
        const [, layout, kind] = tunable.name.split(".") as ["matmul", MatmulLayout, MatmulClass];
        const candidates = tunable.candidates(device) as MatmulKernel[];
        assert.equal(new Set(candidates).size, candidates.length, `${at}: ${candidates}`);
        assert.ok(candidates.length >= 2 && candidates.length <= 8, `${at}: ${candidates}`);
        const work = piece(layout, ...workOf(device, kind));
        assert.equal(matmulClass(work), kind, at);
        assert.equal(candidates[0], chooseMatmul(work, vectorLanes(device)), at);
        for (const name of candidates) assert.ok(matmulFits(name, work, device), `${at}: ${name}`);
        for (const name of candidates) names.add(name);
        assert.ok(f16 || !candidates.some((name) => name.startsWith("half")), `${at}: f16 is asked for`);
      }
    }
    const { f16, octets } = device.features, hardware = adapterKind(device) === "gpu";
    assert.equal(names.has("half64"), f16 && hardware, device.name);
    assert.equal(names.has("subgroup64"), octets && hardware, device.name);
  }
});

Deno.test("a choice is taken where it computes the product, else the rule decides", () => {
  const on = (choices: Record<string, string>, p: Piece, device = devices[0]!) =>
    tunedMatmul(p, { ...device, choices: new Map(Object.entries(choices)) });
  const large = piece("nt", 1024, 1024, 576);
  assert.equal(on({}, large), undefined);
  assert.equal(on({ "matmul.nt.large": "quad128" }, large), "quad128");
  assert.equal(on({ "matmul.nn.large": "quad128", "matmul.nt.medium": "quad64" }, large), undefined);
  assert.equal(
    on({ "matmul.nt.large": "quad128" }, piece("nt", 1024, 1023, 576)),
    undefined,
    "no whole quads",
  );
  assert.equal(on({ "matmul.nt.large": "tile64r8" }, piece("nt", 1024, 1023, 577)), "tile64r8");
  assert.equal(on({ "matmul.nt.large": "of another version" }, large), undefined);
  assert.equal(on({ "matmul.nt.large": "half64" }, large, devices[1]), undefined, "no f16 there");
  assert.equal(on({ "matmul.nt.large": "texture32x2" }, large), undefined, "no llvmpipe");
  assert.equal(on({ "matmul.tn.large": "subgroup64" }, piece("tn", 1024, 1024, 576)), undefined);
  assert.equal(
    on({ "matmul.nt.short": "quad32" }, piece("nt", 2, 4096, 576)),
    undefined,
    "few rows have their own",
  );
  assert.equal(
    on({ "matmul.nt.narrow": "quad32" }, piece("nt", 16, 16, 64)),
    undefined,
    "too small to matter",
  );
  const llvmpipe = devices[2]!;
  assert.equal(on({ "matmul.nt.large": "texture16x2" }, large, llvmpipe), "texture16x2");
  assert.equal(
    on({ "matmul.tn.large": "texture32x2" }, piece("tn", 1024, 1024, 576), devices[3]),
    undefined,
    "four lanes load 16 rows of a column at most",
  );
});

gpuTest("products take the device's choices, and the rule's kernels without them", async () => {
  const { kernels } = gpu(), { launch } = kernels;
  const launched: string[] = [];
  kernels.launch = (kernel, options) => {
    launched.push(kernel.name);
    launch(kernel, options);
  };
  const x = tensor(randoms(128 * 64, 1), [128, 64]), w = tensor(randoms(16 * 64, 2), [16, 64]);
  const y = empty([128, 16]);
  try {
    matmulInto({ layout: "nt", x, w, y });
    const rule = await y.data();
    gpu().choices = new Map([["matmul.nt.narrow", "quad32"]]);
    matmulInto({ layout: "nt", x, w, y });
    assert.deepEqual(await y.data(), rule, "the same bits");
    gpu().choices = new Map();
    matmulInto({ layout: "nt", x, w, y });
    assert.equal(launched[1], "matmul_quad");
    assert.equal(launched[2], launched[0]);
    assert.notEqual(launched[0], "matmul_quad");
  } finally {
    kernels.launch = launch;
    gpu().choices = new Map();
    for (const t of [x, w, y]) t.dispose();
  }
});

gpuTest("a configuration that is wrong on this adapter is never chosen, however fast", async () => {
  const { kernels } = gpu(), { launch } = kernels;
  const [tunable] = matmulTunables().filter(({ name }) => name === "matmul.nt.narrow");
  const candidates = tunable!.candidates(gpu());
  const spoilt = candidates[1]!;
  let running = "";
  kernels.launch = (kernel, options) => {
    const { K } = options.params!;
    launch(kernel, running === spoilt ? { ...options, params: { ...options.params, K: K! - 4 } } : options);
  };
  const watched = {
    ...tunable!,
    probe(device: Gpu) {
      const probe = tunable!.probe(device);
      return { ...probe, run: (candidate: string) => probe.run(running = candidate) };
    },
  };
  try {
    const time = new Map(candidates.map((name, i) => [name, name === spoilt ? 1 : 10 - i]));
    const { kernels: [kernel] } = await tuneDevice(gpu(), [watched], {
      version: "test",
      clock: (works) =>
        Promise.resolve(works.map((work) => {
          work();
          return time.get(running)!;
        })),
    });
    assert.match(kernel!.measured[1]!.problem!, /^wrong by /);
    assert.equal(kernel!.chosen, candidates.at(-1), "the fastest of those that are right");
    assert.equal(gpu().choices.get("matmul.nt.narrow"), candidates.at(-1));
  } finally {
    kernels.launch = launch;
    gpu().choices = new Map();
  }
});

gpuTest("the device's clock gives each work its time, by timestamps and by waiting", async () => {
  const x = tensor(randoms(256 * 256, 1), [256, 256]), y = empty([256, 256]);
  const run = (times: number) => () => {
    for (let i = 0; i < times; i++) matmulInto({ layout: "nt", x, w: x, y });
  };
  run(1)();
  for (const timestamps of [gpu().features.timestamps, false]) {
    const clock = await deviceClock({ ...gpu(), features: { ...gpu().features, timestamps } });
    const [none, some, many] = await clock([() => {}, run(2), run(200)]);
    assert.ok([none, some, many].every((ms) => Number.isFinite(ms)));
    // a hundred times as many launches, each timed: an order, no speed
    if (timestamps) assert.ok(none === 0 && some! > 0 && many! > some!, `${none} ${some} ${many}`);
  }
  for (const t of [x, y]) t.dispose();
});
