/** Which run a checkpoint belongs to: one of another is refused by what differs, one of a finished run left alone. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { gpuTest } from "../gpu_helper.ts";
import { failsWith, withHome } from "../hub/fake_hub.ts";
import { settingsOf } from "./preference_helper.ts";
import {
  bytesOf,
  dataFolder,
  MODEL_CONFIG,
  quietTrain,
  rowsOf,
  sweep,
  tinySettings,
  warmDevice,
} from "./run_helper.ts";

await warmDevice();

/** The keys that an error says differ. */
async function differing(s: TrainSettings): Promise<string[]> {
  let keys: string[] = [];
  await assert.rejects(quietTrain(s), (error) => {
    failsWith("train/resume-mismatch", "--resume_from_checkpoint=false", ", now ")(error);
    keys = /^The checkpoint was made with other (.*)$/m.exec((error as Error).message)![1]!.split(", ");
    return true;
  });
  return keys;
}
const notesOf = async (s: TrainSettings) => (await quietTrain(s)).notes.join("\n");

gpuTest("a checkpoint of another run is refused by what differs, and is not harmed", async () => {
  const data = dataFolder(), other = dataFolder(rowsOf(10, 50));
  const s = tinySettings(data, { max_steps: 4 });
  await quietTrain(s, {}, 2);
  const checkpoint = join(s.output_dir, "checkpoint-2");
  const kept = bytesOf(checkpoint, "optimizer.safetensors");
  const attempts: Partial<TrainSettings>[] = [
    ...[{ lora_r: 2 }, { lora_alpha: 16 }, { lora_target_modules: ["q_proj"] }, { use_rslora: true }],
    ...[{ init_lora_weights: "gaussian" }, { load_in_4bit: true }, { torch_dtype: "bfloat16" as const }],
    ...[{ learning_rate: 0.02 }, { lr_scheduler_type: "linear" as const }, { warmup_steps: 2 }],
    ...[{ optim: "sgd" as const }, { weight_decay: 0.1 }, { max_grad_norm: 2 }, { max_steps: 5 }],
    ...[{ per_device_train_batch_size: 2 }, { gradient_accumulation_steps: 2 }, { max_length: 63 }],
    ...[{ seed: 7 }, { data_seed: 7 }, { neftune_noise_alpha: 5 }, { packing: true }],
    ...[{ nibble_model_config: { ...MODEL_CONFIG, rope_theta: 5000 } }],
  ];
  for (const change of attempts) {
    assert.deepEqual(await differing({ ...s, ...change }), Object.keys(change));
  }
  assert.deepEqual(await differing({ ...s, dataset_name: other }), ["data"], "as many rows, but others");
  assert.deepEqual(await differing({ ...s, assistant_only_loss: false }), ["data", "assistant_only_loss"]);
  assert.deepEqual(await differing({ ...s, learning_rate: 0.02, lora_alpha: 4 }), [
    "lora_alpha",
    "learning_rate",
  ]);
  await assert.rejects(
    quietTrain({ ...s, learning_rate: 0.02 }),
    failsWith("train/resume-mismatch", `${checkpoint}: learning_rate 0.01, now 0.02`),
  );
  await assert.rejects(
    quietTrain({ ...s, resume_from_checkpoint: join(s.output_dir, "nowhere") }),
    failsWith("train/no-checkpoint", "nowhere"),
  );
  assert.equal(bytesOf(checkpoint, "optimizer.safetensors"), kept);

  // what decides nothing that is learned may change; so may the place of the data
  sweep(other);
  Deno.renameSync(data, other);
  const free: Partial<TrainSettings> = {
    ...{ dataset_name: other, logging_steps: 2, do_eval: true, per_device_eval_batch_size: 1 },
    ...{ gradient_checkpointing: true, adam_beta1: 0.9, bnb_4bit_quant_type: "fp4", dataset_streaming: true },
  };
  assert.match(await notesOf({ ...s, ...free }), /resumed .*checkpoint-2 at step 2 of 4/);
  sweep(other, s.output_dir);
});

gpuTest("a base of other content and labels that were turned round make another run too", async () => {
  const data = dataFolder();
  const base = tinySettings(data, { max_steps: 1, use_peft: false });
  await quietTrain(base);
  const s = tinySettings(data, {
    max_steps: 3,
    model_name_or_path: base.output_dir,
    nibble_model_config: null,
  });
  await quietTrain(s, {}, 2);
  await quietTrain({ ...base, seed: 8 });
  assert.deepEqual(await differing(s), ["base"]);

  await withHome({}, async () => {
    const judged = (flip: boolean) =>
      dataFolder(
        rowsOf(8).map((row, i) => {
          const [prompt, completion] = (row as { messages: unknown[] }).messages;
          return { prompt: [prompt], completion: [completion], label: (i % 2 === 0) !== flip };
        }),
      );
    const [one, two] = [judged(false), judged(true)];
    const kto = settingsOf("kto", one, { max_steps: 3, do_eval: false, eval_on_start: false });
    await quietTrain(kto); // scores the reference, which looks at the signal too
    await quietTrain({ ...kto, resume_from_checkpoint: "false" }, {}, 1);
    assert.deepEqual(await differing({ ...kto, dataset_name: two }), ["data"]);
    sweep(one, two, kto.output_dir);
  });
  sweep(data, base.output_dir, s.output_dir);
});

