/**
 * Whole runs of DPO, ORPO and KTO on a tiny model: where they start, that they learn, what they write, the reference
 * and its scores on disk, and going on from an adapter.
 */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { loadAdapter, loadModel } from "../../lib/api.ts";
import { MERGED_ADAPTERS, openSafetensors, readAdapter } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import type { Batch } from "../../lib/data/mod.ts";
import type { Model } from "../../lib/model/model.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import type { ReferenceObjective } from "../../lib/train/objectives/preference_loss.ts";
import { scoreReference } from "../../lib/train/reference.ts";
import { loadRows } from "../../lib/train/prepare.ts";
import { evaluate } from "../../lib/train/evaluate.ts";
import { prepareRun } from "../../lib/train/prepare_run.ts";
import type { TrainSettings } from "../../lib/train/settings.ts";
import { trainTask } from "../../lib/train/task.ts";
import { createTokenizer } from "../../lib/text/mod.ts";
import { assertClose, EPS, gpuTest } from "../gpu_helper.ts";
import { withHome } from "../hub/fake_hub.ts";
import { pairsFolder, pairsOf, settingsOf } from "./preference_helper.ts";
import { bytesOf, dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();
/** Scores are kept in the cache folder: each test has its own. */
const homeTest = (name: string, body: (home: string) => Promise<void>) =>
  gpuTest(name, () => withHome({}, body));

homeTest("DPO starts at ln 2 with rewards of 0, and orders the pairs", async () => {
  const data = pairsFolder();
  const s = settingsOf("dpo", data);
  const before = gpu().pool.report().liveBytes;
  const r = await quietTrain(s);
  // the adapter's B is zero: the policy is the reference, to the bit
  for (const [log, prefix] of [[r.before!, "eval_"], [r.logs[0]!, ""]] as const) {
    assertClose([log[`${prefix}loss`]!], [Math.LN2], 2 * EPS, "loss");
    for (const name of ["chosen", "rejected", "accuracies", "margins"]) {
      assert.equal(log[`${prefix}rewards/${name}`], 0, `${prefix}rewards/${name}`);
    }
  }
  assert.ok(r.after!.eval_loss < 0.6, `loss ${r.after!.eval_loss}`);
  assert.ok(r.after!["eval_rewards/margins"]! > 0.2);
  assert.equal(r.after!["eval_rewards/accuracies"], 1);
  const { "eval_rewards/chosen": chosen, "eval_rewards/rejected": rejected } = r.after!;
  assertClose([r.after!["eval_rewards/margins"]!], [chosen! - rejected!], 64 * EPS, "margins");
  // TRL's names, in the log and in the state
  const lines = Deno.readTextFileSync(join(s.output_dir, "logs.jsonl")).trim().split("\n");
  const first = lines.map((l) => JSON.parse(l)).find((l) => l.loss !== undefined);
  for (
    const name of ["rewards/chosen", "rewards/margins", "logps/chosen", "logps/rejected", "logits/chosen"]
  ) {
    assert.ok(Number.isFinite(first[name]), name);
  }
  assert.ok(!("nll_loss" in first), "without rpo_alpha there is none");
  const results = JSON.parse(Deno.readTextFileSync(join(s.output_dir, "eval_results.json")));
  assert.ok("eval_rewards/accuracies" in results && !("perplexity" in results));
  assert.match(
    r.notes.join("\n"),
    /evaluation +after: loss 0\.\d+, 100\.0 % of pairs in order, margin 0\.\d+/,
  );
  assert.match(Deno.readTextFileSync(join(s.output_dir, "README.md")), /direct preference optimization/);
  assert.equal(gpu().pool.report().liveBytes, before);
  sweep(data, s.output_dir);
});

homeTest("the plan says within 5 % what DPO takes", async () => {
  const data = pairsFolder();
  const s = settingsOf("dpo", data, { max_steps: 2 });
  const live = gpu().pool.report().liveBytes;
  gpu().pool.resetPeak();
  const run = await prepareRun(s);
  run.files.source.close();
  const { memory } = await quietTrain(s);
  const off = Math.abs(run.plan.memory.peakBytes - (memory.peakBytes - live)) / memory.peakBytes;
  assert.ok(off < 0.05, `planned ${run.plan.memory.peakBytes}, measured ${memory.peakBytes - live}`);
  sweep(data, s.output_dir);
});

homeTest("dropout: off by default as in TRL; where it is on, the reference still has none", async () => {
  const data = pairsFolder();
  const run = async (more: Partial<TrainSettings>) => {
    const s = settingsOf("dpo", data, { max_steps: 3, warmup_steps: 0, ...more });
    const r = await quietTrain(s);
    const bytes = bytesOf(s.output_dir).slice(-2000);
    sweep(s.output_dir);
    return { r, bytes };
  };
  const plain = await run({});
  const off = await run({ lora_dropout: 0.5 });
  assert.equal(off.bytes, plain.bytes, "disable_dropout: true");
  const on = await run({ lora_dropout: 0.5, disable_dropout: false });
  assert.notEqual(on.bytes, plain.bytes);
  assertClose(
    [on.r.before!.eval_loss],
    [Math.LN2],
    2 * EPS,
    "evaluation and reference are both without dropout",
  );
  sweep(data);
});

homeTest(
  "the reference's scores are kept: found again for the same rows and base, and for no others",
  async (home) => {
    const data = pairsFolder(), other = pairsFolder(pairsOf(10, 7));
    const notes: string[] = [];
    const run = async (folder: string, more: Partial<TrainSettings> = {}) => {
      const s = settingsOf("dpo", folder, { max_steps: 2, seed: 3, ...more });
      const r = await quietTrain(s);
      notes.push(
        ...r.notes.filter((n) => n.startsWith("reference")).map((n) => /earlier/.test(n) ? "found" : "made"),
      );
      const bytes = bytesOf(s.output_dir);
      sweep(s.output_dir);
      return bytes;
    };
    const first = await run(data);
    assert.equal(await run(data), first, "the same bits with scores from the disk");
    await run(data, { beta: 0.5, learning_rate: 1e-3 });
    assert.deepEqual(notes.splice(0), ["made", "made", "found", "found", "found", "found"]);
    await run(other);
    assert.deepEqual(notes.splice(0), ["made", "found"], "other training rows, the same held-out ones");
    await run(other, { max_steps: 3 });
    assert.deepEqual(notes.splice(0), ["made", "found"], "2 steps of 4 pairs had needed 8 of 10");
    await run(other, { max_steps: 7 });
    assert.deepEqual(notes.splice(0), ["found", "found"], "now all are known");
    await run(data, { max_length: 24 });
    await run(data, { load_in_4bit: true });
    await run(data, { seed: 4 }); // another fresh model
    assert.deepEqual(notes.splice(0), Array(6).fill("made"));
    // a file cut short is made anew
    const folder = join(home, ".cache/nibble/reference");
    for (const { name } of Deno.readDirSync(folder)) Deno.truncateSync(join(folder, name), 40);
    assert.equal(await run(data), first);
    assert.deepEqual(notes.splice(0), ["made", "made"]);
    sweep(data, other);
  },
);

homeTest("stopped while the reference is scored, it goes on with what is missing", async () => {
  const data = pairsFolder();
  const s = settingsOf("dpo", data, { max_steps: 4, per_device_eval_batch_size: 2 });
  await assert.rejects(quietTrain(s, {}, 4), { // three batches of two pairs
    code: "train/stopped",
    message: /nothing is trained yet/,
  });
  const { notes } = await quietTrain(s);
  const counts = notes.flatMap((n) => /^reference +(\d+) sequences scored/.exec(n)?.[1] ?? []);
  assert.deepEqual(counts, ["8", "8"], "of 10 training pairs 6 were scored, of 4 held-out ones none");
  sweep(data, s.output_dir);
});

homeTest("a reference that overflows is said before training, and keeps no scores", async (home) => {
  const data = pairsFolder();
  const s = settingsOf("dpo", data);
  const { files, objective, train, hash } = await prepareRun(s);
  files.source.close();
  const broken = {
    ...objective as ReferenceObjective,
    score: (
      _: unknown,
      batch: Batch,
    ) => [tensor(new Float32Array(2 * batch.batch).fill(NaN), [batch.batch, 2])],
  };
  const reporter = { step() {}, log() {}, note() {}, done() {} };
  const model = { path: "some/model" } as Model;
  await assert.rejects(
    scoreReference(s, {
      ...{ objective: broken, model, adapter: undefined, hash, reporter },
      sides: [{ side: train }],
    }),
    { code: "train/nan-reference", where: "some/model" },
  );
  const [kept] = [...Deno.readDirSync(join(home, ".cache/nibble/reference"))];
  const scores = openSafetensors(join(home, ".cache/nibble/reference", kept!.name));
  assert.ok(scores.readF32("logps").every(Number.isNaN), "NaN is what is not known");
  scores.close();
  sweep(data, s.output_dir);
});

for (const [task, use_peft] of [["dpo", true], ["orpo", false]] as const) {
  homeTest(
    `4 micro-batches are 1 batch, and a stop changes nothing (${task}, ${use_peft ? "LoRA" : "full"})`,
    async () => {
      const data = pairsFolder(); // windows of 4, 4 and 2 pairs
      const more: Partial<TrainSettings> = {
        ...{
          use_peft,
          optim: "sgd",
          learning_rate: 0.05,
          lr_scheduler_type: "constant",
          max_grad_norm: null,
        },
        ...{ max_steps: 5, do_eval: false, eval_on_start: false },
      };
      const file = use_peft ? "adapter_model.safetensors" : "model.safetensors";
      const once = await quietTrain(settingsOf(task, data, { ...more, per_device_train_batch_size: 4 }));
      const many = settingsOf(task, data, {
        ...{ ...more, per_device_train_batch_size: 1, gradient_accumulation_steps: 4 },
      });
      const four = await quietTrain(many);
      four.logs.forEach((log, i) => {
        const want = once.logs[i]!;
        // sums over some hundred tokens in another order, amplified by up to five steps of training
        for (const name of ["loss", "grad_norm", "rewards/margins", "logps/chosen"]) {
          const size = Math.max(1, Math.abs(want[name]!));
          assertClose([log[name]!], [want[name]!], 2000 * EPS * size, `${task}: ${name} of step ${i + 1}`);
        }
        assert.equal(log["rewards/accuracies"], want["rewards/accuracies"]);
      });
      const broken = { ...many, output_dir: Deno.makeTempDirSync({ prefix: "nibble-run-" }) };
      await quietTrain(broken, {}, 4);
      const rest = await quietTrain(broken);
      assert.equal(rest.steps, 5);
      assert.ok(rest.logs[0]!.step > 1, "it went on");
      assert.equal(
        bytesOf(broken.output_dir, file),
        bytesOf(many.output_dir, file),
        `${task}: the same bits`,
      );
      sweep(once.output_dir, many.output_dir, broken.output_dir);
      sweep(data);
    },
  );
}

homeTest("full fine-tuning is held against the model as it was, or against ref_model", async () => {
  const data = pairsFolder();
  const s = settingsOf("dpo", data, { use_peft: false, learning_rate: 1e-3 });
  const r = await quietTrain(s);
  assertClose([r.before!.eval_loss], [Math.LN2], 2 * EPS, "loss");
  assert.ok(r.after!.eval_loss < 0.6, `${r.after!.eval_loss}`);
  // a run that is held against this one's result from the start
  const other = settingsOf("dpo", data, { use_peft: false, ref_model: s.output_dir, max_steps: 1 });
  const held = await quietTrain(other);
  const { "eval_logps/chosen": then, "eval_logps/rejected": thenR } = r.before!;
  const { "eval_logps/chosen": now, "eval_logps/rejected": nowR } = r.after!;
  // weights were stored in f32: what differs is the order of evaluation, nothing
  assertClose(
    [held.before!["eval_rewards/chosen"]!],
    [0.1 * (then! - now!)],
    1e-4,
    "rewards against ref_model",
  );
  assertClose(
    [held.before!["eval_rewards/rejected"]!],
    [0.1 * (thenR! - nowR!)],
    1e-4,
    "rewards against ref_model",
  );
  sweep(data, s.output_dir, other.output_dir);
});

homeTest("ORPO needs no reference; KTO takes pairs apart, and its divergence starts at 0", async () => {
  const data = pairsFolder();
  const orpo = await quietTrain(settingsOf("orpo", data));
  assert.ok(!orpo.notes.some((n) => n.startsWith("reference")));
  const { before, after } = orpo;
  assert.ok(after!.eval_loss < before!.eval_loss - 0.1, `${before!.eval_loss} -> ${after!.eval_loss}`);
  for (const name of ["nll_loss", "log_odds_ratio", "log_odds_chosen", "rewards/accuracies"]) {
    assert.ok(Number.isFinite(after![`eval_${name}`]), name);
  }
  const parts = after!.eval_nll_loss! - 0.1 * after!.eval_log_odds_ratio!;
  assertClose([after!.eval_loss], [parts], 64 * EPS * parts, "the loss is the sum of its parts");

  const kto = await quietTrain(settingsOf("kto", data));
  assert.match(kto.notes.join("\n"), /rows +20 of 20/);
  assert.equal(kto.before!.eval_loss, 0.5);
  assert.deepEqual([kto.before!["eval_rewards/chosen"], kto.before!.eval_kl], [0, 0]);
  assert.ok(kto.after!.eval_loss < 0.48, `${kto.after!.eval_loss}`);
  assert.ok(kto.after!["eval_rewards/margins"]! > 0.1);
  sweep(data, orpo.output_dir, kto.output_dir);
});

Deno.test("KTO: each prompt is paired with the answer before its own, within its block", async () => {
  const data = pairsFolder();
  const s = settingsOf("kto", data, { per_device_train_batch_size: 3 });
  const rows = await loadRows(s);
  const tokenizer = createTokenizer({
    tokenizerJson: JSON.parse(Deno.readTextFileSync(`${s.model_name_or_path}/tokenizer.json`)),
    tokenizerConfig: JSON.parse(Deno.readTextFileSync(`${s.model_name_or_path}/tokenizer_config.json`)),
  });
  const side = trainTask(s).prepare(rows.train, tokenizer, s, "train");
  assert.deepEqual(side.blocks!.map((b) => b.length), [3, 3, 3, 3, 3, 3, 2]);
  assert.deepEqual(side.blocks!.flat().toSorted((a, b) => a - b), Array.from({ length: 20 }, (_, i) => i));
  const all = side.scored!.sequences();
  const split = (i: number) => {
    const { ids, trained } = all[i]!, at = trained.indexOf(true);
    return [ids.slice(0, at).join(), ids.slice(at).join()];
  };
  for (const block of side.blocks!) {
    block.forEach((item, i) => {
      const own = split(2 * item), mixed = split(2 * item + 1), other = split(2 * block.at(i - 1)!);
      assert.deepEqual(mixed, [own[0], other[1]]);
    });
  }
  const alone = { ...s, per_device_train_batch_size: 1 };
  assert.throws(() => trainTask(alone).prepare(rows.train, tokenizer, alone, "train"), {
    code: "train/kto-batch",
  });
  for (const task of ["dpo", "orpo", "kto"] as const) {
    const packed = settingsOf(task, data, { packing: true });
    const { prepare } = trainTask(packed);
    assert.throws(() => prepare(rows.train, tokenizer, packed, "train"), { code: "train/packing" }, task);
  }
  sweep(data);
});

homeTest(
  "after SFT: its adapter is merged into the base, which is the reference and is recorded",
  async () => {
    const data = pairsFolder();
    const chats = dataFolder(
      (pairsOf(10) as { prompt: unknown[]; chosen: unknown[] }[]).map(({ prompt, chosen }) => ({
        messages: [...prompt, ...chosen],
      })),
    );
    // a base that exists as a folder
    const base = tinySettings(chats, { use_peft: false, max_steps: 1, learning_rate: 1e-3 });
    await quietTrain(base);
    const real = { model_name_or_path: base.output_dir, nibble_model_config: null };
    const sft = tinySettings(chats, { ...real, max_steps: 8 });
    await quietTrain(sft);
    // what SFT made of the base, as a DPO run on it sees it
    for (const load_in_4bit of [false, true]) {
      const s = settingsOf("dpo", data, { ...real, model_name_or_path: sft.output_dir, load_in_4bit });
      const r = await quietTrain(s);
      assert.match(r.notes.join("\n"), /model +.* with .* merged in/);
      assertClose([r.before!.eval_loss], [Math.LN2], 2 * EPS, "loss");
      assert.equal(r.before!["eval_rewards/margins"], 0);
      const { config } = readAdapter(s.output_dir);
      assert.equal(config.base_model_name_or_path, base.output_dir);
      assert.deepEqual(config.nibble!.parents!.map((p) => p.adapter), [sft.output_dir]);
      assert.match(Deno.readTextFileSync(join(s.output_dir, "README.md")), /merge_and_unload/);
      if (load_in_4bit) {
        sweep(s.output_dir);
        continue;
      }
      // loaded as the card says, it is what was evaluated
      const model = await loadModel(sft.output_dir, { maxPositions: 128 });
      assert.equal((model.rawConfig[MERGED_ADAPTERS] as unknown[]).length, 1);
      const adapter = loadAdapter(model, s.output_dir);
      const run = await prepareRun(s);
      run.files.source.close();
      const again = await evaluate(run.objective, model, run.evals);
      assert.equal(again["eval_logps/chosen"], r.after!["eval_logps/chosen"]);
      const onTop = await evaluate(trainTask({ ...s, nibble_task: "orpo" }).objective, model, run.evals);
      adapter.dispose();
      model.dispose();
      // on the base alone it is refused, by what it lacks
      const plain = await loadModel(base.output_dir, { maxPositions: 128 });
      assert.throws(() => loadAdapter(plain, s.output_dir), {
        code: "lora/base-mismatch",
        message: new RegExp(`with ${sft.output_dir} merged in`),
      });
      plain.dispose();
      // and the chain goes on: ORPO on top of DPO on top of SFT
      const third = settingsOf("orpo", data, { ...real, model_name_or_path: s.output_dir, max_steps: 1 });
      const orpo = await quietTrain(third);
      // merged weights against adapters beside them: as far apart as f32 rounds 32 products, through two layers
      assertClose([orpo.before!.eval_loss], [onTop.eval_loss], 512 * EPS * onTop.eval_loss, "ORPO's start");
      assert.equal(readAdapter(third.output_dir).config.nibble!.parents!.length, 2);
      sweep(s.output_dir, third.output_dir);
    }
    sweep(data, chats, base.output_dir, sft.output_dir);
  },
);
