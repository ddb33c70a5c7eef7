/**
 * SmolLM2-135M from the Hub, SFT in 4 bits, its adapter uploaded, DPO from that adapter, uploaded too: the recipes of
 * recipes/smollm2-135m with fewer, shorter steps, the real weights and data, and every byte through a Hub on this
 * machine. Runs where the model lies in nibble's cache, which the first run of a recipe with it leaves there.
 */
import assert from "node:assert/strict";
import { fromFileUrl, join } from "@std/path";
import { generate, loadModel, loadTokenizer } from "../../lib/api.ts";
import { openModel, readAdapter, writeSafetensors } from "../../lib/formats/mod.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { cachedMirror } from "../../lib/hub/mirror.ts";
import { MIRRORS } from "../../lib/hub/mod.ts";
import { hubSettings } from "../../lib/hub/settings.ts";
import { readRecipe, writeRecipe } from "../../lib/recipe/mod.ts";
import { createTokenizer } from "../../lib/text/mod.ts";
import { train } from "../../lib/train/run.ts";
import { EPS } from "../gpu_helper.ts";
import { type FakeRepo, startHub, truncated, withHome } from "./fake_hub.ts";

const TITLE = "SmolLM2-135M: SFT and then DPO in 4 bits, by our recipes, through the Hub";
const ROOT = fromFileUrl(new URL("../../", import.meta.url));
const MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct";
const DATA = "nibble/devils_dictionary";
const gguf = cachedMirror(hubSettings(), MIRRORS[MODEL]!);

/** The model as its repository has it: weights in bfloat16 and the files around them. */
function modelRepo(path: string): FakeRepo {
  const files = openModel(path);
  const folder = Deno.makeTempDirSync({ prefix: "nibble-smollm2-" });
  try {
    const weights = join(folder, "model.safetensors");
    writeSafetensors(
      weights,
      [...files.source.tensors].map(([name, { shape }]) => ({
        ...{ name, shape, dtype: "BF16" as const },
        data: () => files.source.readF32(name),
      })),
    );
    createTokenizer(files).save(folder);
    const texts = [...Deno.readDirSync(folder)].map(({ name }) => name).filter((n) =>
      !n.endsWith(".safetensors")
    );
    return {
      kind: "model",
      lfs: ["model.safetensors"],
      files: {
        ...Object.fromEntries(texts.map((name) => [name, Deno.readTextFileSync(join(folder, name))])),
        "config.json": JSON.stringify({ ...files.config, torch_dtype: "bfloat16" }),
        "generation_config.json": JSON.stringify(files.generationConfig ?? {}),
        "model.safetensors": Deno.readFileSync(weights),
      },
    };
  } finally {
    files.source.close();
    Deno.removeSync(folder, { recursive: true });
  }
}

/** The data that nibble brings along, as a data set of the Hub. */
function dataRepo(): FakeRepo {
  const folder = join(ROOT, "assets/data/devils_dictionary");
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name).filter((n) => /\.(jsonl|md)$/.test(n));
  return {
    kind: "dataset",
    files: Object.fromEntries(names.map((name) => [name, Deno.readTextFileSync(join(folder, name))])),
  };
}

/** Runs a recipe of ours as `deno task train` does, and gives back what it said too. */
async function run(recipe: string, output: string, ...overrides: string[]) {
  const path = join(ROOT, "recipes/smollm2-135m", recipe, "config_qlora.yaml");
  const { settings } = readRecipe(path, [
    ...[`--dataset_name=${DATA}`, `--output_dir=${output}`, "--push_to_hub", "--nibble_sample_prompts=[]"],
    ...["--per_device_train_batch_size=2", "--per_device_eval_batch_size=2", "--max_length=48"],
    ...["--max_eval_samples=2", "--logging_steps=1", "--warmup_ratio=0", "--lora_r=8", ...overrides],
  ]);
  const notes: string[] = [];
  const reporter = { step() {}, log() {}, note: (line: string) => void notes.push(line), done() {} };
  const result = await train(settings, { reporter, recipeText: writeRecipe(settings) });
  return { ...result, notes: notes.join("\n") };
}

const obstacle = gguf === undefined
  ? "the model is not in the cache"
  : /SwiftShader/.test((await openGpu()).name)
  ? "SwiftShader would take a quarter of an hour"
  : undefined;

