/** A base whose codes are chosen for the run's data, and adapters that correct what is left. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { readAdapter } from "../../lib/formats/mod.ts";
import { quantizeFolder } from "../../lib/quantize_folder.ts";
import { gpuTest } from "../gpu_helper.ts";
import { dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

const BASE = new URL("../../assets/models/tiny", import.meta.url).pathname;

gpuTest(
  "quantized for a recipe's data a base begins nearer to the one in 16 bits, and QERA corrects the rest",
  async () => {
    const data = dataFolder(), made = Deno.makeTempDirSync();
    const settings = (more: Parameters<typeof tinySettings>[1]) =>
      tinySettings(data, {
        nibble_model_config: null,
        do_eval: true,
        max_steps: 2,
        learning_rate: 1e-4,
        ...more,
      });
    const folders: string[] = [];
    const run = async (more: Parameters<typeof tinySettings>[1]) => {
      const s = settings(more);
      folders.push(s.output_dir);
      const result = await quietTrain(s);
      return { ...result, loss: result.before!.eval_loss, folder: s.output_dir };
    };
    const notes: string[] = [];
    const folder = join(made, "nf4");
    await quantizeFolder({
      ...{ model: BASE, output: folder, calibrate: settings({}), dtype: "F32", onNote: (n) => notes.push(n) },
    });
    assert.match(
      notes.join("\n"),
      /calibrated {2}\d+ layers on \d+ tokens: \d+ % of what the nearest codes do/,
    );
    const exact = (await run({})).loss;
    const nearest = Math.abs((await run({ load_in_4bit: true })).loss - exact);
    const calibrated = Math.abs((await run({ load_in_4bit: true, model_name_or_path: folder })).loss - exact);
    const qera = { load_in_4bit: true, init_lora_weights: "qera", lora_r: 16 } as const;
    const both = await run({ ...qera, model_name_or_path: folder });
    const [, left] = /corrected {3}\d+ layers.* (\d+) % of/.exec(both.notes.join("\n"))!;
    assert.ok(Number(left) < 70, `${left} % of what the chosen codes do is left`);
    assert.ok(calibrated < 0.7 * nearest, `apart by ${calibrated}, by the nearest codes ${nearest}`);
    const { config } = readAdapter(both.folder);
    assert.deepEqual([config.base_model_name_or_path, config.init_lora_weights], [folder, true]);

    // what says nothing of its origin cannot be corrected, and another model is not what it came from
    const path = join(folder, "config.json");
    const text = Deno.readTextFileSync(path), { nibble_quantized_from: from, ...rest } = JSON.parse(text);
    assert.equal(from.base, BASE);
    Deno.writeTextFileSync(path, JSON.stringify(rest));
    await assert.rejects(run({ ...qera, model_name_or_path: folder }), /4 bits, not what was quantized/);
    const other = { ...rest, nibble_quantized_from: { ...from, base_hash: "0" } };
    Deno.writeTextFileSync(path, JSON.stringify(other));
    await assert.rejects(
      run({ ...qera, model_name_or_path: folder }),
      /not what the base was quantized from/,
    );
    sweep(data, made, ...folders);
  },
);
