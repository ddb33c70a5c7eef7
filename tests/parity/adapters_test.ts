/**
 * Adapters made by PEFT (adapters/make_reference.py): chosen modules, logits, gradients, decompositions, and the folder
 * that nibble writes of each against PEFT's own.
 *
 * Both sides compute in f32. An element errs by the roundings of a sum of at most 44 products in each of 10 products in
 * a row, once on each side: 2 · 440 EPS of the largest value bounds it with room.
 */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { openModel, openSafetensors, readAdapter } from "../../lib/formats/mod.ts";
import { type LoraConfig, loraConfigOf } from "../../lib/lora/config.ts";
import { startLayer } from "../../lib/lora/init.ts";
import { type Adapter, adapterShapes } from "../../lib/lora/lora.ts";
import { loadAdapter, saveAdapter } from "../../lib/lora/peft.ts";
import { rankAndScale, targetModules } from "../../lib/lora/targets.ts";
import { buildModel } from "../../lib/model/load.ts";
import { forward, logits, type Model, modelInput } from "../../lib/model/model.ts";
import { createParameterPages } from "../../lib/optim/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { allWithin, within } from "./within.ts";

await warmDevice();

const at = (name: string) => new URL(`adapters/${name}`, import.meta.url).pathname;
type Adapted = Record<string, [r: number, scaling: number]>;
interface Reference {
  ids: number[];
  cases: Record<string, { adapted: Adapted; nf4: boolean; settings: Record<string, unknown> }>;
  targets: { settings: Record<string, unknown>; adapted: Adapted }[];
}
const reference: Reference = JSON.parse(Deno.readTextFileSync(at("reference.json")));
const values = openSafetensors(at("reference.safetensors"));
const stored = new Map([...values.tensors.keys()].map((name) => [name, values.readF32(name)]));
values.close();
const { ids: IDS } = reference;

const largest = (x: ArrayLike<number>) => Array.from(x).reduce((a, v) => Math.max(a, Math.abs(v)), 0);
const tolerance = (x: ArrayLike<number>) => 2 * 440 * EPS * largest(x);
const NF4 = { quantType: "nf4", blocksize: 64, doubleQuant: false } as const;

async function base(nf4 = false): Promise<Model> {
  const files = openModel(at("base"));
  const model = await buildModel(files.config, files.source, nf4 ? { quantization: NF4 } : {});
  files.source.close();
  return model;
}

/** PEFT's adapter of a case, on the model. */
function put(model: Model, folder: string, parameters?: Parameters<typeof loadAdapter>[2]): Adapter {
  const { source: weights } = openModel(at("base"));
  try {
    return loadAdapter(model, folder, { weights, ...parameters });
  } finally {
    weights.close();
  }
}

gpuTest("target_modules, exclude_modules, layers and patterns choose what PEFT chooses", async () => {
  const model = await base();
  const differing = new Set<string>();
  for (const { settings, adapted } of reference.targets) {
    const config = {
      ...{ r: 4, lora_alpha: 6, lora_dropout: 0, use_rslora: false },
      ...settings,
    } as unknown as LoraConfig;
    const got = Object.fromEntries(targetModules(model, config).map((module) => {
      const { r, scaling } = rankAndScale(config, module);
      return [module, [r, scaling]];
    }));
    assert.deepEqual(got, adapted, JSON.stringify(settings));
    differing.add(JSON.stringify(adapted));
  }
  assert.ok(differing.size >= reference.targets.length - 2, "the cases differ, so none passes by doing nothing");
  model.dispose();
});

for (const [name, { adapted, nf4 }] of Object.entries(reference.cases)) {
  gpuTest(`${name}: PEFT's folder gives PEFT's logits, and nibble's folder of it is PEFT's`, async () => {
    const model = await base(nf4);
    const before = await logits(model, IDS);
    const adapter = put(model, at(name));
    const want = stored.get(`${name}.logits`)!;
    assert.deepEqual(
      Object.fromEntries([...adapter.layers].map(([m, { a, scaling }]) => [m, [a.rows, scaling]])),
      adapted,
    );
    const got = await logits(model, IDS);
    allWithin("adapters: logits", name, got, want, tolerance(want));
    const moved = largest(got.map((v, i) => v - before[i]!));
    assert.ok(moved > 100 * tolerance(want), `the adapter says something: ${moved}`);
    adapter.enabled = false;
    const off = await logits(model, IDS);
    // PiSSA and OLoRA put back what they took out, in f32; all else is the base itself
    const changed = [...adapter.layers.values()].some((l) => l.initial);
    if (changed) assertClose(off, before, tolerance(before), "off");
    else assert.deepEqual(off, before, "off");
    adapter.enabled = true;

    const folder = Deno.makeTempDirSync();
    await saveAdapter(adapter, folder, { base: "base" });
    const ours = readAdapter(folder), theirs = readAdapter(at(name));
    assert.deepEqual([...ours.tensors.keys()].sort(), [...theirs.tensors.keys()].sort());
    if (!changed) {
      for (const [key, { shape, data }] of theirs.tensors) {
        assert.deepEqual(ours.tensors.get(key)!.shape, shape, key);
        assert.deepEqual(ours.tensors.get(key)!.data, data, key);
      }
      const fields = (c: typeof ours.config) => loraConfigOf(sorted(c), []);
      assert.deepEqual(fields(ours.config), fields(theirs.config));
    }
    adapter.remove();
    model.dispose();

    const fresh = await base(nf4);
    const again = put(fresh, folder);
    allWithin("adapters: logits, saved and loaded", name, await logits(fresh, IDS), want, tolerance(want));
    again.remove();
    fresh.dispose();
    Deno.removeSync(folder, { recursive: true });
  });
}

