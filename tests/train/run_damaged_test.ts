/** Checkpoints that something has spoiled: said as such, with the way on, before they spoil anything else. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { openSafetensors, writeSafetensors } from "../../lib/formats/mod.ts";
import { gpuTest } from "../gpu_helper.ts";
import { failsWith } from "../hub/fake_hub.ts";
import { dataFolder, quietTrain, sweep, tinySettings, warmDevice } from "./run_helper.ts";

await warmDevice();

const STATE = "nibble_state.json", TENSORS = "optimizer.safetensors";

gpuTest(
  "a damaged checkpoint is refused, and the one before it named",
  async () => {
    const data = dataFolder();
    const s = tinySettings(data, {
      max_steps: 6,
      save_strategy: "steps",
      save_steps: 2,
      save_total_limit: 2,
    });
    await quietTrain(s, {}, 4);
    const [sound, last] = [2, 4].map((step) => join(s.output_dir, `checkpoint-${step}`)) as [string, string];
    const kept = [STATE, TENSORS].map((file) => [file, Deno.readFileSync(join(last, file))] as const);
    const restore = () => kept.forEach(([file, bytes]) => Deno.writeFileSync(join(last, file), bytes));
    const saved = JSON.parse(new TextDecoder().decode(kept[0]![1]));
    const attempt = async (...words: string[]) => {
      const ways = [`--resume_from_checkpoint=${sound}`, "--resume_from_checkpoint=false"];
      await assert.rejects(quietTrain(s), failsWith("train/damaged-checkpoint", ...words, ...ways));
      restore();
    };

    const { fingerprint: _, ...unnamed } = saved;
    const states: [unknown, string][] = [
      [{}, "fingerprint"],
      [[], "not a JSON object"],
      [unnamed, "fingerprint"],
      [{ ...saved, state: undefined }, "no state"],
      [{ ...saved, state: { ...saved.state, step: "x" } }, 'step is "x"'],
      [{ ...saved, state: { ...saved.state, step: 1.5 } }, "step is 1.5"],
      [{ ...saved, state: { ...saved.state, numTokens: null } }, "numTokens is null"],
      [{ ...saved, state: { ...saved.state, pending: { sums: "" } } }, "pending"],
    ];
    for (const [value, word] of states) {
      Deno.writeTextFileSync(join(last, STATE), JSON.stringify(value));
      await attempt(word);
    }
    Deno.writeTextFileSync(join(last, STATE), '{"state": ');
    await attempt("not a JSON object");

    const bytes = kept[1]![1];
    Deno.writeFileSync(join(last, TENSORS), bytes.subarray(0, bytes.length - 100));
    await attempt(TENSORS);
    Deno.writeFileSync(join(last, TENSORS), bytes.subarray(0, 20));
    await attempt(TENSORS);

    // what is not finite, or not there, in one tensor
    const rewrite = (change: (name: string, data: Float32Array) => boolean | void) => {
      const source = openSafetensors(join(last, TENSORS));
      const tensors = [...source.tensors.values()].flatMap(({ name, dtype, shape }) => {
        assert.equal(dtype, "F32");
        const values = source.readF32(name);
        return change(name, values) === false ? [] : [{ name, dtype: "F32" as const, shape, data: values }];
      });
      source.close();
      writeSafetensors(join(last, TENSORS), tensors);
    };
    rewrite((name, values) => void (/layers\.1\.mlp\.up_proj\.lora_B/.test(name) && (values[3] = NaN)));
    await attempt("up_proj.lora_B", "not finite");
    rewrite((name, values) => void (/layers\.0\.mlp\.up_proj\.lora_A/.test(name) && (values[0] = -Infinity)));
    await attempt("up_proj.lora_A", "not finite");
    rewrite((name, values) => void (name === "exp_avg.0" && (values[1] = NaN)));
    await attempt("exp_avg.0", "NaN");
    rewrite((name) => name !== "exp_avg_sq.0");
    await attempt("exp_avg_sq.0");

    // nothing was harmed meanwhile
    const whole = await quietTrain(s);
    assert.match(whole.notes.join("\n"), /resumed .*checkpoint-4 at step 4 of 6/);
    sweep(data, s.output_dir);
  },
);

gpuTest("where the only checkpoint is damaged, starting afresh is what there is", async () => {
  const data = dataFolder();
  const s = tinySettings(data, { max_steps: 4 });
  await quietTrain(s, {}, 2);
  Deno.writeTextFileSync(join(s.output_dir, "checkpoint-2", STATE), "{}");
  await assert.rejects(quietTrain(s), (error) => {
    failsWith("train/damaged-checkpoint", "Start afresh with --resume_from_checkpoint=false")(error);
    assert.doesNotMatch((error as Error).message, /earlier/);
    return true;
  });
  const afresh = await quietTrain({ ...s, resume_from_checkpoint: "false" });
  assert.equal(afresh.logs[0]!.step, 1);
  sweep(data, s.output_dir);
});
