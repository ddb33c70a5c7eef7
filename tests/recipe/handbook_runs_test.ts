/**
 * Every recipe of the alignment-handbook, started as it is: a tiny random model of its family and a tiny data set of
 * its columns come from a Hub on this machine, three steps are trained, and everything is written and uploaded that
 * the recipe asks for. Only sizes are changed, as on the command line.
 */
import assert from "node:assert/strict";
import { fromFileUrl, join } from "@std/path";
import { readAdapter } from "../../lib/formats/mod.ts";
import { readRecipe, type Recipe, writeRecipe } from "../../lib/recipe/mod.ts";
import { openSafetensors } from "../../lib/formats/mod.ts";
import { train } from "../../lib/train/run.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { type FakeHub, startHub, withHome } from "../hub/fake_hub.ts";
import { reposOf } from "./handbook_hub.ts";

const handbook = new URL("../../../shared/handbook/", import.meta.url);

function recipesUnder(folder: URL): string[] {
  try {
    return [...Deno.readDirSync(folder)].flatMap((entry) => {
      if (entry.isDirectory) return recipesUnder(new URL(`${entry.name}/`, folder));
      return entry.name.endsWith(".yaml") ? [fromFileUrl(new URL(entry.name, folder))] : [];
    }).sort();
  } catch {
    return [];
  }
}

/** SmolLM3's template begins each conversation with a page of metadata. */
const LONG = /smollm3.sft.sft/;

/** Sizes, and nothing else: steps, batches, lengths, rows set aside. */
function sizes(path: string, output: string): string[] {
  const whole = readRecipe(path).settings;
  const mixture = whole.dataset_mixture && {
    ...whole.dataset_mixture,
    ...(whole.dataset_mixture.test_split_size ? { test_split_size: 4 } : {}),
  };
  return [
    `--output_dir=${output}`,
    "--max_steps=3",
    "--logging_steps=1",
    "--per_device_train_batch_size=2",
    "--per_device_eval_batch_size=2",
    "--gradient_accumulation_steps=1",
    `--max_length=${LONG.test(path) ? 320 : 48}`,
    ...(whole.nibble_task === "dpo" || whole.nibble_task === "orpo" ? ["--max_prompt_length=16"] : []),
    ...(whole.nibble_task === "sft" ? ["--max_eval_samples=4"] : []),
    ...(mixture ? [`--dataset_mixture=${JSON.stringify(mixture)}`] : []),
  ];
}

const read = (folder: string, name: string) => JSON.parse(Deno.readTextFileSync(join(folder, name)));
const exists = (path: string) => {
  try {
    return Deno.statSync(path) !== undefined;
  } catch {
    return false;
  }
};

/** What the recipe says must lie in the output folder, and on the Hub. */
function checkOutputs({ settings: s, task }: Recipe, hub: FakeHub): void {
  const folder = s.output_dir;
  const state = read(folder, "trainer_state.json");
  const logs = state.log_history.filter((entry: Record<string, unknown>) => "loss" in entry);
  assert.deepEqual(logs.map((entry: { step: number }) => entry.step), [1, 2, 3]);
  for (const entry of logs) {
    assert.ok(
      Number.isFinite(entry.loss) && Number.isFinite(entry.grad_norm) && entry.grad_norm > 0,
      JSON.stringify(entry),
    );
  }
  if (task === "dpo") {
    const [first] = logs;
    // ln 2, or 1 where both answers are judged by themselves; the log has four digits
    assert.ok(
      Math.abs(first.loss - (s.loss_type === "apo_zero" ? 1 : Math.LN2)) < 1e-4,
      `loss ${first.loss}`,
    );
    assert.ok(Math.abs(first["rewards/margins"]) < 1e-5, `margin ${first["rewards/margins"]}`);
  }
  const weights = s.use_peft ? "adapter_model.safetensors" : "model.safetensors";
  for (
    const file of [
      weights,
      "README.md",
      "tokenizer.json",
      "chat_template.jinja",
      "train_results.json",
      "loss_curve.svg",
    ]
  ) {
    assert.ok(exists(join(folder, file)), `${file} is missing`);
  }
  assert.equal(exists(join(folder, "eval_results.json")), s.do_eval || s.eval_strategy !== "no");
  if (s.use_peft) {
    assert.deepEqual([readAdapter(folder).config.r, readAdapter(folder).config.lora_alpha], [
      s.lora_r,
      s.lora_alpha,
    ]);
  } else openSafetensors(join(folder, weights)).close();
  const card = Deno.readTextFileSync(join(folder, "README.md"));
  assert.ok(
    card.includes(`learning_rate: ${s.learning_rate}`) || s.learning_rate === 2e-5 ||
      s.learning_rate === 1e-6,
  );
  const checkpoints = [...Deno.readDirSync(folder)].map((e) => e.name).filter((n) =>
    n.startsWith("checkpoint-")
  );
  assert.equal(checkpoints.includes("checkpoint-3"), s.save_strategy !== "no", `${checkpoints}`);
  if (s.save_total_limit === 1) assert.ok(checkpoints.length <= 1);
  const to = (service: string) => s.report_to.includes(service);
  assert.ok(exists(join(folder, "runs")));
  assert.equal(exists(join(folder, "wandb")), to("wandb"));
  const id = `writer/${s.hub_model_id ?? folder.split("/").at(-1)}`;
  if (!s.push_to_hub) {
    assert.deepEqual(hub.pushes, []);
    return;
  }
  const sent = hub.repos[id]!;
  assert.equal((sent.files[weights] as Uint8Array).length, Deno.statSync(join(folder, weights)).size);
  assert.equal(new TextDecoder().decode(sent.files["README.md"] as Uint8Array), card);
  assert.equal(sent.private ?? false, s.hub_private_repo === true);
}

const paths = recipesUnder(handbook);

if (paths.length === 0) {
  Deno.test({ name: "handbook runs (skipped: no ../shared)", ignore: true, fn() {} });
} else {
  Deno.test("handbook runs: there are 22 recipes", () => assert.equal(paths.length, 22));
  await openGpu();
}

for (const path of paths) {
  Deno.test(`handbook runs: ${path.split("/handbook/")[1]}`, async () => {
    const parent = await Deno.makeTempDir({ prefix: "nibble-handbook-" });
    try {
      const recipe = readRecipe(path, sizes(path, join(parent, "out")));
      await using hub = startHub(reposOf(recipe.settings));
      await withHome({ HF_ENDPOINT: hub.url, HF_TOKEN: "hf_writer" }, async () => {
        const notes: string[] = [];
        const reporter = { step() {}, log() {}, note: (text: string) => void notes.push(text), done() {} };
        const result = await train(recipe.settings, { reporter, recipeText: writeRecipe(recipe.settings) });
        assert.equal(result.steps, 3);
        const quantized = /(\d+) linear layers quantized/.exec(notes.join("\n"))?.[1];
        assert.equal(
          Number(quantized ?? 0) > 0,
          recipe.settings.load_in_4bit,
          "quantized exactly where asked",
        );
        checkOutputs(recipe, hub);
      });
    } finally {
      await Deno.remove(parent, { recursive: true });
    }
  });
}
