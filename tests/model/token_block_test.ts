import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { addLora } from "../../lib/api.ts";
import { generate } from "../../lib/model/generate.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits, type Model } from "../../lib/model/model.ts";
import { tokenBlocks } from "../../lib/model/token_block.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { noGrad } from "../../lib/tensor/tape.ts";
import { scope, zeros } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice } from "./tiny.ts";

await warmDevice();

const SIZES = { hidden_size: 64, intermediate_size: 96 };
const NF4 = { quantType: "nf4", blocksize: 64, doubleQuant: true } as const;

async function tiny(more: Record<string, unknown> = {}): Promise<Model> {
  const raw = tinyConfig({ ...SIZES, ...more });
  return await buildModel(raw, memorySource(raw, tinyWeights(raw, 6)), { quantization: NF4 });
}

/** How many of a model's blocks go one token at a time. */
function count(model: Model): number {
  return noGrad(() =>
    scope(() => {
      const width = model.config.num_key_value_heads * model.config.head_dim;
      const made = tokenBlocks(
        model,
        model.blocks.map(() => ({ k: zeros([20, width]), v: zeros([20, width]) })),
      );
      made.forEach((block) => block.dispose());
      return made.length;
    })
  );
}

/** Tokens that the full pass finds likeliest, one after the other. */
async function likeliest(model: Model, prompt: readonly number[], n: number): Promise<number[]> {
  const all = [...prompt];
  for (let i = 0; i < n; i++) {
    const row = (await logits(model, all)).subarray((all.length - 1) * 61);
    all.push(row.indexOf(Math.max(...row)));
  }
  return all.slice(prompt.length);
}

const PROMPT = [5, 17, 60, 2, 9];

for (
  const [what, more] of [
    ["Llama", {}],
    ["Mistral, window 4", { model_type: "mistral", sliding_window: 4 }],
    ["GELU instead of SiLU", { hidden_act: "gelu_pytorch_tanh" }],
  ] as const
) {
  for (const adapted of [false, true]) {
    gpuTest(
      `tokens of blocks in few launches are those of the full pass: ${what}, adapter ${adapted}`,
      async () => {
        const model = await tiny(more);
        const lora = adapted
          ? addLora(model, { r: 8, target_modules: ["q_proj", "v_proj", "down_proj"] })
          : undefined;
        if (lora) [...lora.layers.values()].forEach(({ b }, i) => b.write(randoms(b.size, 40 + i)));
        assert.equal(count(model), vectorLanes(gpu()) > 0 ? 2 : 0);
        const run = (prompt: number[], more = {}) =>
          generate(model, prompt, { max_new_tokens: 12, eos_token_id: [], ...more });
        const { ids } = await run(PROMPT);
        assert.deepEqual(ids, await likeliest(model, PROMPT, 12));
        assert.deepEqual((await run(PROMPT, { holdWeights: false })).ids, ids);
        assert.deepEqual((await run([7])).ids, await likeliest(model, [7], 12), "from the first position on");
        if (lora) {
          lora.enabled = false;
          const base = await run(PROMPT);
          assert.deepEqual(base.ids, await likeliest(model, PROMPT, 12), "the base alone");
          assert.notDeepEqual(base.ids, ids);
          lora.dispose();
        }
        model.dispose();
      },
    );
  }
}

gpuTest("blocks that do not suit go as they always did", async () => {
  for (
    const more of [
      { model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], head_dim: 16 }, // norms over heads
      { model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] }, // biases
      { intermediate_size: 44 }, // rows that fill no texel
    ]
  ) {
    const model = await tiny(more);
    assert.equal(count(model), 0, JSON.stringify(more));
    model.dispose();
  }
  const model = await tiny();
  const lora = addLora(model, { r: 8, target_modules: ["o_proj"], use_dora: true });
  assert.equal(count(model), 0, "DoRA is more than a product through a low rank");
  lora.dispose();
  model.dispose();
});
