/**
 * DPO on a real tiny Llama, beside TRL on PyTorch: the stories260K model of `../shared` on the preferences there, 150
 * steps of 8 pairs of at most 200 tokens, the last tenth held out.
 *
 *     deno run -A bench/stories/preferences.ts [--targets=q_proj,v_proj] [--dump=pairs.json]
 *
 * `--targets` names the layers with adapters; without it all linear ones have them.
 * `--dump` writes the pairs of every step and of the evaluation as tokens, and the initial adapter, on which
 * `preferences_reference.py` beside this file lets TRL's DPOTrainer train: so both see the same in the same order.
 *
 * Held-out loss from 0.6931 (ln 2), and share of the 110 held-out pairs in order:
 *
 * | adapters on | | loss | in order | margin | loss of steps 1-10, 71-80, 141-150 |
 * | --- | --- | ---: | ---: | ---: | --- |
 * | all linear layers | TRL 0.19.1 on PyTorch 2.13 | 0.2595 | 86.9 % | 3.76 | 0.549, 0.195, 0.108 |
 * | | nibble on llvmpipe | 0.2595 | 87.3 % | 3.78 | 0.549, 0.195, 0.108 |
 * | q_proj, v_proj (PEFT's choice) | TRL | 0.3320 | 84.2 % | 1.95 | 0.647, 0.366, 0.256 |
 * | | nibble | 0.3320 | 84.5 % | 1.96 | 0.647, 0.366, 0.256 |
 *
 * (TRL's share and margin are means over batches, the last of which is short; nibble's are over pairs.)
 * @module
 */
import { fromFileUrl, join } from "@std/path";
import type { PairBatch } from "../../lib/data/mod.ts";
import { recipeOf } from "../../lib/recipe/mod.ts";
import { setUpModel } from "../../lib/train/model_setup.ts";
import { openRunDevice, prepareRun } from "../../lib/train/prepare_run.ts";
import { train } from "../../lib/train/run.ts";
import { option } from "../report.ts";

const SHARED = fromFileUrl(new URL("../../../shared/", import.meta.url));
const dump = option("dump");
const targets = option("targets")?.split(",");
const scratch = Deno.makeTempDirSync();

const rows = JSON.parse(Deno.readTextFileSync(join(SHARED, "data/preferences.json"))).map(
  ({ instruction, input, chosen, rejected }: Record<string, string>) => ({
    prompt: `### Instruction:\n${instruction}\n\n` + (input ? `### Input:\n${input}\n\n` : "") +
      "### Response:\n",
    ...{ chosen, rejected },
  }),
);
const lines = (part: unknown[]) => part.map((row) => JSON.stringify(row) + "\n").join("");
const cut = Math.floor(0.9 * rows.length);
Deno.writeTextFileSync(join(scratch, "train.jsonl"), lines(rows.slice(0, cut)));
Deno.writeTextFileSync(join(scratch, "test.jsonl"), lines(rows.slice(cut)));

const { settings } = recipeOf({
  ...{ model_name_or_path: join(SHARED, "models/stories260k"), nibble_task: "dpo", dataset_name: scratch },
  ...{ use_peft: true, lora_r: 8, lora_alpha: 16, lora_target_modules: targets ?? "all-linear", beta: 0.1 },
  ...{ max_length: 200, max_prompt_length: 128, truncation_mode: "keep_start" },
  ...{ learning_rate: 1e-3, lr_scheduler_type: "constant", max_steps: 150, seed: 42 },
  ...{ per_device_train_batch_size: 8, per_device_eval_batch_size: 8, eval_on_start: true, do_eval: true },
  ...{ logging_steps: 10, save_strategy: "no", output_dir: join(scratch, "out") },
});

/** Prompt and answers of every pair, without padding. */
function pairsOf({ ids, labels, segments, batch, time }: PairBatch) {
  const sequence = (row: number) => {
    const from = row * time,
      end = segments.indexOf(0, from),
      to = end < 0 || end > from + time ? from + time : end;
    const start = labels.findIndex((label, i) => i >= from && label !== -100) + 1;
    return [[...ids.subarray(from, start)], [...ids.subarray(start, to)]];
  };
  return Array.from({ length: batch / 2 }, (_, i) => {
    const [prompt, chosen] = sequence(i), [, rejected] = sequence(batch / 2 + i);
    return { prompt, chosen, rejected };
  });
}

if (dump) {
  await openRunDevice(settings);
  const run = await prepareRun(settings);
  const { pages } = await setUpModel(settings, run.files, run.maxPositions);
  const initial: Record<string, unknown> = {};
  for (const [key, t] of pages.tensors) initial[key] = { shape: t.shape, values: [...await t.data()] };
  const steps = Array.from({ length: settings.max_steps }, (_, step) => run.order.window(step)).flat();
  const pairs = (batches: unknown[]) => batches.flatMap((b) => pairsOf(b as PairBatch));
  Deno.writeTextFileSync(dump, JSON.stringify({ initial, train: pairs(steps), evals: pairs(run.evals) }));
} else {
  const { before, after, seconds } = await train(settings);
  const share = (100 * after!["eval_rewards/accuracies"]!).toFixed(1);
  console.log(
    `${before!.eval_loss.toFixed(4)} -> ${after!.eval_loss.toFixed(4)}, ${share} % in order, ` +
      `margin ${after!["eval_rewards/margins"]!.toFixed(3)}, ${seconds.toFixed(1)} s`,
  );
}
Deno.removeSync(scratch, { recursive: true });
Deno.exit(0);
