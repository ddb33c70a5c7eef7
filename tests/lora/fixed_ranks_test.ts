import assert from "node:assert/strict";
import { fixedRanks } from "../../lib/lora/fixed_ranks.ts";
import type { LoraConfig } from "../../lib/lora/lora.ts";
import { forward, modelInput } from "../../lib/model/model.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { keep, scope } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { adapt, type Adapted, NF4 } from "./adapt_helper.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];
const LABELS = Int32Array.from([...IDS.slice(1), -100]);

/** Uses an adapter whose A and B are the same numbers whatever `config` says. */
async function withAdapter<T>(
  config: Partial<LoraConfig>,
  use: (adapted: Adapted) => Promise<T>,
): Promise<T> {
  using adapted = await adapt({ target_modules: "all-linear", ...config }, NF4);
  let n = 0;
  for (const t of adapted.pages.tensors.values()) {
    if (t.shape.length === 2) t.write(randoms(t.size, 30 + n++).map((v) => 0.3 * v));
  }
  return await use(adapted);
}

/** Loss of a pass with the adapter's dropout; its gradients are in the pages then. */
async function lossOf({ model, pages }: Adapted, dropoutSeed: number | undefined = 3): Promise<number> {
  pages.zeroGrad();
  const { output } = scope(() => {
    const input = modelInput({
      ids: Uint32Array.from(IDS),
      positions: Uint32Array.from(IDS.keys()),
      segments: new Uint32Array(IDS.length).fill(1),
      batch: 1,
      time: IDS.length,
    });
    const { output } = differentiate(
      () => linearCrossEntropy(forward(model, input, { dropoutSeed }), model.head, LABELS).stats,
      undefined,
    );
    return { output: keep(output) };
  });
  const [loss] = await output.data();
  output.dispose();
  return loss!;
}

/** Gradients of a pass by parameter, with shapes. */
function gradients(config: Partial<LoraConfig>) {
  return withAdapter(config, async (adapted) => {
    await lossOf(adapted);
    const all: [string, readonly number[], Float32Array][] = [];
    for (const [name, t] of adapted.pages.tensors) all.push([name, t.shape, await t.grad!.data()]);
    return all;
  });
}

for (const use_dora of [false, true]) {
  gpuTest(
    `ranks of a correction have no gradient, the others the one they had${use_dora ? ": DoRA" : ""}`,
    async () => {
      const all = await gradients({ use_dora });
      const some = await gradients({ use_dora, init_lora_weights: "qera_rank_1" });
      let fixed = 0, trained = 0;
      for (const [k, [name, shape, values]] of some.entries()) {
        const whole = all[k]![2];
        if (shape.length !== 2) {
          assert.deepEqual(values, whole, name);
          continue;
        }
        const isA = name.includes("lora_A");
        for (const [i, v] of values.entries()) {
          const rank = isA ? Math.floor(i / shape[1]!) : i % shape[1]!;
          assert.equal(v, rank < 1 ? 0 : whole[i], `${name} ${i}`);
          if (rank < 1) fixed += Math.abs(whole[i]!);
          else trained += Math.abs(v);
        }
      }
      assert.ok(fixed > 1e-3 && trained > 1e-3, "both would have one");
    },
  );
}

gpuTest("dropout falls on the ranks that train alone, in both directions", async () => {
  const config = { init_lora_weights: "qera_rank_2", lora_dropout: 0.4 };
  await withAdapter(config, async (adapted) => {
    const { pages } = adapted;
    const parts = [...pages.tensors];
    const before = new Map<string, Float32Array<ArrayBuffer>>();
    for (const [name, t] of parts) before.set(name, await t.data());
    // along the gradient the loss rises by its square: with a part of the way back missing it would not
    const first = await lossOf(adapted);
    const slopes = new Map<string, Float32Array>();
    let square = 0;
    for (const [name, t] of parts) {
      const g = await t.grad!.data();
      slopes.set(name, g);
      for (const v of g) square += v * v;
    }
    const at = async (step: number) => {
      for (const [name, t] of parts) {
        t.write(before.get(name)!.map((v, i) => v + step * slopes.get(name)![i]!));
      }
      return await lossOf(adapted);
    };
    const step = 0.01 * first / square;
    const rise = (await at(step) - await at(-step)) / (2 * step);
    assert.ok(Math.abs(rise / square - 1) < 0.01, `${rise} along the gradient, ${square} is its square`);
    // with zeros where B trains there is nothing left that dropout reaches
    for (const [name, t] of parts) {
      const [, r] = t.shape as [number, number];
      t.write(before.get(name)!.map((v, i) => name.includes("lora_B") && i % r >= 2 ? 0 : v));
    }
    assert.equal(await lossOf(adapted), await lossOf(adapted, undefined));
  });
});

Deno.test("a correction takes half of the ranks, or what its name says, and leaves some", () => {
  const ranks = (ranks: number | undefined, r: number) => fixedRanks({ kind: "qera", ranks }, r);
  assert.deepEqual([ranks(undefined, 16), ranks(undefined, 7), ranks(12, 16)], [8, 3, 12]);
  assert.equal(fixedRanks({ kind: "loftq" }, 16), 0);
  assert.throws(() => ranks(16, 16), /rank 16 leaves 0 of lora_r 16 to train.*lora_r counts both/s);
  assert.throws(() => ranks(undefined, 1), /rank 0 leaves 1 of lora_r 1/);
});
