import assert from "node:assert/strict";
import { join } from "@std/path";
import * as nibble from "../mod.ts";
import { addLora, loadAdapter, loadModel, loadTokenizer, saveAdapter } from "../lib/api.ts";
import { MERGED_ADAPTERS, openModel, openSafetensors, readAdapter } from "../lib/formats/mod.ts";
import { openFile } from "../lib/formats/file.ts";
import { readGgufHeader } from "../lib/formats/gguf_header.ts";
import { mergeFolder } from "../lib/merge_folder.ts";
import { logits } from "../lib/model/model.ts";
import { NibbleError } from "../lib/errors.ts";
import { gpuTest, randoms, rejected } from "./gpu_helper.ts";
import { warmDevice } from "./model/tiny.ts";

await warmDevice();

const BASE = new URL("../assets/models/tiny", import.meta.url).pathname;
const CHECK = "A lawyer is one skilled in circumvention of the law. ".repeat(2);
const folderFor = () => Deno.makeTempDirSync({ prefix: "nibble-merge-" });

/** A trained adapter, as far as files can tell. */
async function trainedAdapter(
  folder: string,
  base: string,
  options: nibble.LoraOptions = {},
  quantization?: "nf4",
): Promise<void> {
  const model = await loadModel(base, { quantization });
  const adapter = addLora(model, {
    r: 4,
    lora_alpha: 8,
    target_modules: ["q_proj", "k_proj", "down_proj"],
    ...options,
  });
  let n = 0;
  for (const [name, t] of adapter.pages!.tensors) {
    const move = randoms(t.size, 9 + n++), before = await t.data();
    if (!name.includes("lora_A")) t.write(before.map((v, i) => v + 0.05 * move[i]!));
  }
  await saveAdapter(adapter, folder, { tokenizer: await loadTokenizer(base) });
  adapter.dispose();
  model.dispose();
}

gpuTest(
  "an adapter on NF4, merged: 16 bits in shards, GGUF twice, the adapter as GGUF, each near the adapter",
  async () => {
    const folder = folderFor(), adapter = join(folder, "adapter"), output = join(folder, "merged");
    await trainedAdapter(adapter, BASE, {}, "nf4");
    const notes: string[] = [];
    let last = 0;
    const result = await mergeFolder({
      ...{ adapter, output, check: CHECK, maxShardBytes: 1e6, gguf: ["F16", "Q8_0"] },
      ggufAdapter: join(folder, "adapter.gguf"),
      onNote: (note) => notes.push(note),
      onProgress: (done, total) => last = done / total,
    });
    assert.equal(last, 1);
    assert.ok(result.files.length > 1 && result.files.every((f) => Deno.statSync(f).size < 1.1e6), "shards");
    const { config, source, generationConfig, tokenizerJson } = openModel(output);
    assert.equal(config.torch_dtype, "bfloat16");
    assert.equal(source.tensors.get("model.layers.0.self_attn.q_proj.weight")!.dtype, "BF16");
    assert.ok(tokenizerJson && generationConfig["eos_token_id"] !== undefined);
    source.close();
    const [record] = config[MERGED_ADAPTERS] as Record<string, unknown>[];
    assert.deepEqual([record!.adapter, record!.base], [adapter, BASE]);
    assert.match(String(record!.adapter_hash), /^sha256:[0-9a-f]{64}$/);

    // bf16 moves weights by 2^-9 of themselves at most: through 5 blocks of 4 products in a row and head and embedding, of
    // random sign, 4 deviations of 2^-9 / sqrt(3) each
    const { logit, largest, loss, tokens } = result.drift!;
    const bf16 = Math.sqrt(22) * 4 * 2 ** -9 / Math.sqrt(3);
    assert.ok(logit < bf16 * largest && logit > 0, `bf16: ${logit} of ${largest}`);
    assert.ok(tokens > 20 && Math.abs(loss[0] - loss[1]) < 0.01, `${loss}`);
    assert.ok(notes.some((n) => n.includes("logits differ by")), notes.join("\n"));
    const [f16, q8] = result.gguf.map((g) => g.drift!);
    // f16 holds bf16's numbers of this size exactly: the same function but for f32 sums
    assert.ok(Math.abs(f16!.logit - logit) < 1e-4 * largest, `F16: ${f16!.logit}, folder ${logit}`);
    assert.ok(q8!.logit < 4 * bf16 * largest && q8!.logit > logit, `Q8_0: ${q8!.logit}`);

    // a conversation, rendered and tokenized by what the GGUF carries alone, is the base's (R11)
    const chat = [
      { role: "user", content: "Who  is 1234?\n" },
      { role: "assistant", content: "Naïve – he’s a lawyer." },
    ];
    const tokenizer = await loadTokenizer(BASE);
    for (const { path } of result.gguf) {
      const carried = await loadTokenizer(path);
      const [got, want] = [carried, tokenizer].map((t) => {
        const text = t.renderChat(chat, { addGenerationPrompt: true });
        return { text, ids: t.encode(text, { addSpecialTokens: false }), stops: t.eosIds };
      });
      assert.deepEqual(got, want);
      assert.ok(carried.eosIds.every((id) => got!.ids.includes(id)), "the stop token ends the turn");
    }

    const file = openFile(join(folder, "adapter.gguf"));
    const { metadata, tensors } = readGgufHeader(file);
    file.close();
    assert.deepEqual(
      ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"].map((k) =>
        metadata.get(k)
      ),
      ["llama", "adapter", "lora", 8],
    );
    assert.equal(
      Deno.readTextFileSync(join(output, "Modelfile")),
      'FROM ./merged-Q8_0.gguf\nPARAMETER stop "<|im_end|>"\n',
    );
    const shapes = new Map(tensors.map((t) => [t.name, [t.shape, t.type.name]]));
    assert.equal(shapes.size, 5 * 3 * 2);
    assert.deepEqual(shapes.get("blk.0.attn_q.weight.lora_a"), [[4, 128], "F32"]);
    assert.deepEqual(shapes.get("blk.4.attn_k.weight.lora_b"), [[64, 4], "F32"]);
    Deno.removeSync(folder, { recursive: true });
  },
);

