import assert from "node:assert/strict";
import { join } from "@std/path";
import { gpu } from "../../lib/gpu/mod.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { gpuTest } from "../gpu_helper.ts";
import { withHome } from "../hub/fake_hub.ts";
import { pairsFolder, settingsOf } from "./preference_helper.ts";
import {
  bytesOf,
  dataFolder,
  type QuietRun,
  quietTrain,
  sweep,
  tinySettings,
  warmDevice,
} from "./run_helper.ts";

await warmDevice();

/** Scores of a reference are kept in the cache folder: each test has its own. */
const homeTest = (name: string, body: () => Promise<void>) => gpuTest(name, () => withHome({}, body));

/** Every figure of the log but the speed. */
const losses = (r: QuietRun) => r.logs.map(({ tokens_per_second: _, ...figures }) => figures);

/** Dropout where TRL has it off by default, and no evaluations. */
const STOCHASTIC = { lora_dropout: 0.2, disable_dropout: false, do_eval: false, eval_on_start: false };

for (
  const [what, file, more] of [
    ["LoRA with dropout", "adapter_model.safetensors", { lora_dropout: 0.2 }],
    ["QLoRA", "adapter_model.safetensors", { load_in_4bit: true, use_bnb_nested_quant: true }],
    ["QLoRA with dropout, packing and accumulation", "adapter_model.safetensors", {
      ...{ load_in_4bit: true, use_bnb_nested_quant: true, lora_dropout: 0.2, packing: true },
      ...{ gradient_accumulation_steps: 2, per_device_train_batch_size: 1 },
    }],
    ["full fine-tuning", "model.safetensors", { use_peft: false, weight_decay: 0.1 }],
    ["rmsprop", "adapter_model.safetensors", { optim: "rmsprop" }],
    ["DPO with dropout", "adapter_model.safetensors", { nibble_task: "dpo", ...STOCHASTIC }],
    ["KTO with dropout", "adapter_model.safetensors", {
      ...{
        nibble_task: "kto",
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 3,
        ...STOCHASTIC,
      },
    }],
    ["ORPO in four bits, with dropout", "adapter_model.safetensors", {
      ...{ nibble_task: "orpo", load_in_4bit: true, use_bnb_nested_quant: true, ...STOCHASTIC },
    }],
  ] as [string, string, Partial<TrainSettings>][]
) {
  const { nibble_task: task = "sft" } = more, pairs = task !== "sft";
  homeTest(`seven steps give the bits of three, a stop and four more: ${what}`, async () => {
    const data = pairs ? pairsFolder() : dataFolder();
    // 10 rows, 2 batches of 2 a step: 3 steps an epoch, the third over a part of a window (KTO: 20 answers, 4 steps); logs
    // every 2 steps, so that the stop after step 3 falls into an interval
    const settings = () =>
      (pairs ? settingsOf.bind(undefined, task!) : tinySettings)(data, {
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 2,
        max_steps: 7,
        logging_steps: 2,
        save_strategy: "steps",
        save_steps: 5,
        ...more,
      });
    const whole = settings();
    const straight = await quietTrain(whole);

    const broken = settings();
    const first = await quietTrain(broken, {}, 3);
    assert.ok(first.stopped);
    assert.equal(first.steps, 3);
    assert.match(first.notes.join("\n"), /stopped +after step 3 of 7; run the same command again to go on/);
    assert.ok(Deno.statSync(join(broken.output_dir, "checkpoint-3")).isDirectory);
    const second = await quietTrain(broken);
    assert.match(
      second.notes.join("\n"),
      /resumed .*checkpoint-3 at step 3 of 7/,
    );
    assert.equal(second.steps, 7);
    assert.equal(bytesOf(broken.output_dir, file), bytesOf(whole.output_dir, file), "the trained weights");
    assert.deepEqual([...losses(first), ...losses(second)], losses(straight), "and the logged figures");
    const logged = Deno.readTextFileSync(join(broken.output_dir, "logs.jsonl")).trim().split("\n")
      .map((l) => JSON.parse(l)).filter((l) => l.loss !== undefined).map((l) => l.step);
    assert.deepEqual(logged, [2, 4, 6, 7], "one line an interval");

    const elsewhere = { ...settings(), resume_from_checkpoint: join(whole.output_dir, "checkpoint-5") };
    const third = await quietTrain(elsewhere);
    assert.equal(
      bytesOf(elsewhere.output_dir, file),
      bytesOf(whole.output_dir, file),
      "from a named checkpoint",
    );
    assert.deepEqual(losses(third), losses(straight).slice(-2));
    sweep(data, whole.output_dir, broken.output_dir, elsewhere.output_dir);
  });
}

