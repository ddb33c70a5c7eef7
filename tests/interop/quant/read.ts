/**
 * Models that Transformers with bitsandbytes quantized: nibble takes their codes as they are.
 * @module
 */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { loadModel } from "../../../lib/api.ts";
import { openSafetensors, quantizedNames, readQuantState } from "../../../lib/formats/mod.ts";
import { QuantizedTensor, toQuantState } from "../../../lib/quant/mod.ts";
import { check, folder } from "../checks.ts";
import { compare, logitsOf } from "../nibble.ts";

const from = join(folder(), "python");
for (const { name } of [...Deno.readDirSync(from)].sort((a, b) => a.name < b.name ? -1 : 1)) {
  await check(
    `nibble loads bitsandbytes' ${name} without quantizing again: same codes, same logits`,
    async () => {
      const path = join(from, name);
      const { layers } = JSON.parse(Deno.readTextFileSync(join(path, "case.json")));
      // asked for other settings: the file's win, as in Transformers
      const model = await loadModel(path, { quantization: { quantType: "fp4", doubleQuant: false } });
      assert.ok(model.summary.asStored);
      assert.equal(model.summary.quantizedLayers, layers);
      const file = openSafetensors(join(path, "model.safetensors"));
      for (const weight of quantizedNames(file)) {
        const layer = model.linears.get(weight.replace(/\.weight$/, ""))!;
        assert.ok(layer.weight instanceof QuantizedTensor);
        assert.deepEqual(await toQuantState(layer.weight), readQuantState(file, weight));
      }
      file.close();
      const wanted = openSafetensors(join(path, "logits.safetensors"));
      const { apart, size } = compare(await logitsOf(model), wanted.readF32("logits"));
      wanted.close();
      model.dispose();
      assert.ok(apart <= 1e-5 * size, `${apart} of ${size}`); // f32 sums of up to 160 terms in another order
      return `largest difference ${(apart / size).toExponential(1)} of the largest logit`;
    },
  );
}
Deno.exit();