gpuTest(
  "a tokenizer that GGUF cannot hold as it is: its file is taken back, and the folder stays",
  async () => {
    const folder = folderFor(), adapter = join(folder, "adapter"), output = join(folder, "merged");
    await trainedAdapter(adapter, BASE);
    const path = join(adapter, "tokenizer.json");
    const json = JSON.parse(Deno.readTextFileSync(path));
    Deno.writeTextFileSync(path, JSON.stringify({ ...json, normalizer: { type: "Lowercase" } }));
    await assert.rejects(mergeFolder({ adapter, output, check: CHECK, gguf: ["F16"] }), {
      code: "merge/gguf-tokens",
      message: /merged-F16\.gguf, for "The harbour/,
    });
    const left = [...Deno.readDirSync(output)].map((e) => e.name);
    assert.ok(
      left.includes("model.safetensors") && !left.some((name) => /\.gguf$|^Modelfile$/.test(name)),
      `${left}`,
    );
    Deno.removeSync(folder, { recursive: true });
  },
);

gpuTest(
  "an adapter on a merged model names its parents, and is refused on the base without them",
  async () => {
    const folder = folderFor();
    const [first, merged, second, twice] = ["first", "merged", "second", "twice"].map((n) =>
      join(folder, n)
    ) as [string, string, string, string];
    await trainedAdapter(first, BASE);
    await mergeFolder({ adapter: first, output: merged, check: false, dtype: "F32" });
    await trainedAdapter(second, merged, { use_dora: true });
    const { config } = readAdapter(second);
    assert.equal(config.base_model_name_or_path, merged);
    assert.deepEqual(config.nibble!.parents!.map((p) => [p.adapter, p.base]), [[first, BASE]]);
    assert.match(config.nibble!.base_hash!, /^sha256-sampled:/);
    const raw = JSON.parse(Deno.readTextFileSync(join(second, "adapter_config.json")));
    assert.deepEqual(
      raw.auto_mapping.nibble,
      config.nibble,
      "in adapter_config.json, where PEFT reads a free map",
    );

    const base = await loadModel(BASE);
    const refuse = (e: unknown) => {
      assert.ok(e instanceof NibbleError && e.code === "lora/base-mismatch", String(e));
      assert.match(e.message, /first merged in: load that one, or merge that adapter first/);
      return true;
    };
    assert.throws(() => loadAdapter(base, second), refuse);
    base.dispose();

    const onMerged = await loadModel(merged);
    const adapter = loadAdapter(onMerged, second);
    const want = await logits(onMerged, [1, 2, 3, 4]);
    adapter.dispose();
    onMerged.dispose();
    await mergeFolder({ adapter: second, output: twice, check: false, dtype: "F32" });
    const all = await loadModel(twice);
    assert.equal((all.rawConfig[MERGED_ADAPTERS] as unknown[]).length, 2, "the chain goes on");
    const got = await logits(all, [1, 2, 3, 4]);
    const size = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    got.forEach((v, i) => assert.ok(Math.abs(v - want[i]!) < 1e-4 * size, `${i}`));
    all.dispose();

    // one changed weight is another base
    const shard = join(merged, "model.safetensors");
    const bytes = Deno.readFileSync(shard);
    bytes[bytes.length - 3]! ^= 64;
    Deno.writeFileSync(shard, bytes);
    const changed = await loadModel(merged);
    assert.throws(() => loadAdapter(changed, second), /was trained on another base/);
    changed.dispose();
    Deno.removeSync(folder, { recursive: true });
  },
);