gpuTest(
  "a finished run is not gone on with unasked, whatever it left and whatever the settings",
  async () => {
    const data = dataFolder();
    const s = tinySettings(data, { max_steps: 5 });
    await quietTrain(s, {}, 2);
    assert.match(await notesOf(s), /resumed .*checkpoint-2 at step 2 of 5/);
    const whole = bytesOf(s.output_dir);
    const checkpoint = join(s.output_dir, "checkpoint-2");
    for (const change of [{ resume_from_checkpoint: "" }, { learning_rate: 0.02 }, { load_in_4bit: true }]) {
      const r = await quietTrain({ ...s, ...change });
      assert.equal(r.logs.length, 5);
      assert.ok(
        r.notes.includes(
          `note        the finished run in ${s.output_dir} is not continued, this one starts afresh; ` +
            `to go on from its last checkpoint: --resume_from_checkpoint=${checkpoint}`,
        ),
        r.notes.join("\n"),
      );
    }
    for (const wish of [checkpoint, "true"]) {
      assert.match(
        await notesOf({ ...s, resume_from_checkpoint: wish }),
        /resumed .*checkpoint-2 at step 2 of 5/,
      );
      assert.equal(bytesOf(s.output_dir), whole);
    }
    // a run that is stopped there goes on, over what the finished one left
    const other = { ...s, learning_rate: 0.02 };
    await quietTrain(other, {}, 1);
    assert.match(await notesOf(other), /resumed .*checkpoint-1 at step 1 of 5/);
    sweep(data, s.output_dir);
  },
);

gpuTest("a run is made longer by naming its checkpoint, and by nothing else", async () => {
  const data = dataFolder();
  const saving = { save_strategy: "steps", save_steps: 2, lr_scheduler_type: "constant" } as const;
  const s = tinySettings(data, { max_steps: 2, warmup_steps: 0, ...saving });
  const straight = tinySettings(data, { max_steps: 5, warmup_steps: 0, ...saving });
  await quietTrain(straight);
  await quietTrain(s);
  const checkpoint = join(s.output_dir, "checkpoint-2");
  const long = await quietTrain({ ...s, max_steps: 5, resume_from_checkpoint: checkpoint });
  assert.match(
    long.notes.join("\n"),
    /resumed .*checkpoint-2 at step 2 of 5; it was a run of 2, the learning rate goes on by the schedule of 5/,
  );
  assert.equal(bytesOf(s.output_dir), bytesOf(straight.output_dir));
  const state = JSON.parse(Deno.readTextFileSync(join(s.output_dir, "trainer_state.json")));
  assert.deepEqual([state.global_step, state.max_steps], [5, 5]);

  const broken = tinySettings(data, { max_steps: 4 });
  await quietTrain(broken, {}, 2);
  const at = join(broken.output_dir, "checkpoint-2");
  await assert.rejects(
    quietTrain({ ...broken, max_steps: 6 }),
    failsWith("train/resume-mismatch", "max_steps 4, now 6", `--resume_from_checkpoint=${at}`),
  );
  await assert.rejects(
    quietTrain({ ...broken, max_steps: 2, resume_from_checkpoint: at }),
    failsWith("train/resume-mismatch", "max_steps 4, now 2", "at step 2"),
  );
  sweep(data, s.output_dir, straight.output_dir, broken.output_dir);
});

gpuTest("a checkpoint of an earlier nibble says that it is one", async () => {
  const data = dataFolder();
  const s = tinySettings(data, { max_steps: 3 });
  await quietTrain(s, {}, 2);
  const path = join(s.output_dir, "checkpoint-2", "nibble_state.json");
  const { written: _, ...saved } = JSON.parse(Deno.readTextFileSync(path));
  const fingerprint = { parameters: "", data: "", optim: "" };
  Deno.writeTextFileSync(path, JSON.stringify({ ...saved, version: 1, fingerprint }));
  await assert.rejects(
    quietTrain(s),
    failsWith("train/old-checkpoint", "earlier nibble", "--resume_from_checkpoint=false"),
  );
  sweep(data, s.output_dir);
});