if (gguf === undefined || obstacle) {
  Deno.test({ name: `${TITLE} (skipped: ${obstacle})`, ignore: true, fn() {} });
} else {
  Deno.test(TITLE, async () => {
    await using hub = startHub({ [MODEL]: modelRepo(gguf), [DATA]: dataRepo() });
    await withHome({ HF_ENDPOINT: hub.url, HF_TOKEN: "hf_writer" }, async (home) => {
      let broken = false;
      hub.trouble = (seen, body) => {
        if (broken || seen.host !== "cdn" || !seen.path.includes("model.safetensors")) return undefined;
        broken = true;
        return truncated(body, 2e8);
      };
      const sft = await run("sft", join(home, "smollm2-sft"), "--max_steps=2", "--max_train_samples=4");
      assert.match(sft.notes, /210 linear layers quantized \([^)]*, 4\.127 bits each\)/);
      assert.ok(
        sft.after!.eval_loss < sft.before!.eval_loss - 0.05,
        `${sft.before!.eval_loss} -> ${sft.after!.eval_loss}`,
      );
      const weights = hub.seen.filter(({ host, path }) => host === "cdn" && path.includes(`${MODEL}/`));
      assert.deepEqual(
        weights.map(({ range }) => range),
        [null, "bytes=200000000-"],
        "the broken body is gone on with",
      );

      const seen = hub.seen.length;
      // the same two pairs twice: the second step sees what the first one taught
      const dpo = await run(
        ...["dpo", join(home, "smollm2-dpo"), "--model_name_or_path=writer/smollm2-sft"] as const,
        ...["--max_train_samples=2", "--max_steps=2", "--learning_rate=1e-4", "--lr_scheduler_type=constant"],
      );
      const paths = hub.seen.slice(seen).map(({ path }) => path);
      assert.ok(paths.some((path) => path.includes("writer/smollm2-sft/resolve")), "the adapter is fetched");
      assert.ok(!paths.some((path) => path.includes(`${MODEL}/resolve`)), "its base is in the cache");
      assert.match(dpo.notes, new RegExp(`${MODEL} with writer/smollm2-sft merged in`));
      const [first, second] = dpo.logs;
      // adapters begin at 0: policy and reference are the same numbers
      assert.ok(Math.abs(first!.loss - Math.LN2) <= 2 * EPS, `starts at ${first!.loss}`);
      assert.equal(first!["rewards/margins"], 0);
      assert.ok(second!.loss < Math.LN2 && second!["rewards/margins"]! > 0, `then ${second!.loss}`);
      assert.equal(dpo.before!["eval_rewards/margins"], 0);
      assert.ok(dpo.after!["eval_rewards/margins"]! > 0, "the margin grows on held-out pairs");
      console.log(
        `  SFT ${sft.before!.eval_loss.toFixed(3)} -> ${sft.after!.eval_loss.toFixed(3)} in ${
          sft.seconds.toFixed(0)
        } s; ` +
          `DPO ${first!.loss.toFixed(4)} -> ${dpo.after!.eval_loss.toFixed(4)} in ${
            dpo.seconds.toFixed(0)
          } s, ` +
          `held-out margin ${dpo.after!["eval_rewards/margins"]!.toFixed(4)}`,
      );

      const sent = hub.repos["writer/smollm2-dpo"]!.files["adapter_model.safetensors"] as Uint8Array;
      assert.deepEqual(sent, Deno.readFileSync(join(home, "smollm2-dpo", "adapter_model.safetensors")));
      const { config } = readAdapter(join(home, "smollm2-dpo"));
      assert.equal(config.base_model_name_or_path, MODEL);
      assert.deepEqual(config.nibble!.parents!.map(({ adapter }) => adapter), ["writer/smollm2-sft"]);
      // what lies on the Hub now is a model: base, SFT and DPO
      const model = await loadModel("writer/smollm2-dpo", { maxPositions: 64 });
      const tokenizer = await loadTokenizer("writer/smollm2-dpo");
      const { ids } = await generate(model, tokenizer, [{ role: "user", content: "Define: HOPE" }], {
        max_new_tokens: 4,
      });
      assert.ok(ids.length > 0);
      model.dispose();
    });
  });
}
