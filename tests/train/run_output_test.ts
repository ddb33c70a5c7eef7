/** What a run leaves behind: checkpoints, the best of them, uploads, records for other tools, noise. */
import assert from "node:assert/strict";
import { basename, join } from "@std/path";
import { openSafetensors } from "../../lib/formats/mod.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { failsWith, type FakeHub, startHub, withHome } from "../hub/fake_hub.ts";
import { gpuTest } from "../gpu_helper.ts";
import { bytesOf, dataFolder, quietTrain, rowsOf, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

const names = (folder: string) => [...Deno.readDirSync(folder)].map((e) => e.name).sort();
const stateOf = (folder: string) => JSON.parse(Deno.readTextFileSync(join(folder, "trainer_state.json")));

/** A rate so high that the evaluation worsens: the best is not the last. */
const OVERSHOOT: Partial<TrainSettings> = {
  ...{
    learning_rate: 0.3,
    lr_scheduler_type: "constant",
    warmup_steps: 0,
    max_steps: 5,
    max_grad_norm: null,
  },
  ...{ eval_strategy: "steps", eval_steps: 1, save_strategy: "steps", save_steps: 1, save_total_limit: 1 },
};

/** The evaluations of a run's history, in their order. */
function evaluations(history: Record<string, number>[]): { step: number; eval_loss: number }[] {
  return history.flatMap(({ step, eval_loss }) =>
    eval_loss === undefined ? [] : [{ step: step!, eval_loss }]
  );
}

for (
  const [what, file, more] of [
    ["LoRA", "adapter_model.safetensors", {}],
    ["full fine-tuning in bfloat16", "model.safetensors", {
      use_peft: false,
      torch_dtype: "bfloat16",
      learning_rate: 2,
    }],
    ["save_only_model", "adapter_model.safetensors", { save_only_model: true }],
  ] as [string, string, Partial<TrainSettings>][]
) {
  gpuTest(`load_best_model_at_end: the best parameters come back, bit for bit (${what})`, async () => {
    const data = dataFolder();
    const s = tinySettings(data, { ...OVERSHOOT, ...more, load_best_model_at_end: true });
    const r = await quietTrain(s);
    const { best_global_step, best_metric, best_model_checkpoint, log_history } = stateOf(s.output_dir);
    const onTheWay = evaluations(log_history).slice(0, 5);
    assert.deepEqual(onTheWay.map((e) => e.step), [1, 2, 3, 4, 5]);
    const least = onTheWay.reduce((a, b) => b.eval_loss < a.eval_loss ? b : a);
    assert.notEqual(
      least.step,
      5,
      `the test needs a run that gets worse: ${onTheWay.map((e) => e.eval_loss)}`,
    );
    assert.deepEqual([best_global_step, best_metric], [least.step, least.eval_loss]);
    assert.equal(basename(best_model_checkpoint), `checkpoint-${least.step}`);
    assert.equal(r.after!.eval_loss, least.eval_loss, "the final evaluation is that of the best, to the bit");
    assert.equal(bytesOf(s.output_dir, file), bytesOf(join(s.output_dir, `checkpoint-${least.step}`), file));
    const kept = names(s.output_dir).filter((n) => n.startsWith("checkpoint-"));
    assert.deepEqual(
      kept,
      [`checkpoint-${least.step}`, "checkpoint-5"],
      "limit 1 keeps the best beside the newest",
    );
    sweep(data, s.output_dir);
  });
}

gpuTest(
  "save_strategy: best writes a checkpoint whenever an evaluation is the best, between logs too",
  async () => {
    const data = dataFolder();
    const s = tinySettings(data, {
      ...OVERSHOOT,
      save_strategy: "best",
      save_total_limit: null,
      logging_steps: 4,
    });
    await quietTrain(s);
    const { log_history, best_global_step } = stateOf(s.output_dir);
    const evals = evaluations(log_history).slice(0, 5);
    assert.deepEqual(evals.map((e) => e.step), [1, 2, 3, 4, 5]);
    let least = Infinity;
    const better = evals.filter(({ eval_loss }) => eval_loss < least && (least = eval_loss, true)).map((e) =>
      e.step
    );
    assert.ok(better.length < 5, `the test needs a run that gets worse: ${evals.map((e) => e.eval_loss)}`);
    const kept = names(s.output_dir).filter((n) => n.startsWith("checkpoint-"));
    assert.deepEqual(kept.sort(), better.map((step) => `checkpoint-${step}`));
    assert.equal(best_global_step, better.at(-1));
    sweep(data, s.output_dir);
  },
);

gpuTest("the best by another metric, upward, and one that no evaluation has", async () => {
  const data = dataFolder();
  const s = tinySettings(data, {
    ...OVERSHOOT,
    save_total_limit: null,
    metric_for_best_model: "mean_token_accuracy",
  });
  await quietTrain(s);
  const { best_metric, log_history } = stateOf(s.output_dir);
  const accuracies = log_history.slice(0, -2).flatMap((e: Record<string, number>) =>
    e.eval_mean_token_accuracy ?? []
  );
  assert.equal(best_metric, Math.max(...accuracies));
  const bad = { ...s, output_dir: `${s.output_dir}-bad`, metric_for_best_model: "bleu" };
  await assert.rejects(
    quietTrain(bad),
    failsWith("train/no-metric", "eval_bleu", "eval_mean_token_accuracy"),
  );
  sweep(data, s.output_dir, bad.output_dir);
});

gpuTest("save_only_model leaves nothing to go on from, and the same command starts afresh", async () => {
  const data = dataFolder();
  const s = tinySettings(data, {
    max_steps: 2,
    save_strategy: "steps",
    save_steps: 1,
    save_only_model: true,
  });
  await quietTrain(s);
  const checkpoint = join(s.output_dir, "checkpoint-1");
  assert.ok(
    !names(checkpoint).some((n) => /optimizer|nibble_state|parameters/.test(n)),
    `${names(checkpoint)}`,
  );
  assert.ok(names(checkpoint).includes("adapter_model.safetensors"));
  Deno.removeSync(join(s.output_dir, "checkpoint-2"), { recursive: true });
  const again = await quietTrain(s);
  assert.ok(!again.notes.some((n) => n.startsWith("resumed")), "checkpoint-1 is a result only");
  await assert.rejects(
    quietTrain({ ...s, resume_from_checkpoint: checkpoint }),
    failsWith("train/no-checkpoint", "save_only_model"),
  );
  sweep(data, s.output_dir);
});

gpuTest("epochs that max_steps cuts short are saved; checkpoints say how often things happen", async () => {
  const data = dataFolder(rowsOf(9)); // 3 steps an epoch
  const s = tinySettings(data, {
    max_steps: 4,
    save_strategy: "epoch",
    logging_steps: 0.5,
    eval_strategy: "epoch",
  });
  await quietTrain(s);
  assert.deepEqual(names(s.output_dir).filter((n) => n.startsWith("checkpoint")), [
    "checkpoint-3",
    "checkpoint-4",
  ]);
  assert.equal(stateOf(s.output_dir).logging_steps, 2);
  sweep(data, s.output_dir);
});

gpuTest("NEFTune: noise changes training and nothing else, from the seed alone, resumed or not", async () => {
  const data = dataFolder();
  const settings = (more: Partial<TrainSettings> = {}) =>
    tinySettings(data, { max_steps: 4, eval_on_start: true, neftune_noise_alpha: 5, ...more });
  const run = async (more: Partial<TrainSettings> = {}, stopAt = Infinity) => {
    const s = settings(more);
    let r = await quietTrain(s, {}, stopAt);
    if (r.stopped) r = await quietTrain(s);
    const bytes = bytesOf(s.output_dir);
    sweep(s.output_dir);
    return { bytes, before: r.before!.eval_loss, first: r.logs[0]! };
  };
  const [plain, noisy, again, stopped, other] = [
    await run({ neftune_noise_alpha: null }),
    await run(),
    await run(),
    await run({}, 2),
    await run({ seed: 43, data_seed: 42 }),
  ];
  assert.equal(noisy.before, plain.before, "evaluation has no noise");
  assert.notEqual(noisy.first.loss, plain.first.loss, "the first training step has");
  assert.equal(noisy.bytes, again.bytes);
  assert.equal(noisy.bytes, stopped.bytes, "two steps, a stop and two more");
  assert.notEqual(noisy.bytes, other.bytes);
  sweep(data);
});

gpuTest("report_to wandb: an offline run with the settings, without the token", async () => {
  const data = dataFolder();
  const s = tinySettings(data, {
    max_steps: 2,
    report_to: ["wandb"],
    wandb_project: "nib",
    run_name: "two steps",
  });
  const r = await quietTrain({ ...s, hub_token: "hf_secret" });
  const [folder] = names(join(s.output_dir, "wandb"));
  assert.ok(
    r.notes.some((n) => n === `wandb       wandb sync ${join(s.output_dir, "wandb", folder!)}`),
    `${r.notes}`,
  );
  const run = join(s.output_dir, "wandb", folder!);
  const bytes = new TextDecoder("latin1").decode(
    Deno.readFileSync(join(run, names(run).find((n) => n.endsWith(".wandb"))!)),
  );
  for (const text of ["nib", "two steps", "lora_r", "train/loss", "train/global_step"]) {
    assert.ok(bytes.includes(text), text);
  }
  assert.ok(!bytes.includes("hf_secret"));
  assert.ok(names(join(s.output_dir, "runs")).length === 1, "TensorBoard's file is there too");
  sweep(data, s.output_dir);
});

/** A run with uploads to a Hub of its own. */
async function pushed(
  strategy: TrainSettings["hub_strategy"],
  check: (hub: FakeHub, s: TrainSettings, notes: string[]) => void | Promise<void>,
  more: Partial<TrainSettings> = {},
  prepare: (hub: FakeHub) => void = () => {},
): Promise<void> {
  const data = dataFolder();
  await using hub = startHub({});
  prepare(hub);
  await withHome({ HF_ENDPOINT: hub.url, HF_TOKEN: "hf_writer" }, async () => {
    const s = tinySettings(data, {
      ...{ max_steps: 4, save_strategy: "steps", save_steps: 2, report_to: ["tensorboard"] },
      ...{ push_to_hub: true, hub_strategy: strategy, hub_model_id: "tiny" },
      ...more,
    });
    const { notes } = await quietTrain(s, { recipeText: "lora_r: 4\n" });
    await check(hub, s, notes);
    sweep(data, s.output_dir);
  });
}

const MODEL_FILES = [
  "adapter_config.json",
  "adapter_model.safetensors",
  "chat_template.jinja",
  "special_tokens_map.json",
]
  .concat(["tokenizer.json", "tokenizer_config.json"]);

gpuTest("hub_strategy end: one commit, the output folder with its card and records", async () => {
  await pushed("end", (hub, s) => {
    assert.deepEqual(hub.pushes.map((p) => p.title), ["End of training"]);
    const { files } = hub.pushes[0]!;
    for (
      const file of [
        ...MODEL_FILES,
        "README.md",
        "trainer_state.json",
        "train_results.json",
        "loss_curve.svg",
      ]
    ) {
      assert.ok(file in files, `${file} is missing among ${Object.keys(files)}`);
    }
    assert.ok(Object.keys(files).some((f) => f.startsWith("runs/events.out.tfevents")));
    assert.ok(
      !Object.keys(files).some((f) => /checkpoint|optimizer|\.tmp$/.test(f)),
      `${Object.keys(files)}`,
    );
    assert.equal(files["adapter_model.safetensors"], "lfs");
    const sent = hub.repos["writer/tiny"]!.files["adapter_model.safetensors"] as Uint8Array;
    assert.equal(sent.toHex(), bytesOf(s.output_dir));
  });
});

gpuTest("hub_strategy every_save: the model at every save, and all of it at the end", async () => {
  await pushed("every_save", (hub, s) => {
    assert.deepEqual(hub.pushes.map((p) => p.title), [
      "Training in progress, step 2",
      "Training in progress, step 4",
      "End of training",
    ]);
    const model = Object.keys(hub.pushes[0]!.files).filter((f) => !f.startsWith("runs/")).sort();
    assert.deepEqual(model, MODEL_FILES);
    assert.ok(
      names(join(s.output_dir, "checkpoint-2")).includes("optimizer.safetensors"),
      "which stays at home",
    );
  });
});

gpuTest(
  "hub_strategy checkpoint and all_checkpoints: whole checkpoints, from which training goes on",
  async () => {
    await pushed("checkpoint", (hub, s) => {
      const files = hub.repos["writer/tiny"]!.files;
      const state = files["last-checkpoint/optimizer.safetensors"] as Uint8Array;
      assert.equal(state.toHex(), bytesOf(join(s.output_dir, "checkpoint-4"), "optimizer.safetensors"));
      assert.equal(
        JSON.parse(new TextDecoder().decode(files["last-checkpoint/trainer_state.json"] as Uint8Array))
          .global_step,
        4,
      );
      assert.ok(!Object.keys(files).some((f) => f.startsWith("checkpoint-")));
    });
    await pushed("all_checkpoints", (hub) => {
      const folders = new Set(Object.keys(hub.repos["writer/tiny"]!.files).map((f) => f.split("/")[0]!));
      assert.ok(
        folders.has("checkpoint-2") && folders.has("checkpoint-4") && !folders.has("last-checkpoint"),
      );
    });
  },
);

gpuTest(
  "an upload that fails on the way is told, and the end mends it; private, on a branch, by the folder's name",
  async () => {
    let lost = 0;
    await pushed(
      "every_save",
      (hub, s, notes) => {
        assert.equal(lost, 3, "the first of three");
        assert.ok(
          notes.some((n) => /^upload +failed: .*Too large.*training goes on/.test(n)),
          notes.join("\n"),
        );
        const repo = hub.repos[`writer/${basename(s.output_dir)}`]!;
        assert.equal(repo.private, true);
        assert.deepEqual(repo.files, {});
        assert.ok("README.md" in repo.revisions!["v1.0"]!);
      },
      { hub_model_id: null, hub_private_repo: true, hub_revision: "v1.0" },
      (hub) => {
        hub.trouble = (seen) =>
          seen.path.includes("/preupload/") && lost++ === 0
            ? Response.json({ error: "Too large" }, { status: 413 })
            : undefined;
      },
    );
  },
);

gpuTest("a token that will not do ends the run before the device is asked for anything", async () => {
  const data = dataFolder();
  await using hub = startHub({});
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const s = tinySettings(data, { push_to_hub: true });
    await assert.rejects(quietTrain(s), failsWith("hub/no-token", "HF_TOKEN", "--push_to_hub=false"));
    await assert.rejects(quietTrain({ ...s, hub_token: "hf_reader" }), failsWith("hub/forbidden"));
    assert.deepEqual(names(s.output_dir), []);
    sweep(data, s.output_dir);
  });
});

gpuTest(
  "dataset_streaming gives the run that reading everything gives, from tokens on the disk",
  async () => {
    const data = dataFolder();
    const run = async (more: Partial<TrainSettings>) => {
      const s = tinySettings(data, { max_steps: 3, do_eval: true, packing: true, ...more });
      const r = await quietTrain(s);
      const source = openSafetensors(join(s.output_dir, "adapter_model.safetensors"));
      source.close();
      const result = { bytes: bytesOf(s.output_dir), after: r.after!.eval_loss, notes: r.notes };
      sweep(s.output_dir);
      return result;
    };
    const whole = await run({}), streamed = await run({ dataset_streaming: true });
    assert.equal(streamed.bytes, whole.bytes);
    assert.equal(streamed.after, whole.after);
    const again = await run({ dataset_streaming: true });
    assert.ok(again.notes.some((n) => /cached +tokens of an earlier run/.test(n)), again.notes.join("\n"));
    sweep(data);
  },
);
