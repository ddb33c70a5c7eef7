import assert from "node:assert/strict";
import { fixedRanks } from "../../lib/lora/fixed_ranks.ts";
import type { LoraConfig } from "../../lib/lora/lora.ts";
import { forward, modelInput } from "../../lib/model/model.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { adapt, NF4 } from "./adapt_helper.ts";

await warmDevice();

const IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3];
const LABELS = Int32Array.from([...IDS.slice(1), -100]);

/** Gradients of a pass by parameter, with shapes; A and B are the same numbers whatever `config` says. */
async function gradients(config: Partial<LoraConfig>, options = {}) {
  using adapted = adapt({ lora_dropout: 0.1, target_modules: "all-linear", ...config }, options);
  const { model, pages } = adapted;
  let n = 0;
  for (const t of pages.tensors.values()) {
    if (t.shape.length === 2) t.write(randoms(t.size, 30 + n++).map((v) => 0.3 * v));
  }
  pages.zeroGrad();
  scope(() => {
    const input = modelInput({
      ids: Uint32Array.from(IDS),
      positions: Uint32Array.from(IDS.keys()),
      segments: new Uint32Array(IDS.length).fill(1),
      batch: 1,
      time: IDS.length,
    });
    differentiate(
      () => linearCrossEntropy(forward(model, input, { dropoutSeed: 3 }), model.head, LABELS).stats,
      undefined,
    );
  });
  const all: [string, readonly number[], Float32Array][] = [];
  for (const [name, t] of pages.tensors) all.push([name, t.shape, await t.grad!.data()]);
  return all;
}

for (const use_dora of [false, true]) {
  gpuTest(
    `ranks of a correction have no gradient, the others the one they had${use_dora ? ": DoRA" : ""}`,
    async () => {
      const all = await gradients({ use_dora }, NF4);
      const some = await gradients({ use_dora, init_lora_weights: "qera_rank_1" }, NF4);
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

Deno.test("a correction takes half of the ranks, or what its name says, and leaves some", () => {
  const ranks = (ranks: number | undefined, r: number) => fixedRanks({ kind: "qera", ranks }, r);
  assert.deepEqual([ranks(undefined, 16), ranks(undefined, 7), ranks(12, 16)], [8, 3, 12]);
  assert.equal(fixedRanks({ kind: "loftq" }, 16), 0);
  assert.throws(() => ranks(16, 16), /rank 16 leaves 0 of lora_r 16 to train.*lora_r counts both/s);
  assert.throws(() => ranks(undefined, 1), /rank 0 leaves 1 of lora_r 1/);
});
