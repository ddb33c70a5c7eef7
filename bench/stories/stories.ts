/**
 * LoRA on a real tiny Llama, beside PEFT on PyTorch: the stories260K model of `../shared`, 300 steps on tiny
 * Shakespeare and on instructions, the last tenth of each held out.
 *
 *     deno run -A bench/stories/stories.ts [--dump=batches.json] [--steps=300]
 *
 * `--dump` writes every training window, evaluation batch and initial adapter, on which `reference.py` beside this file
 * trains PEFT's model: so both stacks see the same tokens in the same order.
 * @module
 */
import { dirname, fromFileUrl, join } from "@std/path";
import { recipeOf } from "../../lib/recipe/mod.ts";
import { openRunDevice, prepareRun } from "../../lib/train/prepare_run.ts";
import { setUpModel } from "../../lib/train/model_setup.ts";
import { train } from "../../lib/train/run.ts";
import type { Batch } from "../../lib/data/mod.ts";
import { option } from "../report.ts";

const SHARED = fromFileUrl(new URL("../../../shared/", import.meta.url));

interface Instruction {
  instruction: string;
  input: string;
  output: string;
}

/** Texts of both data sets, in their order. */
const TEXTS: Record<string, () => string[]> = {
  shakespeare() {
    const text = Deno.readTextFileSync(join(SHARED, "data/tiny_shakespeare.txt")).slice(0, 400_000);
    return Array.from({ length: Math.ceil(text.length / 600) }, (_, i) => text.slice(600 * i, 600 * (i + 1)));
  },
  instructions() {
    const rows: Instruction[] = JSON.parse(Deno.readTextFileSync(join(SHARED, "data/instructions.json")));
    return rows.map(({ instruction, input, output }) =>
      `### Instruction:\n${instruction}\n\n` + (input ? `### Input:\n${input}\n\n` : "") +
      `### Response:\n${output}`
    );
  },
};

/** Writes `train.jsonl` and `test.jsonl`, the last tenth held out. */
function writeRows(folder: string, texts: string[]): void {
  Deno.mkdirSync(folder, { recursive: true });
  const cut = Math.floor(0.9 * texts.length);
  const lines = (rows: string[]) => rows.map((text) => JSON.stringify({ text })).join("\n") + "\n";
  Deno.writeTextFileSync(join(folder, "train.jsonl"), lines(texts.slice(0, cut)));
  Deno.writeTextFileSync(join(folder, "test.jsonl"), lines(texts.slice(cut)));
}

const plain = ({ ids, labels, batch, time }: Batch) => ({ ids: [...ids], labels: [...labels], batch, time });

const dumped: Record<string, unknown> = {};
const scratch = Deno.makeTempDirSync();
for (const [name, texts] of Object.entries(TEXTS)) {
  const folder = join(scratch, name);
  writeRows(folder, texts());
  const { settings } = recipeOf({
    ...{ model_name_or_path: join(SHARED, "models/stories260k"), nibble_task: "sft", dataset_name: folder },
    ...{ use_peft: true, load_in_4bit: false, lora_r: 8, lora_alpha: 16, lora_dropout: 0 },
    ...{ lora_target_modules: "all-linear", max_length: 128, learning_rate: 3e-3 },
    ...{ lr_scheduler_type: "cosine", warmup_steps: 20, max_grad_norm: 1, weight_decay: 0, seed: 42 },
    ...{
      per_device_train_batch_size: 8,
      per_device_eval_batch_size: 8,
      max_steps: Number(option("steps") ?? 300),
    },
    ...{ eval_on_start: true, do_eval: true, logging_steps: 50, save_strategy: "no" },
    ...{ output_dir: join(scratch, `${name}-out`) },
  });
  const dump = option("dump");
  if (dump) {
    await openRunDevice(settings);
    const run = await prepareRun(settings);
    const setUp = await setUpModel(settings, run.files, run.maxPositions);
    const initial: Record<string, { shape: readonly number[]; values: number[] }> = {};
    for (const [key, t] of setUp.pages.tensors) {
      initial[key] = { shape: t.shape, values: [...await t.data()] as number[] };
    }
    dumped[name] = {
      initial,
      windows: Array.from({ length: settings.max_steps }, (_, step) => run.order.window(step).map(plain)),
      evals: run.evals.map(plain),
    };
    setUp.dispose();
    run.files.source.close();
    Deno.mkdirSync(dirname(dump), { recursive: true });
    Deno.writeTextFileSync(dump, JSON.stringify(dumped));
    continue;
  }
  const { before, after, seconds } = await train(settings);
  console.log(
    `${name}: ${before!.eval_loss.toFixed(4)} -> ${after!.eval_loss.toFixed(4)}, ${seconds.toFixed(1)} s`,
  );
}
Deno.removeSync(scratch, { recursive: true });
Deno.exit(0);
