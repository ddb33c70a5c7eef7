/** A model that is an adapter: its base, the adapters below it, and what is said when they are not what they were. */
import assert from "node:assert/strict";
import {
  adapterConfig,
  adapterHash,
  adapterKey,
  type AdapterProvenance,
  writeAdapter,
} from "../../lib/formats/mod.ts";
import { resolveModel } from "../../lib/lora/chain.ts";
import { randoms } from "../gpu_helper.ts";

const root = () => Deno.makeTempDirSync({ prefix: "nibble-chain-" });

function adapter(folder: string, base: string | null, seed: number, nibble?: AdapterProvenance): string {
  const module = "model.layers.0.self_attn.q_proj";
  writeAdapter(
    folder,
    adapterConfig({ r: 2, lora_alpha: 4, base_model_name_or_path: base, ...(nibble ? { nibble } : {}) }),
    new Map([
      [adapterKey(module, "lora_A"), { shape: [2, 3], data: randoms(6, seed) }],
      [adapterKey(module, "lora_B"), { shape: [4, 2], data: randoms(8, seed + 1) }],
    ]),
  );
  return folder;
}

Deno.test("a model is itself; an adapter is its base with the adapters below it, oldest first", async () => {
  const at = root(), base = `${at}/base`;
  Deno.mkdirSync(base);
  Deno.writeTextFileSync(`${base}/config.json`, "{}");
  assert.deepEqual(await resolveModel(base), { path: base, base, revision: undefined, adapters: [] });
  const sft = adapter(`${at}/sft`, base, 1);
  const one = await resolveModel(sft);
  assert.deepEqual([one.path, one.base], [base, base]);
  assert.deepEqual(one.adapters, [{ name: sft, folder: sft }]);
  // what training on `sft` records: the base, and sft as a parent
  const parent = { adapter: sft, adapter_hash: adapterHash(sft), base, base_revision: null };
  const dpo = adapter(`${at}/dpo`, base, 3, { parents: [parent] });
  assert.deepEqual((await resolveModel(dpo)).adapters.map((a) => a.name), [sft, dpo]);
  // an adapter whose base is named as an adapter: the same chain, and no parent twice
  const other = adapter(`${at}/other`, sft, 5, { parents: [parent] });
  assert.deepEqual((await resolveModel(other)).adapters.map((a) => a.name), [sft, other]);

  adapter(sft, base, 9); // trained anew
  await assert.rejects(resolveModel(dpo), { code: "lora/parent-changed", message: /sft is not the adapter/ });
  const lost = adapter(`${at}/lost`, null, 1);
  await assert.rejects(resolveModel(lost), { code: "lora/no-base" });
  // a merged model that keeps the adapter's files beside its weights is a model
  Deno.writeTextFileSync(`${dpo}/model.safetensors`, "");
  assert.deepEqual((await resolveModel(dpo)).adapters, []);
  Deno.removeSync(at, { recursive: true });
});