gpuTest("a run goes on with the kernels that it began with, whatever was measured since", async () => {
  if (!gpu().features.f16) return; // the kernels that change bits
  const classes = ["short", "narrow", "shallow", "medium"];
  const half = new Map(
    ["nt", "nn", "tn"].flatMap((layout) =>
      classes.map((kind) => [`matmul.${layout}.${kind}`, "half64"] as const)
    ),
  );
  const data = dataFolder(), file = "adapter_model.safetensors";
  const settings = () => tinySettings(data, { max_steps: 4, save_strategy: "steps", save_steps: 2 });
  const [tuned, broken, untuned] = [settings(), settings(), settings()];
  const from = (s: TrainSettings) => ({ ...s, resume_from_checkpoint: join(s.output_dir, "checkpoint-2") });
  try {
    gpu().choices = half;
    const straight = await quietTrain(tuned);
    assert.match(straight.notes.join("\n"), /kernels +matmul nn\.medium half64, /);
    assert.match(
      Deno.readTextFileSync(join(tuned.output_dir, "README.md")),
      /Kernels tuned there.*nt\.shallow half64/,
    );
    const bytes = bytesOf(tuned.output_dir, file);
    await quietTrain(broken, {}, 2);
    gpu().choices = new Map();
    const again = await quietTrain(broken);
    assert.match(again.notes.join("\n"), /kernels +as the checkpoint had them: matmul/);
    assert.deepEqual([...gpu().choices], [...half]);
    assert.equal(bytesOf(broken.output_dir, file), bytes);

    // control: by the rule's kernels the bits are others, so the above was no accident
    gpu().choices = new Map();
    const plain = await quietTrain(untuned);
    assert.notEqual(bytesOf(untuned.output_dir, file), bytes);
    assert.ok(!plain.notes.some((note) => note.startsWith("kernels")), "nothing to tell");
    const ruled = bytesOf(untuned.output_dir, file);
    gpu().choices = half;
    const back = await quietTrain(from(untuned));
    assert.match(back.notes.join("\n"), /kernels +as the checkpoint had them: by rule/);
    assert.equal(bytesOf(untuned.output_dir, file), ruled);

    // measured elsewhere, they are not taken, and the log says what that means
    const path = join(tuned.output_dir, "checkpoint-2", "nibble_state.json");
    const state = JSON.parse(Deno.readTextFileSync(path));
    Deno.writeTextFileSync(
      path,
      JSON.stringify({ ...state, kernels: { ...state.kernels, adapter: "RTX 9000" } }),
    );
    const moved = await quietTrain(from(tuned));
    assert.match(moved.notes.join("\n"), /kernels +by rule; the checkpoint was made on RTX 9000/);
  } finally {
    gpu().choices = new Map();
    sweep(data, tuned.output_dir, broken.output_dir, untuned.output_dir);
  }
});

gpuTest(
  "beside what an earlier, longer run left, a run keeps its own checkpoints and goes on from them",
  async () => {
    const data = dataFolder();
    const saving = { save_strategy: "steps", save_steps: 2, save_total_limit: 1 } as const;
    const s = tinySettings(data, { max_steps: 8, ...saving });
    await quietTrain(s);
    const shorter = { ...s, max_steps: 6 };
    const stopped = await quietTrain({ ...shorter, resume_from_checkpoint: "false" }, {}, 3);
    assert.equal(stopped.steps, 3);
    const left = [...Deno.readDirSync(s.output_dir)].map((e) => e.name).filter((n) =>
      n.startsWith("checkpoint")
    );
    assert.deepEqual(left, ["checkpoint-3"]);
    const again = await quietTrain(shorter);
    assert.match(again.notes.join("\n"), /resumed .*checkpoint-3 at step 3 of 6/);
    sweep(data, s.output_dir);
  },
);

gpuTest("a signal during the last step lets the run end whole", async () => {
  const data = dataFolder();
  const s = tinySettings(data, { max_steps: 2 });
  const control = new AbortController();
  const r = await quietTrain(s, {
    signal: control.signal,
    onLog: (log) => {
      if (log.step === 2) control.abort();
    },
  });
  assert.equal(r.steps, 2);
  assert.ok(!r.stopped, "a finished run was not stopped");
  assert.ok(bytesOf(s.output_dir).length > 0, "its adapter is there");
  sweep(data, s.output_dir);
});
