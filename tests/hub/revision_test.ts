/** An adapter of one revision of a base on the Hub: what it records, which bases it then meets, and what finds its own. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { addLora, loadAdapter, loadModel, saveAdapter } from "../../lib/api.ts";
import { readAdapter } from "../../lib/formats/mod.ts";
import { mergeFolder } from "../../lib/merge_folder.ts";
import { gpuTest } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { failsWith, startHub, withHome } from "./fake_hub.ts";

await warmDevice();

const TINY = new URL("../../assets/models/tiny/", import.meta.url);
const files = Object.fromEntries(
  ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    .map((name) => [name, Deno.readFileSync(new URL(name, TINY))]),
);
/** The same shapes, one weight another. */
const changed = { ...files, "model.safetensors": Uint8Array.from(files["model.safetensors"]!) };
changed["model.safetensors"].set([0x40, 0x3f], changed["model.safetensors"].length - 2);

gpuTest(
  "an adapter records the revision of its base, meets no other content, and is merged into its own",
  async () => {
    await using hub = startHub({
      "org/base": {
        kind: "model",
        files: { ...changed, "README.md": "trained further" }, // the newest, which is what main says
        revisions: { "v2": files, "a-branch-at-v2": files },
      },
    });
    await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
      const folder = join(home, "adapter");
      const v2 = await loadModel("org/base", { revision: "v2" });
      const adapter = addLora(v2, { r: 2, target_modules: ["q_proj"] });
      await saveAdapter(adapter, folder);
      adapter.dispose();
      v2.dispose();
      const { config } = readAdapter(folder);
      assert.deepEqual([config.base_model_name_or_path, config.revision], ["org/base", "v2"]);
      assert.match(config.nibble!.base_hash!, /^sha256/);

      const meets = async (revision: string | undefined) => {
        const model = await loadModel("org/base", revision ? { revision } : {});
        try {
          loadAdapter(model, folder).dispose();
        } finally {
          model.dispose();
        }
      };
      await meets("v2");
      await meets("a-branch-at-v2"); // another name of the same weights
      await assert.rejects(
        meets(undefined),
        failsWith("lora/base-mismatch", "another base model", "revision v2", "sha256"),
      );

      // chat and merge load the base that the adapter names, and training goes on from it
      await mergeFolder({ adapter: folder, output: join(home, "merged"), check: false });
      (await loadModel(folder)).dispose();

      // as PEFT saves it, with the revision and no hash
      const path = join(folder, "adapter_config.json");
      const raw = JSON.parse(Deno.readTextFileSync(path));
      Deno.writeTextFileSync(path, JSON.stringify({ ...raw, auto_mapping: null }));
      await meets("v2");
      await assert.rejects(
        meets(undefined),
        failsWith("lora/base-mismatch", "another revision of org/base", '"v2"'),
      );
      await mergeFolder({ adapter: folder, output: join(home, "merged"), check: false });
      Deno.writeTextFileSync(path, JSON.stringify({ ...raw, auto_mapping: null, revision: null }));
      await meets(undefined); // nothing is recorded, nothing is refused
    });
  },
);
