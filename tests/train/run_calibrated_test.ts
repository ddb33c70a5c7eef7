/** A base whose codes are chosen for the run's data. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { quantizeFolder } from "../../lib/quantize_folder.ts";
import { gpuTest } from "../gpu_helper.ts";
import { dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

const BASE = new URL("../../assets/models/tiny", import.meta.url).pathname;

gpuTest(
  "quantized for a recipe's data a base begins nearer to the one in 16 bits",
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
      return (await quietTrain(s)).before!.eval_loss;
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
    const exact = await run({});
    const nearest = Math.abs(await run({ load_in_4bit: true }) - exact);
    const calibrated = Math.abs(await run({ load_in_4bit: true, model_name_or_path: folder }) - exact);
    assert.ok(calibrated < 0.7 * nearest, `apart by ${calibrated}, by the nearest codes ${nearest}`);
    // what was quantized is not at hand any more
    await assert.rejects(
      run({ load_in_4bit: true, init_lora_weights: "qera", model_name_or_path: folder }),
      /4 bits, not what was quantized/,
    );
    sweep(data, made, ...folders);
  },
);
