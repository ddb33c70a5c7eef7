/** Runs and plans with generated weights: real shapes, nothing fetched. */
import assert from "node:assert/strict";
import { fromFileUrl, join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { fetchModel } from "../../lib/hub/mod.ts";
import { readConfig } from "../../lib/model/config.ts";
import { KNOWN_CONFIGS } from "../../lib/model/known_configs.ts";
import { parameterShapes } from "../../lib/model/parameters.ts";
import { repeatedSource } from "../../lib/model/random_source.ts";
import { readRecipe } from "../../lib/recipe/mod.ts";
import { planRecipe, planTable } from "../../lib/train/plan_recipe.ts";
import { gpuTest } from "../gpu_helper.ts";
import { failsWith, names, REPO, startHub, withHome } from "../hub/fake_hub.ts";
import { MODEL_CONFIG, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

/** No Hub is to be had, and the home is empty. */
const alone = (work: (home: string) => Promise<void>) => withHome({ HF_HUB_OFFLINE: "1" }, work);

Deno.test("generated weights depend on seed and name, not on how they are read, and are normal", () => {
  const config = readConfig(MODEL_CONFIG, "test");
  const source = repeatedSource(config, 3);
  const name = "model.embed_tokens.weight";
  const whole = source.readF32(name);
  assert.deepEqual(source.readF32(name, 1000, 3000), whole.slice(1000, 3000));
  assert.deepEqual(source.readF32("model.norm.weight"), new Float32Array(32).fill(1));
  assert.notDeepEqual(repeatedSource(config, 4).readF32(name, 0, 64), whole.slice(0, 64));
  assert.notDeepEqual(source.readF32("model.layers.0.mlp.up_proj.weight", 0, 64), whole.slice(0, 64));
  const square = whole.reduce((a, b) => a + b * b, 0) / whole.length;
  // 65,536 numbers of deviation 0.1: the mean square errs by 0.01 * sqrt(2 / 65536), five of which are 0.00028
  assert.ok(Math.abs(square - 0.01) < 0.00028, `${square}`);
});

/** Settings of the 7B recipe with generated weights. */
function settings7b(...more: string[]) {
  const path = fromFileUrl(new URL("../../recipes/zephyr-7b-beta/sft/config_qlora.yaml", import.meta.url));
  return readRecipe(path, ["--random_weights", ...more]).settings;
}

Deno.test("known configs: the parameters that the models' names promise", () => {
  const counts = Object.entries(KNOWN_CONFIGS).map(([id, raw]) => {
    const shapes = parameterShapes(readConfig(raw, id));
    return [id.split("/")[1], shapes.reduce((n, { shape }) => n + shape.reduce((a, b) => a * b), 0)];
  });
  assert.deepEqual(Object.fromEntries(counts), {
    "Mistral-7B-v0.1": 7_241_732_096,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
  });
});

gpuTest(
  "the 7B recipe is planned with nothing at hand: its weights in 4 bits, and the total in GB",
  async () => {
    await alone(async () => {
      const settings = settings7b();
      const notes: string[] = [];
      const plan = await planRecipe(settings, { onNote: (text) => notes.push(text) });
      const table = planTable(plan);
      const total = Number(/^total +(\d+\.\d\d) GB$/m.exec(table)?.[1]);
      assert.equal(total, Number((plan.memory.peakBytes / 1e9).toFixed(2)), table);
      // 6,979,321,856 weights in blocks at 4.127 bits, and 2 * 32000 * 4096 of embedding and output in 16
      const base = 6_979_321_856 * 4.127 / 8 + 2 * 2 * 32000 * 4096;
      assert.ok(Math.abs(plan.memory.atPeak.base / base - 1) < 0.01, `${plan.memory.atPeak.base} of ${base}`);
      assert.equal(plan.memory.atPeak.adapter, 4 * 41_943_040, "rank 16 on seven projections");
      assert.equal(plan.longest, 512);
      // the floor is the base, 0.67 of adapter, gradients and state, and 0.27 of checkpoints; the ceiling is promised
      assert.ok(total > 5 && total <= 5.4, `${total} GB`);
      const held = plan.memory.heldPeakBytes / plan.memory.peakBytes;
      assert.ok(held < 1.05, `what waits for reuse makes it ${held} times as much`);
      assert.match(notes.join("\n"), /tokenizer .* stands in[\s\S]*data .*generated rows/);
    });
  },
);

gpuTest(
  "the 7B recipe with paged state takes less",
  async () => {
    await alone(async () => {
      const paged = await planRecipe(settings7b("--optim=paged_adamw_32bit"));
      assert.ok(paged.memory.peakBytes < 5.005e9, `${paged.memory.peakBytes}`);
      assert.equal(paged.hostBytes, 8 * 41_943_040, "two numbers of state a weight of the adapter");
    });
  },
);

gpuTest(
  "a run with generated weights takes its steps; without the flag the same recipe says what is missing",
  async () => {
    await alone(async () => {
      const s = tinySettings("org/nowhere", {
        ...{
          model_name_or_path: "org/nothing",
          load_in_4bit: true,
          nibble_random_weights: true,
          max_steps: 2,
        },
        ...{ do_eval: true, gradient_checkpointing: true },
      });
      const r = await quietTrain(s);
      assert.equal(r.steps, 2);
      assert.ok(r.logs.every((log) => Number.isFinite(log.loss) && log.grad_norm > 0));
      assert.ok(names(s.output_dir).includes("adapter_model.safetensors"));
      await assert.rejects(
        quietTrain({ ...s, nibble_random_weights: false }),
        failsWith("hub/not-found", "org/nothing"),
      );
      await assert.rejects(
        quietTrain({ ...s, nibble_model_config: null }),
        failsWith("train/no-config", "org/nothing", "nibble_model_config", "mistralai/Mistral-7B-v0.1"),
      );
      sweep(s.output_dir);
    });
  },
);

Deno.test("config and tokenizer of a model are fetched without its weights, which are completed later", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const folder = await fetchModel("org/tiny", { weights: false });
    assert.ok(names(folder).includes("config.json") && names(folder).includes("tokenizer.json"));
    assert.ok(!names(folder).some((name) => name.endsWith(".safetensors")));
    hub.seen.length = 0;
    assert.equal(await fetchModel("org/tiny", { weights: false }), folder);
    assert.equal(hub.seen.length, 0, "from the cache");
    assert.equal(await fetchModel("org/tiny"), folder);
    assert.ok(names(folder).includes("model.safetensors"));
    assert.equal(Deno.readFileSync(join(folder, "model.safetensors")).length, 300_001);
  });
});

// last: the budget opens a device of its own
Deno.test("the 7B model trained whole is refused with the number that it takes", async () => {
  await alone(async () => {
    const whole = settings7b(
      ...["--load_in_4bit=false", "--use_peft=false", "--torch_dtype=float32"],
      "--nibble_memory_budget_gb=24",
    );
    await assert.rejects(planRecipe(whole), (error: unknown) => {
      assert.ok(error instanceof NibbleError && error.code === "gpu/budget", String(error));
      const needed = Number(/needs (\d+) MiB/.exec(error.message)?.[1]) * 2 ** 20;
      // weights, gradients and two numbers of state, 16 bytes a weight; up to 2 % of activations and scratch
      const least = 16 * 7_241_732_096;
      assert.ok(needed > least && needed < 1.02 * least, error.message);
      return true;
    });
  });
});
