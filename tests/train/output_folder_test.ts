/** Where a run may write, and what it takes away there. */
import assert from "node:assert/strict";
import { basename, dirname, join } from "@std/path";
import { removeStaleAdapter } from "../../lib/train/output_folder.ts";
import { gpuTest } from "../gpu_helper.ts";
import { failsWith } from "../hub/fake_hub.ts";
import { settingsOf } from "./preference_helper.ts";
import { dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

const names = (folder: string) => [...Deno.readDirSync(folder)].map((e) => e.name).sort();
/** What would come after the folder: a run that gets there fails otherwise. */
const NOWHERE = { model_name_or_path: "./no/such/model", nibble_model_config: null };

gpuTest("an output folder that cannot be is refused before the model is looked for", async () => {
  const data = dataFolder(), file = join(data, "train.jsonl");
  for (const output_dir of [join(file, "below"), file, "/proc/nope"]) {
    await assert.rejects(
      quietTrain({ ...tinySettings(data, NOWHERE), output_dir }),
      failsWith("formats/cannot-write", "output folder"),
    );
  }
  sweep(data);
});

gpuTest(
  "the folder of the model or of the reference is no output folder, whatever way leads there",
  async () => {
    const data = dataFolder();
    const base = tinySettings(data, { max_steps: 1, use_peft: false });
    await quietTrain(base);
    const before = names(base.output_dir), model = base.output_dir;
    const link = `${model}-link`;
    Deno.symlinkSync(model, link);
    const own = { model_name_or_path: model, nibble_model_config: null };
    for (const output_dir of [model, `${model}/`, join(model, "..", basename(model)), link]) {
      await assert.rejects(
        quietTrain(tinySettings(data, { ...own, output_dir })),
        failsWith("train/output-is-model", "folder of model_name_or_path", "another folder"),
      );
    }
    await assert.rejects(
      quietTrain(tinySettings(data, { ...own, model_name_or_path: basename(model), output_dir: link }), {
        base: dirname(model),
      }),
      failsWith("train/output-is-model"),
      "a path from the recipe",
    );
    await assert.rejects(
      quietTrain(settingsOf("dpo", data, { ref_model: link, output_dir: model })),
      failsWith("train/output-is-model", "folder of ref_model"),
    );
    // an adapter's base, too
    const adapter = tinySettings(data, { ...own, max_steps: 1 });
    await quietTrain(adapter);
    await assert.rejects(
      quietTrain(
        tinySettings(data, {
          ...{ ...own, model_name_or_path: adapter.output_dir, output_dir: model, use_peft: false },
        }),
      ),
      failsWith("train/output-is-model"),
    );
    assert.deepEqual(names(model), before);
    sweep(data, model, adapter.output_dir);
    Deno.removeSync(link);
  },
);

gpuTest("full fine-tuning takes an earlier run's adapter out of its folder, and nothing else", async () => {
  const data = dataFolder();
  const s = tinySettings(data, { max_steps: 1 });
  await quietTrain(s);
  Deno.writeTextFileSync(join(s.output_dir, "adapter_notes.txt"), "mine");
  assert.ok(names(s.output_dir).includes("adapter_model.safetensors"));
  const again = await quietTrain(s);
  assert.ok(!again.notes.some((n) => n.startsWith("removed")), "an adapter replaces an adapter");
  const full = await quietTrain({ ...s, use_peft: false });
  assert.ok(
    full.notes.includes(
      "removed     adapter_config.json, adapter_model.safetensors of an earlier run: " +
        `${s.output_dir} now holds a whole model`,
    ),
    full.notes.join("\n"),
  );
  const left = names(s.output_dir);
  assert.ok(left.includes("model.safetensors") && left.includes("adapter_notes.txt"), `${left}`);
  assert.ok(!left.some((n) => /^adapter_(config|model)/.test(n)), `${left}`);
  assert.equal(removeStaleAdapter(s.output_dir), undefined);
  sweep(data, s.output_dir);
});

gpuTest("an adapter is not put beside a whole model", async () => {
  const data = dataFolder(), full = tinySettings(data, { max_steps: 1, use_peft: false });
  await quietTrain(full);
  const before = names(full.output_dir);
  await assert.rejects(
    quietTrain({ ...tinySettings(data, NOWHERE), output_dir: full.output_dir }),
    failsWith("train/output-holds-model", full.output_dir, "another folder"),
  );
  assert.deepEqual(names(full.output_dir), before);
  sweep(data, full.output_dir);
});
