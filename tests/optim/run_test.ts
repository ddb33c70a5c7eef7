import assert from "node:assert/strict";
import { openSafetensors } from "../../lib/formats/mod.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import {
  bytesOf,
  dataFolder,
  MODEL_CONFIG,
  quietTrain,
  rowsOf,
  sweep,
  tinySettings,
} from "../train/run_helper.ts";

/** Three million parameters: three chunks of AdamW's state, of which two are under way. */
const config = { ...MODEL_CONFIG, hidden_size: 512, intermediate_size: 768, num_hidden_layers: 1 };

async function trained(data: string, more: Partial<TrainSettings>) {
  const s = tinySettings(data, {
    ...{ use_peft: false, nibble_model_config: config, weight_decay: 0.1, max_steps: 2, learning_rate: 1e-4 },
    ...{ per_device_train_batch_size: 2, lr_scheduler_type: "constant", max_length: 24 },
    ...more,
  });
  const run = await quietTrain(s);
  return { s, run, plan: run.notes.find((n) => n.startsWith("plan "))! };
}

Deno.test("a budget too small for AdamW's state trains on with paged_adamw_32bit, to the same bits", async () => {
  const data = dataFolder(rowsOf(4)), file = "model.safetensors";
  const whole = await trained(data, { optim: "adamw_torch" });
  const free = await trained(data, { optim: "paged_adamw_32bit", save_strategy: "steps", save_steps: 1 });
  const peak = free.run.memory.peakBytes, saved = whole.run.memory.peakBytes - peak;
  assert.ok(saved > 4e6, `${whole.run.memory.peakBytes} bytes unpaged, ${peak} paged`);
  assert.match(free.plan, /optimizer state on the host 2\d\.\d MiB/);
  // both lines give MiB to one decimal
  const planned = Number(/optimizer ([\d.]+) MiB/.exec(free.plan)![1]);
  assert.ok(Math.abs(planned - free.run.memory.atPeak.optimizer / 2 ** 20) <= 0.051, free.plan);

  const tight = { nibble_memory_budget_gb: (peak + saved / 2) / 1e9 };
  await assert.rejects(trained(data, { optim: "adamw_torch", ...tight }), /paged_\* or 8-bit optim/);
  const squeezed = await trained(data, { optim: "paged_adamw_32bit", ...tight });
  const resume_from_checkpoint = `${free.s.output_dir}/checkpoint-1`;
  const resumed = await trained(data, { optim: "paged_adamw_32bit", resume_from_checkpoint });
  const roomy = await trained(data, { optim: "paged_adamw_32bit", nibble_memory_budget_gb: 1 });
  assert.ok(!roomy.plan.includes("on the host"), roomy.plan);
  for (const { s } of [free, squeezed, resumed, roomy]) {
    assert.equal(bytesOf(s.output_dir, file), bytesOf(whole.s.output_dir, file));
  }
  sweep(data, ...[whole, free, squeezed, resumed, roomy].map(({ s }) => s.output_dir));
  await openGpu({}); // the runs within a budget opened devices of their own
});

Deno.test("8-bit state is saved as bytes, and a run goes on from it to the same bits", async () => {
  const data = dataFolder(rowsOf(4)), file = "model.safetensors";
  const more = {
    optim: "adamw_bnb_8bit" as const,
    nibble_model_config: { ...MODEL_CONFIG, hidden_size: 64, intermediate_size: 96 }, // layers of 4,096 and 6,144
    max_steps: 3,
    learning_rate: 1e-3,
  };
  const whole = await trained(data, { ...more, save_strategy: "steps", save_steps: 2 });
  const checkpoint = `${whole.s.output_dir}/checkpoint-2`;
  const resumed = await trained(data, { ...more, resume_from_checkpoint: checkpoint });
  assert.equal(bytesOf(resumed.s.output_dir, file), bytesOf(whole.s.output_dir, file));
  const saved = openSafetensors(`${checkpoint}/optimizer.safetensors`);
  const types = ["state1.0", "absmax1.0", "exp_avg.1"].map((name) => saved.tensors.get(name)?.dtype);
  saved.close();
  assert.deepEqual(types, ["U8", "F32", "F32"]);
  sweep(data, whole.s.output_dir, resumed.s.output_dir);
});
