import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { openModel, readAdapter } from "../../lib/formats/mod.ts";
import { gpu, openGpu } from "../../lib/gpu/mod.ts";
import { loadAdapter } from "../../lib/lora/peft.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits } from "../../lib/model/model.ts";
import { learningRate } from "../../lib/optim/mod.ts";
import { evaluate } from "../../lib/train/evaluate.ts";
import type { Progress } from "../../lib/train/progress.ts";
import { train } from "../../lib/train/run.ts";
import { sft } from "../../lib/train/objectives/sft.ts";
import { openBase } from "../../lib/train/model_setup.ts";
import { planMemory } from "../../lib/train/plan.ts";
import { evalBatches, loadRows, trainingOrder } from "../../lib/train/prepare.ts";
import { prepareText } from "../../lib/train/prepare_text.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { gpuTest } from "../gpu_helper.ts";
import { bytesOf, dataFolder, quietTrain, rowsOf, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

/** What train() prepares before the model is loaded. */
async function prepared(s: TrainSettings) {
  const { files, tokenizer } = await openBase(s);
  const rows = await loadRows(s);
  const trainSide = prepareText(rows.train, tokenizer, s, "train");
  const evalSide = prepareText(rows.test ?? [], tokenizer, s, "eval");
  return {
    files,
    tokenizer,
    lengths: trainSide.lengths,
    order: trainingOrder(trainSide, s),
    evals: evalBatches(evalSide, s),
  };
}

gpuTest("a LoRA run learns and leaves a complete folder, whose adapter has the evaluated loss", async () => {
  const data = dataFolder();
  const s = tinySettings(data, {
    do_eval: true,
    max_steps: 8,
    save_strategy: "steps",
    save_steps: 3,
    save_total_limit: 1,
    report_to: ["tensorboard"],
    nibble_sample_prompts: ["Speak of love 1"],
    nibble_sample_max_new_tokens: 4,
  });
  const r = await quietTrain(s, { recipeText: "use_peft: true\n" });
  assert.equal(r.steps, 8);
  assert.ok(!r.stopped);
  assert.equal(r.logs.length, 8);
  assert.ok(Math.abs(r.before!.eval_loss - Math.log(2048)) < 0.5, "fresh weights know nothing");
  assert.ok(
    r.after!.eval_loss < r.before!.eval_loss - 0.3,
    `${r.before!.eval_loss} -> ${r.after!.eval_loss}`,
  );
  assert.ok(r.logs.at(-1)!.loss < r.logs[0]!.loss, "the training loss falls");
  for (const log of r.logs) {
    const want = learningRate("cosine", { step: log.step - 1, total: 8, warmup: 1, base: 1e-2 });
    assert.equal(log.learning_rate, want, `learning rate of step ${log.step}`);
    assert.ok(Number.isFinite(log.grad_norm) && log.grad_norm > 0);
    assert.ok(log.mean_token_accuracy >= 0 && log.mean_token_accuracy <= 1);
  }
  const names = [...Deno.readDirSync(s.output_dir)].map((e) => e.name).sort();
  for (
    const file of [
      "README.md",
      "adapter_config.json",
      "adapter_model.safetensors",
      "chat_template.jinja",
      "checkpoint-8",
      "eval_results.json",
      "logs.jsonl",
      "loss_curve.svg",
      "runs",
      "special_tokens_map.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "train_results.json",
      "trainer_state.json",
    ]
  ) assert.ok(names.includes(file), `${file} is missing among ${names}`);
  assert.ok(!names.some((n) => n.endsWith(".tmp")), "nothing half-written");
  assert.ok(!names.includes("checkpoint-6"), "save_total_limit removes the older checkpoints");
  const read = (name: string) => JSON.parse(Deno.readTextFileSync(join(s.output_dir, name)));
  assert.equal(read("eval_results.json").eval_loss, r.after!.eval_loss);
  assert.equal(read("trainer_state.json").global_step, 8);
  const history = read("trainer_state.json").log_history as Record<string, number>[];
  assert.deepEqual(
    history.filter((h) => h.loss !== undefined).map((h) => h.loss),
    r.logs.map((l) => Math.round(l.loss * 1e4) / 1e4),
  );
  const logged = Deno.readTextFileSync(join(s.output_dir, "logs.jsonl")).trim().split("\n").map((l) =>
    JSON.parse(l)
  );
  assert.deepEqual(logged.filter((l) => l.loss !== undefined).map((l) => l.step), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.match(
    Deno.readTextFileSync(join(s.output_dir, "README.md")),
    new RegExp(r.after!.eval_loss.toFixed(4).replace(".", "\\.")),
  );
  assert.equal(readAdapter(s.output_dir).config.r, 4);

  const { files, evals } = await prepared(s);
  const model = await buildModel(files.config, files.source, { maxPositions: 128 });
  assert.equal((await evaluate(sft, model, evals)).eval_loss, r.before!.eval_loss, "the base is as before");
  const adapter = loadAdapter(model, s.output_dir);
  assert.equal(
    (await evaluate(sft, model, evals)).eval_loss,
    r.after!.eval_loss,
    "the saved adapter is the trained one",
  );
  adapter.remove();
  model.dispose();
  sweep(data, s.output_dir);
});

gpuTest("full fine-tuning leaves a plain model folder that loads", async () => {
  const data = dataFolder();
  const s = tinySettings(data, { use_peft: false, do_eval: true, learning_rate: 5e-3, weight_decay: 0.1 });
  const r = await quietTrain(s);
  assert.ok(
    r.after!.eval_loss < r.before!.eval_loss - 0.3,
    `${r.before!.eval_loss} -> ${r.after!.eval_loss}`,
  );
  const files = openModel(s.output_dir);
  const model = await buildModel(files.config, files.source, { maxPositions: 128 });
  const { evals } = await prepared(s);
  assert.equal(
    (await evaluate(sft, model, evals)).eval_loss,
    r.after!.eval_loss,
    "the saved weights are the trained ones",
  );
  assert.ok((await logits(model, [1, 2, 3])).every((v) => Number.isFinite(v)));
  files.source.close();
  model.dispose();
  sweep(data, s.output_dir);
});

gpuTest("a QLoRA run: four bits, double quantization, checkpointing, dropout, packing", async () => {
  const data = dataFolder();
  const s = tinySettings(data, {
    load_in_4bit: true,
    use_bnb_nested_quant: true,
    gradient_checkpointing: true,
    lora_dropout: 0.1,
    packing: true,
    do_eval: true,
    per_device_train_batch_size: 2,
    max_steps: 12,
  });
  const r = await quietTrain(s);
  assert.ok(
    r.after!.eval_loss < r.before!.eval_loss - 0.3,
    `${r.before!.eval_loss} -> ${r.after!.eval_loss}`,
  );
  assert.match(r.notes.join("\n"), /14 linear layers quantized/);
  const { config } = readAdapter(s.output_dir);
  assert.equal(config.nibble?.base_quantization, "nf4+double");
  sweep(data, s.output_dir);
});

gpuTest("the same seed gives the same bits, another seed others", async () => {
  const data = dataFolder();
  const more = { lora_dropout: 0.1, load_in_4bit: true, max_steps: 3 } as const;
  const runs = [];
  for (const seed of [1, 1, 2]) {
    const s = tinySettings(data, { ...more, seed });
    await quietTrain(s);
    runs.push(bytesOf(s.output_dir));
    sweep(s.output_dir);
  }
  assert.equal(runs[0], runs[1]);
  assert.notEqual(runs[0], runs[2]);
  sweep(data);
});

gpuTest("memory is flat, and a logging interval reads back once", async () => {
  const data = dataFolder();
  // one length of rows: the pool has nothing new to make
  const s = tinySettings(data, {
    max_steps: 102,
    logging_steps: 3,
    packing: true,
    per_device_train_batch_size: 1,
  });
  const live: number[] = [], created: number[] = [], groups: number[] = [], readbacks: number[] = [];
  await quietTrain(s, {
    onLog() {
      const report = gpu().pool.report();
      live.push(report.liveBytes);
      created.push(report.created);
      groups.push(gpu().kernels.bindGroups());
      readbacks.push(gpu().stream.counters().readbacks);
    },
  });
  assert.equal(live.length, 34);
  assert.ok(live.every((bytes) => bytes === live[0]), `live bytes after steps 3, 6 ... 102: ${live}`);
  assert.equal(created.at(-1), created[0], "no buffer is made after the third step");
  assert.equal(groups.at(-1), groups[0], "no bind group is made after the third step");
  for (let i = 1; i < readbacks.length; i++) {
    assert.equal(readbacks[i]! - readbacks[i - 1]!, 1, `interval ${i + 1}`);
  }
  sweep(data, s.output_dir);
});

for (
  const [what, more] of [
    ["LoRA", {}],
    ["QLoRA with checkpointing", {
      load_in_4bit: true,
      use_bnb_nested_quant: true,
      gradient_checkpointing: true,
    }],
    ["full fine-tuning", { use_peft: false }],
    ["LoRA with dropout and evaluation in larger batches", {
      lora_dropout: 0.1,
      per_device_eval_batch_size: 16,
    }],
  ] as [string, Partial<TrainSettings>][]
) {
  gpuTest(`the plan says within 5 % what the run takes: ${what}`, async () => {
    const data = dataFolder(rowsOf(8), rowsOf(16, 50));
    const s = tinySettings(data, { ...more, do_eval: true, max_steps: 2, per_device_train_batch_size: 8 });
    const { files, order, evals, lengths } = await prepared(s);
    const longest = Math.max(...lengths, ...evals.map((b) => b.time));
    const maxPositions = Math.max(longest, s.max_length!) + s.nibble_sample_max_new_tokens + 64;
    const before = gpu().pool.report();
    const plan = await planMemory(s, { files, objective: sft, order, evals, maxPositions });
    assert.equal(gpu().pool.report().created, before.created, "planning allocates nothing");
    gpu().pool.resetPeak();
    const { memory } = await quietTrain(s);
    const measured = memory.peakBytes - before.liveBytes;
    const off = Math.abs(plan.memory.peakBytes - measured) / measured;
    assert.ok(off < 0.05, `planned ${plan.memory.peakBytes}, measured ${measured}`);
    for (const kind of ["adapter", "gradient", "optimizer"] as const) {
      assert.equal(plan.memory.atPeak[kind], memory.atPeak[kind], kind);
    }
    sweep(data, s.output_dir);
  });
}

async function refused(s: TrainSettings, code: RegExp, pattern: RegExp): Promise<void> {
  await assert.rejects(quietTrain(s), (e: unknown) => {
    assert.ok(e instanceof NibbleError, String(e));
    assert.match(e.code, code);
    assert.match(e.message, pattern);
    return true;
  });
  const left = [...Deno.readDirSync(s.output_dir)].map((e) => e.name);
  assert.deepEqual(left, [], "nothing is written before training can start");
}

gpuTest("what cannot be trained is refused before training, and nothing is written", async () => {
  const long = "word ".repeat(200);
  const masked = dataFolder(
    Array.from({ length: 3 }, () => ({
      messages: [{ role: "user", content: long }, { role: "assistant", content: "yes" }],
    })),
  );
  const good = dataFolder();
  const none = dataFolder([]);
  const columns = dataFolder([{ question: "a", reply: "b" }]);
  const before = gpu().pool.report().liveBytes;
  await refused(tinySettings(masked), /^data\//, /token/);
  await refused(tinySettings(none), /^data\//, /empty|no rows/i);
  await refused(tinySettings(columns), /^data\//, /question/);
  await refused(tinySettings(good, { nibble_task: "dpo" }), /^data\/no-columns$/, /chosen/);
  await refused(tinySettings(good, { lora_target_modules: ["qkv"] }), /^lora\/no-target$/, /qkv.*q_proj/s);
  await refused(
    tinySettings(good, { use_peft: false, load_in_4bit: true }),
    /^train\/frozen$/,
    /weights in 4 bits cannot be trained/,
  );
  await refused(
    tinySettings(good, { nibble_model_config: { model_type: "llama", hidden_size: 32 } }),
    /^model\/config$/,
    /intermediate_size|num_attention_heads/,
  );
  await refused(
    tinySettings(good, {
      nibble_model_config: {
        ...tinySettings(good).nibble_model_config,
        vocab_size: 100,
      },
    }),
    /^model\/vocabulary$/,
    /tokenizer has 2048 tokens, the model's embedding 100 rows/,
  );
  await refused(
    tinySettings(good, { resume_from_checkpoint: "true" }),
    /^train\/no-checkpoint$/,
    /no checkpoint/,
  );
  assert.equal(gpu().pool.report().liveBytes, before, "refusals give every buffer back");
  sweep(masked, good, none, columns);
});

Deno.test("a budget too small is refused by the plan, before the model is loaded", async () => {
  const data = dataFolder();
  const s = tinySettings(data, { nibble_memory_budget_gb: 0.0005 });
  await refused(s, /^gpu\/budget$/, /The run needs .*allows 0\.5 MiB.*nibble_memory_budget_gb/s);
  assert.equal(gpu().pool.report().created, 0, "not one buffer was made");
  const enough = tinySettings(data, { nibble_memory_budget_gb: 0.05, max_steps: 1 });
  await quietTrain(enough);
  await openGpu({});
  sweep(data, s.output_dir, enough.output_dir);
});

gpuTest("a stop during an evaluation is heard: the run saves and ends, or does not begin", async () => {
  const data = dataFolder();
  const stopped = async (more: Partial<TrainSettings>, at = 1) => {
    const s = tinySettings(data, { per_device_eval_batch_size: 1, max_steps: 6, ...more });
    const stop = new AbortController(), notes: string[] = [];
    let evaluations = 0;
    const reporter = {
      ...{ log() {}, done() {}, note: (text: string) => void notes.push(text) },
      step({ what, step }: Progress) {
        if (what === "evaluating" && step === 1 && ++evaluations === at) stop.abort();
      },
    };
    try {
      return { s, notes, run: await train(s, { reporter, signal: stop.signal }) };
    } catch (error) {
      return { s, notes, error };
    }
  };
  const during = await stopped({ eval_strategy: "steps", eval_steps: 2 });
  assert.deepEqual([during.run?.stopped, during.run?.steps], [true, 2]);
  assert.ok(Deno.statSync(join(during.s.output_dir, "checkpoint-2")).isDirectory);
  const before = await stopped({ do_eval: true });
  assert.ok(before.error instanceof NibbleError && before.error.code === "train/stopped");
  const after = await stopped({ do_eval: true }, 2);
  assert.deepEqual([after.run?.stopped, after.run?.steps, after.run?.after], [false, 6, undefined]);
  assert.ok(after.notes.includes("evaluation  after: stopped, left out"));
  sweep(data, during.s.output_dir, before.s.output_dir, after.s.output_dir);
});
