import assert from "node:assert/strict";
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
const input = () =>
  modelInput({
    ids: Uint32Array.from(IDS),
    positions: Uint32Array.from(IDS.keys()),
    segments: new Uint32Array(IDS.length).fill(1),
    batch: 1,
    time: IDS.length,
  });

for (const [name, options] of [["dense", {}], ["NF4", NF4]] as const) {
  gpuTest(`a block that runs again gives the same gradients without its last product: ${name}`, async () => {
    using adapted = await adapt({ lora_dropout: 0.1, target_modules: "all-linear" }, options);
    const { model, pages } = adapted;
    let n = 0;
    for (const [name, t] of pages.tensors) if (name.includes("lora_B")) t.write(randoms(t.size, 30 + n++));
    const unread: string[] = [];
    for (const layer of model.linears.values()) {
      const { adapter } = layer;
      layer.adapter = (x, context) => {
        if (context.unread) unread.push(layer.module);
        return adapter!(x, context);
      };
    }
    /** Gradients of all adapters. */
    const run = async (checkpointing: boolean) => {
      pages.zeroGrad();
      scope(() => {
        const options = { checkpointing, dropoutSeed: 3 };
        differentiate(
          () => linearCrossEntropy(forward(model, input(), options), model.head, LABELS).stats,
          undefined,
        );
      });
      const gradients = [];
      for (const t of pages.tensors.values()) gradients.push(...await t.grad!.data());
      return gradients;
    };
    const kept = await run(false);
    assert.deepEqual(unread, []);
    const again = await run(true);
    assert.ok(kept.some((g) => Math.abs(g) > 1e-3));
    assert.deepEqual(again, kept);
    assert.deepEqual(unread, [1, 0].map((i) => `model.layers.${i}.mlp.down_proj`));
  });
}