gpuTest(
  "quantized again on request: bitsandbytes' form, and the loss that it costs is measured",
  async () => {
    const folder = folderFor(), adapter = join(folder, "adapter"), output = join(folder, "merged");
    await trainedAdapter(adapter, BASE, {}, "nf4");
    const { drift, files } = await mergeFolder({ adapter, output, check: CHECK, requantize: "nf4" });
    const config = JSON.parse(Deno.readTextFileSync(join(output, "config.json")));
    assert.equal(config.quantization_config.bnb_4bit_quant_type, "nf4");
    const source = openSafetensors(join(output, "model.safetensors"));
    const name = "model.layers.0.self_attn.q_proj.weight";
    assert.equal(source.tensors.get(name)!.dtype, "U8");
    assert.ok(
      source.tensors.has(`${name}.quant_state.bitsandbytes__nf4`) &&
        source.tensors.has(`${name}.nested_absmax`),
    );
    assert.equal(source.tensors.get("model.embed_tokens.weight")!.dtype, "BF16");
    source.close();
    assert.equal(files.length, 1);
    assert.ok(drift!.logit > 0.01 * drift!.largest && drift!.loss[0] !== drift!.loss[1], "4 bits are felt");
    Deno.removeSync(folder, { recursive: true });
  },
);

gpuTest(
  "a head trained apart from the embedding that it was tied to is written as one of its own",
  async () => {
    const folder = folderFor(), adapter = join(folder, "adapter"), output = join(folder, "merged");
    await trainedAdapter(adapter, BASE, { modules_to_save: ["lm_head"] });
    const { drift } = await mergeFolder({ adapter, output, check: CHECK, dtype: "F32" });
    assert.ok(drift!.logit < 1e-4 * drift!.largest, `${drift!.logit}`);
    const { config, source } = openModel(output);
    assert.equal(config.tie_word_embeddings, false);
    assert.ok(source.tensors.has("lm_head.weight"));
    source.close();
    const error = await mergeFolder({ adapter, ggufAdapter: join(folder, "a.gguf") }).catch((e) => e);
    assert.match(String(error), /lm_head.weight' has no form in a GGUF adapter.*merged model instead/s);
    Deno.removeSync(folder, { recursive: true });
  },
);

gpuTest("an adapter is merged neither into its own folder nor into its base's", async () => {
  const folder = folderFor(), adapter = join(folder, "adapter"), base = join(folder, "base");
  Deno.mkdirSync(base);
  for (const { name } of Deno.readDirSync(BASE)) Deno.copyFileSync(join(BASE, name), join(base, name));
  await trainedAdapter(adapter, base);
  const files = () =>
    [adapter, base].flatMap((at) => [...Deno.readDirSync(at)].map(({ name }) => join(at, name)));
  const before = files().map((path) => [path, Deno.readFileSync(path)]);
  for (const output of [adapter, base]) {
    await rejected(
      () => mergeFolder({ adapter, output }),
      "formats/overwrites",
      /overwrite what it is made from/,
    );
    await rejected(
      () => mergeFolder({ adapter, output, model: base }),
      "formats/overwrites",
      /Name another folder/,
    );
  }
  assert.deepEqual(files().map((path) => [path, Deno.readFileSync(path)]), before);
  Deno.removeSync(folder, { recursive: true });
});

gpuTest("arguments that do not go together are refused before anything is loaded", async () => {
  const refuse = async (options: Parameters<typeof mergeFolder>[0], pattern: RegExp) => {
    await assert.rejects(
      mergeFolder(options),
      (e: unknown) => e instanceof NibbleError && pattern.test(e.message),
    );
  };
  await refuse({ adapter: "a" }, /nothing to write/);
  await refuse({ adapter: "a", output: "b", requantize: "nf4", gguf: ["F16"] }, /--requantize/);
  await refuse({ adapter: BASE, output: "b" }, /There is no adapter_config.json/);
});

Deno.test("the command line: help, and what is wrong with arguments, before a device is asked for", async () => {
  const run = async (...args: string[]) => {
    const tool = new URL("../tools/merge.ts", import.meta.url).pathname;
    const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", tool, ...args] });
    const { code, stdout, stderr } = await command.output();
    const text = new TextDecoder();
    return { code, out: text.decode(stdout), err: text.decode(stderr) };
  };
  const [help, nothing, type, size, option] = await Promise.all([
    run("--help"),
    run(),
    run("--adapter=a", "--output=b", "--gguf=q9"),
    run("--adapter=a", "--output=b", "--max_shard_size=big"),
    run("--adaptr=a"),
  ]);
  assert.deepEqual([help!.code, nothing!.code, type!.code, size!.code, option!.code], [0, 2, 1, 1, 1]);
  assert.match(help!.out, /--max_shard_size SIZE/);
  assert.match(nothing!.err, /Usage/);
  assert.match(type!.err, /--gguf is 'q9', not one of f16, q8_0/);
  assert.match(size!.err, /'big', not a size such as 5GB/);
  assert.match(option!.err, /--adaptr/);
});
