/** A model that is an adapter: its base, the adapters below it, and what is said when they are not what they were. */
import assert from "node:assert/strict";
import {
  adapterConfig,
  adapterHash,
  adapterKey,
  type AdapterProvenance,
  contentHash,
  MERGED_ADAPTERS,
  writeAdapter,
  writeSafetensors,
} from "../../lib/formats/mod.ts";
import { baseOfAdapter, openChain, resolveModel } from "../../lib/lora/chain.ts";
import { checkBase } from "../../lib/lora/provenance.ts";
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

Deno.test("an adapter named as a model is merged into the content that it was trained on, and into no other", async () => {
  const at = root(), base = `${at}/base`;
  const write = (seed: number, parts = 1) => {
    Deno.mkdirSync(base, { recursive: true });
    Deno.writeTextFileSync(
      `${base}/config.json`,
      JSON.stringify({ model_type: "llama", _name_or_path: `x${parts}` }),
    );
    const name = "model.layers.0.self_attn.q_proj.weight";
    writeSafetensors(`${base}/model.safetensors`, [{
      name,
      dtype: "F32",
      shape: [4, 3],
      data: randoms(12, seed),
    }]);
  };
  write(1);
  const sft = adapter(`${at}/sft`, base, 1, { base_hash: contentHash(base) });
  const open = async (id: string) => openChain(await resolveModel(id));
  const merged = await open(sft);
  assert.equal((merged.config[MERGED_ADAPTERS] as unknown[]).length, 1);
  merged.source.close();
  write(1, 2); // who wrote it is no part of what it is
  (await open(sft)).source.close();
  write(2); // other weights under the same name
  const where = /base .*base, sha256-sampled:.*in hand sha256-sampled:/s;
  await assert.rejects(open(sft), { code: "lora/base-mismatch", message: where });
  Deno.removeSync(at, { recursive: true });
});

Deno.test("the content decides where its hash is recorded; without one, another revision of the same base is refused", async () => {
  const name = "org/base";
  const saved = (revision: string | null, base_hash?: string) =>
    adapterConfig({
      base_model_name_or_path: name,
      revision,
      ...(base_hash ? { nibble: { base_hash } } : {}),
    });
  const meets = (s: ReturnType<typeof saved>, revision: string | undefined, hash?: string, base = name) =>
    checkBase("adapter", s, { name: base, revision, hash });
  const refused = (wanted: RegExp, ...of: Parameters<typeof meets>) =>
    assert.throws(() => meets(...of), { code: "lora/base-mismatch", message: wanted });
  // the same content under another name is the same base; other content under the same name is not
  meets(saved("v2", "sha256-sampled:1"), "0123abc", "sha256-sampled:1");
  refused(
    /another base.*revision v2, sha256-sampled:1; in hand sha256-sampled:2/s,
    saved("v2", "sha256-sampled:1"),
    "v2",
    "sha256-sampled:2",
  );
  // no hash: the revision is all there is
  meets(saved("v2"), "v2", "sha256-sampled:1");
  refused(/another revision of org\/base.*revision v2; in hand main.*revision "v2"/s, saved("v2"), undefined);
  refused(/revision v2; in hand v3/, saved("v2"), "v3");
  refused(/revision main; in hand v3/, saved("main"), "v3");
  meets(saved("main"), undefined);
  meets(saved(null), "v3"); // PEFT records none unless told: nothing to compare
  meets(saved("v2"), undefined, undefined, "/a/copy/of/it"); // a folder has no revision
  // the tools that load an adapter's base load the revision that it names
  assert.deepEqual(await baseOfAdapter(saved("v2")), { name, revision: "v2" });
  assert.deepEqual(await baseOfAdapter(saved(null)), { name });
});
