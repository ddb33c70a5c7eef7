/** nibble's adapters of every kind, with its logits; a merged model in all its forms. */
import { join } from "@std/path";
import { addLora, loadModel, loadTokenizer, type LoraAdapter, saveAdapter } from "../../../lib/api.ts";
import { mergeFolder } from "../../../lib/merge_folder.ts";
import { logits } from "../../../lib/model/model.ts";
import { randoms } from "../../gpu_helper.ts";
import { folder } from "../checks.ts";
import { BASE, CASES, IDS, LLAMA, NF4, writeLogits } from "./cases.ts";

/** Moves everything that trains away from its beginning. */
async function stir(adapter: LoraAdapter): Promise<void> {
  let n = 0;
  for (const t of adapter.pages!.tensors.values()) {
    const before = await t.data(), move = randoms(t.size, 40 + n++);
    t.write(before.map((v, i) => v + 0.2 * move[i]!));
  }
}

const at = folder(), answers = join(at, "logits");
for (const [name, options] of Object.entries(CASES)) {
  const model = await loadModel(BASE, { quantization: name.endsWith("nf4") ? NF4 : undefined });
  const adapter = addLora(model, options);
  await stir(adapter);
  writeLogits(answers, name, await logits(model, IDS));
  await saveAdapter(adapter, join(at, name));
  adapter.dispose();
  model.dispose();
}

const base = await loadModel(LLAMA, { quantization: NF4 });
const adapter = addLora(base, {
  r: 4,
  lora_alpha: 8,
  target_modules: "all-linear",
  rank_pattern: { k_proj: 2 },
});
await stir(adapter);
await saveAdapter(adapter, join(at, "llama"), { tokenizer: await loadTokenizer(LLAMA) });
adapter.dispose();
base.dispose();
const common = { adapter: join(at, "llama"), check: false } as const;
await mergeFolder({
  ...common,
  output: join(at, "merged"),
  maxShardBytes: 1e6,
  gguf: ["F16", "Q8_0"],
  ggufAdapter: join(at, "llama.gguf"),
});
await mergeFolder({ ...common, output: join(at, "merged_nf4"), requantize: "nf4" });
for (const name of ["merged", "merged_nf4", "merged/merged-F16.gguf", "merged/merged-Q8_0.gguf"]) {
  const model = await loadModel(join(at, name));
  writeLogits(answers, name.replaceAll("/", "-"), await logits(model, IDS));
  model.dispose();
}
Deno.exit(0);
