/** Adapters that PEFT has just written, on nibble's base. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { loadAdapter, loadModel } from "../../../lib/api.ts";
import { openSafetensors } from "../../../lib/formats/mod.ts";
import { logits } from "../../../lib/model/model.ts";
import { EPS } from "../../gpu_helper.ts";
import { check, folder } from "../checks.ts";
import { BASE, IDS, NF4 } from "./cases.ts";

const at = join(folder(), "python");
const names = [...Deno.readDirSync(at)].filter((e) => e.isDirectory).map((e) => e.name).sort();
await check("PEFT's adapters are there", () => {
  assert.equal(names.length, 6);
});
for (const name of names) {
  await check(`nibble loads PEFT's adapter ${name}, same logits`, async () => {
    const source = openSafetensors(join(at, `${name}.safetensors`));
    const want = source.readF32("logits");
    source.close();
    const nf4 = name.endsWith("nf4");
    const model = await loadModel(BASE, { quantization: nf4 ? NF4 : undefined });
    const adapter = loadAdapter(model, join(at, name));
    const got = await logits(model, IDS);
    adapter.dispose();
    model.dispose();
    const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    const error = got.reduce((a, v, i) => Math.max(a, Math.abs(v - want[i]!)), 0);
    // as in check_adapters.py
    assert.ok(error <= (nf4 ? 2 : 1) * 2 * 440 * EPS * size, `${error} of ${size}`);
    return `largest difference ${error.toExponential(1)} of ${size.toFixed(1)}`;
  });
}
Deno.exit();