/** Lists of names without an order, as PEFT's sets are. */
function sorted<T extends { target_modules: unknown; modules_to_save: unknown }>(config: T): T {
  const list = (x: unknown) => Array.isArray(x) ? [...x].sort() : x;
  return { ...config, target_modules: list(config.target_modules), modules_to_save: list(config.modules_to_save) };
}

const withGradients = Object.keys(reference.cases).filter((name) => stored.has(`${name}.loss`));
for (const name of withGradients) {
  gpuTest(`${name}: loss and gradients of what trains are PyTorch's`, async () => {
    const model = await base(reference.cases[name]!.nf4);
    const config = loraConfigOf(readAdapter(at(name)).config, []);
    const pages = createParameterPages(adapterShapes(model, config), "adapter");
    const adapter = put(model, at(name), { parameters: pages.tensors });
    const labels = Int32Array.from([...IDS.slice(1), -100]);
    const loss = async () => {
      pages.zeroGrad();
      const stats = scope(() => {
        const n = IDS.length;
        const input = modelInput({
          ids: Uint32Array.from(IDS),
          positions: Uint32Array.from(IDS.keys()),
          segments: new Uint32Array(n).fill(1),
          batch: 1,
          time: n,
        });
        return differentiate(
          () => linearCrossEntropy(forward(model, input, { checkpointing: true }), model.head, labels).stats,
          undefined,
        ).output;
      });
      const sum = (await stats.data())[0]!;
      stats.dispose();
      return sum / (IDS.length - 1);
    };
    const want = stored.get(`${name}.loss`)![0]!;
    within("adapters: loss, relative", name, Math.abs(await loss() / want - 1), 2 * 440 * EPS);
    const named = new Map([...stored].flatMap(([key, v]) => {
      const prefix = `${name}.grad.`;
      if (!key.startsWith(prefix)) return [];
      const parameter = key.slice(prefix.length)
        .replace(/(lora_magnitude_vector)\.weight$/, "$1").replace(".base_layer.bias", ".bias");
      return [[parameter, v] as const];
    }));
    assert.deepEqual([...pages.tensors.keys()].sort(), [...named.keys()].sort(), "every parameter is compared");
    for (const [parameter, gradient] of named) {
      const got = (await pages.tensors.get(parameter)!.grad!.data()).map((v) => v / (IDS.length - 1));
      // the backward pass doubles the products in a row
      assertClose(got, gradient, 2 * tolerance(gradient), parameter);
    }
    adapter.remove();
    pages.dispose();
    model.dispose();
  });
}

gpuTest("a control: another alpha, and a norm that is not DoRA's, are told apart", async () => {
  const want = stored.get("dora.logits")!;
  const folder = Deno.makeTempDirSync();
  for (const change of [{ lora_alpha: 4 }, { use_rslora: true }]) {
    const model = await base();
    const settings = JSON.parse(Deno.readTextFileSync(at("dora/adapter_config.json")));
    Deno.writeTextFileSync(join(folder, "adapter_config.json"), JSON.stringify({ ...settings, ...change }));
    Deno.copyFileSync(at("dora/adapter_model.safetensors"), join(folder, "adapter_model.safetensors"));
    const adapter = put(model, folder);
    const error = largest((await logits(model, IDS)).map((v, i) => v - want[i]!));
    assert.ok(error > 100 * tolerance(want), `${JSON.stringify(change)}: ${error}`);
    adapter.remove();
    model.dispose();
  }
  Deno.removeSync(folder, { recursive: true });
});

gpuTest("PiSSA and OLoRA leave the base that PEFT leaves", async () => {
  for (const name of ["pissa", "olora"]) {
    const model = await base();
    const adapter = put(model, at(name));
    const residuals = [...stored].filter(([key]) => key.startsWith(`${name}.residual.`));
    assert.equal(residuals.length, 2);
    for (const [key, want] of residuals) {
      const { weight } = model.linears.get(key.slice(`${name}.residual.`.length))!;
      assert.ok("data" in weight);
      const got = await weight.data();
      // the decomposition in f32 errs by some EPS of the largest singular value, which here is below 4 largest elements
      assertClose(got, want, 64 * EPS * 4 * largest(want), key);
    }
    adapter.remove();
    model.dispose();
  }
});

gpuTest("LoftQ corrects NF4's error as the best matrix of its rank does", async () => {
  for (const [key, want] of stored) {
    const parts = /^loftq\.(plain|dq)\.(.*)$/.exec(key);
    if (!parts) continue;
    const files = openModel(at("base"));
    const doubleQuant = parts[1] === "dq";
    const model = await buildModel(files.config, files.source, { quantization: { ...NF4, doubleQuant } });
    const layer = model.linears.get(parts[2]!)!;
    for (const scaling of [1, 3]) {
      const { a, b, changedBase } = startLayer(layer, 2, scaling, { kind: "loftq" }, 1, { weights: files.source });
      assert.equal(changedBase, false);
      const [rows, columns] = layer.shape;
      const got = Float32Array.from({ length: rows * columns }, (_, i) => {
        const row = Math.floor(i / columns), column = i % columns;
        return scaling * (b[2 * row]! * a[column]! + b[2 * row + 1]! * a[columns + column]!);
      });
      // both are the truth to double precision, but for the error's own rounding to f32: half a unit of |w| < 2
      assertClose(got, want, 64 * EPS, `${key}, scaling ${scaling}`);
    }
    files.source.close();
    model.dispose();
  }
});
