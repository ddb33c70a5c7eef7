import assert from "node:assert/strict";
import { openSafetensors, type TensorSource, writeSafetensors } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import { parameterShapes, readConfig } from "../../lib/model/config.ts";
import { chunks } from "../../lib/model/chunks.ts";
import { buildModel, describeLoad } from "../../lib/model/load.ts";
import { randomSource } from "../../lib/model/random_source.ts";
import {
  dequantize,
  dequantizeOracle,
  QuantizedTensor,
  quantizeOracle,
  toQuantState,
} from "../../lib/quant/mod.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, rejected } from "../gpu_helper.ts";
import { memorySource, tinyConfig, tinyWeights, warmDevice } from "./tiny.ts";

await warmDevice();

const NF4 = { quantType: "nf4", blocksize: 64, doubleQuant: true } as const;

gpuTest("a damaged or foreign model is refused by tensor name, and leaves no buffer behind", async () => {
  const raw = tinyConfig();
  const broken = (change: (w: ReturnType<typeof tinyWeights>) => void) => {
    const weights = tinyWeights(raw, 1);
    change(weights);
    return memorySource(raw, weights);
  };
  const name = "model.layers.1.mlp.up_proj.weight";
  const missing = broken((w) => w.delete(name));
  await rejected(
    () => buildModel(raw, missing),
    "model/missing-tensor",
    /layers\.1\.mlp\.up_proj\.weight.*2 layers/s,
  );
  const headless = broken((w) => w.delete("lm_head.weight"));
  await rejected(() => buildModel(raw, headless), "model/missing-tensor", /tie_word_embeddings/);
  const good = broken(() => {});
  const wider = tinyConfig({ intermediate_size: 48 });
  await rejected(
    () => buildModel(wider, good),
    "model/shape",
    /mlp\.gate_proj\.weight' is \[44,32\].*implies \[48,32\]/s,
  );
  for (const head_dim of [12, 4]) {
    await rejected(
      () => buildModel(tinyConfig({ head_dim }), good),
      "model/shape",
      new RegExp(
        `'model\\.layers\\.0\\.self_attn\\.q_proj\\.weight' is \\[32,32\\], the config implies \\[${
          4 * head_dim
        },32\\]` +
          `.*where: \\(memory\\).*head_dim is ${head_dim}, with 4 heads of queries and 2 of keys and values`,
        "s",
      ),
    );
  }
  await rejected( // 4 heads of 8 are 2 of 16 for the queries, but not 2 of 16 for the keys
    () => buildModel(tinyConfig({ head_dim: 16, num_attention_heads: 2 }), good),
    "model/shape",
    /self_attn\.k_proj\.weight' is \[16,32\].*\[32,32\].*head_dim is 16/s,
  );
  const larger = tinyConfig({ vocab_size: 64 });
  await rejected(
    () => buildModel(larger, good),
    "model/shape",
    /vocab_size in config.json is 64, the embedding has 61/,
  );
  for (const bad of [NaN, Infinity]) {
    const nan = broken((w) => w.get(name)![35] = bad);
    for (const quantization of [undefined, NF4]) {
      const before = gpu().pool.report().liveBytes;
      await rejected(
        () => buildModel(raw, nan, { quantization }),
        "model/nan",
        /up_proj\.weight' holds .* at element 35/,
      );
      assert.equal(gpu().pool.report().liveBytes, before, "a half-loaded model must go");
    }
  }
  const skipModules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
  await rejected(
    () => buildModel(raw, good, { quantization: { ...NF4, skipModules } }),
    "model/nothing-quantized",
    /no layer was quantized/,
  );
});

gpuTest("loading quantizes linear layers alone, skips on request, and says so", async () => {
  const raw = tinyConfig(), weights = tinyWeights(raw, 4);
  const progress: number[] = [];
  const model = await buildModel(raw, memorySource(raw, weights), {
    quantization: { ...NF4, skipModules: ["layers.0.mlp.down_proj", "v_proj"] },
    onProgress: (done, total) => progress.push(done / total),
  });
  const { summary } = model;
  assert.equal(progress.at(-1), 1, "progress reaches the end");
  assert.equal(summary.quantizedLayers, 14 - 3);
  assert.equal(summary.denseLayers, 3);
  assert.ok(model.linears.get("model.layers.1.mlp.down_proj")!.weight instanceof QuantizedTensor);
  assert.ok(!(model.linears.get("model.layers.0.mlp.down_proj")!.weight instanceof QuantizedTensor));
  assert.match(describeLoad(model), /11 linear layers quantized .* bits each\), 3 left dense/);
  for (const module of ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.gate_proj"]) {
    const q = model.linears.get(module)!.weight as QuantizedTensor;
    const dense = dequantize(q);
    const got = await dense.data();
    dense.dispose();
    const want = dequantizeOracle(
      quantizeOracle(weights.get(`${module}.weight`)!, q.shape, { doubleQuant: true }),
    );
    // the mean of the scales is summed in another order, so a scale of the order of 1 may differ by a few roundings
    assertClose(got, want, 8 * EPS, `${module}: the oracle's numbers`);
  }
  const dense = model.linears.get("model.layers.0.self_attn.v_proj")!.weight as Tensor;
  assert.deepEqual([...await dense.data()], [...weights.get("model.layers.0.self_attn.v_proj.weight")!]);
  assert.deepEqual([...await model.embed.data()], [...weights.get("model.embed_tokens.weight")!]);
  model.dispose();
});

gpuTest(
  "numbers that the device reads as the file stores them give the same model, and NaN is refused",
  async () => {
    const raw = tinyConfig(), weights = tinyWeights(raw, 8);
    const folder = Deno.makeTempDirSync({ prefix: "nibble_load_" });
    const name = "model.layers.1.mlp.up_proj.weight";
    const write = (dtype: "F32" | "F16" | "BF16", from: typeof weights) => {
      const path = `${folder}/${dtype}.safetensors`;
      writeSafetensors(
        path,
        parameterShapes(readConfig(raw, "test")).map((s) => ({ ...s, dtype, data: from.get(s.name)! })),
      );
      return openSafetensors(path);
    };
    const held = async (
      source: TensorSource,
      torch_dtype: "float32" | "bfloat16" | "float16",
      nf4: boolean,
    ) => {
      const model = await buildModel(raw, source, { torch_dtype, quantization: nf4 ? NF4 : undefined });
      const read: unknown[] = [];
      for (const t of model.parameters.values()) read.push([t.dtype, await t.data()]);
      for (const { weight } of model.linears.values()) {
        read.push(weight instanceof QuantizedTensor ? await toQuantState(weight) : await weight.data());
      }
      model.dispose();
      return read;
    };
    for (const dtype of ["F32", "F16", "BF16"] as const) {
      using stored = closing(write(dtype, weights));
      // the same numbers through the decoder on the host
      const { readPlain: _, ...decoded } = stored.source;
      for (const torch_dtype of ["float32", "bfloat16", "float16"] as const) {
        for (const nf4 of [false, true]) {
          const what = `${dtype} held as ${torch_dtype}${nf4 ? ", NF4" : ""}`;
          const got = await held(stored.source, torch_dtype, nf4);
          assert.deepEqual(got, await held(decoded, torch_dtype, nf4), what);
        }
      }
      const spoiled = new Map(weights).set(name, weights.get(name)!.with(35, -Infinity));
      using bad = closing(write(dtype, spoiled));
      for (const quantization of [undefined, NF4]) {
        const before = gpu().pool.report().liveBytes;
        const build = () => buildModel(raw, bad.source, { quantization });
        await rejected(build, "model/nan", /up_proj\.weight' holds -Infinity at element 35.*\.safetensors/s);
        assert.equal(gpu().pool.report().liveBytes, before);
      }
    }
    Deno.removeSync(folder, { recursive: true });
  },
);

Deno.test("the next chunks are read while one is worked on, and none is under way when reading ends", async () => {
  const columns = 64, step = 2 ** 20 / columns, rows = 6 * step + 5; // chunks of 4 MiB: six and a rest
  const specs = [{ name: "a", shape: [rows, columns] }, { name: "b", shape: [3] }, {
    name: "c",
    shape: [columns],
  }];
  const info = (name: string, dtype: string, shape: number[]) =>
    [name, { name, dtype, shape, bytes: 0 }] as const;
  const log: string[] = [];
  const source: TensorSource = {
    path: "(test)",
    tensors: new Map([
      info("a", "F32", [rows, columns]),
      info("b", "Q8_0", [3]),
      info("c", "F32", [columns]),
    ]),
    readF32: () => Float32Array.of(1, 2, 3),
    readBytes: () => assert.fail("not asked for"),
    readPlain(name, into, start) {
      if (name === "b") return undefined;
      if (into.length === 0) return Promise.resolve();
      const at = start / 2 ** 22;
      log.push(`begin ${name}${at}`);
      // some are there sooner than those before them
      return new Promise((done) =>
        setTimeout(() => {
          new Float32Array(into.buffer, into.byteOffset, into.length / 4).fill(at);
          log.push(`end ${name}${at}`);
          done();
        }, at * 2 % 3 * 5)
      );
    },
    close() {},
  };
  const got: [string, number, number][] = [];
  for await (const { name, row, rows, values } of chunks(specs, { source, rehearsal: false })) {
    log.push(`work ${name}${row / step}`);
    await new Promise((done) => setTimeout(done, 12));
    got.push([name, row, rows]);
    const own = name === "b" ? [1, 3] : [row / step, row / step];
    assert.deepEqual([values[0], values.at(-1)], own, "those that are read meanwhile go elsewhere");
  }
  const whole = Array.from({ length: 6 }, (_, k) => ["a", k * step, step]);
  assert.deepEqual(got, [...whole, ["a", 6 * step, 5], ["b", 0, 1], ["c", 0, 1]]);
  const begun = log.slice(0, log.indexOf("work a0")).filter((line) => /begin/.test(line));
  assert.deepEqual(begun, ["begin a0", "begin a1", "begin a2", "begin a3"]);
  const ahead = log.map((_, i) => {
    const count = (what: string) => log.slice(0, i + 1).filter((line) => line.startsWith(what)).length;
    return count("begin") - count("work");
  });
  assert.equal(Math.max(...ahead), 4, "no more than the next, and three after it");

  log.length = 0;
  await assert.rejects(async () => {
    for await (const _ of chunks(specs, { source, rehearsal: false })) throw new Error("no room");
  }, /no room/);
  const both = (k: number) => [`begin a${k}`, `end a${k}`];
  assert.deepEqual(
    log.toSorted(),
    [0, 1, 2, 3].flatMap(both).toSorted(),
    "waited for before the error goes on",
  );
});

gpuTest("a weight of many chunks is cut between blocks, whatever its rows and the block's size", async () => {
  // 100 columns: blocks of 512 end with every 128th row; over 4 MiB
  const raw = tinyConfig({ hidden_size: 100, intermediate_size: 11008, head_dim: 8, num_hidden_layers: 1 });
  const source = memorySource(raw, tinyWeights(raw, 1));
  const quantization = { quantType: "nf4", blocksize: 512, doubleQuant: false } as const;
  const model = await buildModel(raw, source, { quantization });
  const name = "model.layers.0.mlp.up_proj";
  const { packed, absmax } = await toQuantState(model.linears.get(name)!.weight as QuantizedTensor);
  const whole = quantizeOracle(source.readF32(`${name}.weight`), [11008, 100], { blocksize: 512 });
  assert.deepEqual([packed, absmax], [whole.packed, whole.absmax]);
  model.dispose();
});

gpuTest("a signal ends the loading, and gives everything back", async () => {
  const raw = tinyConfig(), source = memorySource(raw, tinyWeights(raw, 8));
  const stop = new AbortController();
  const before = gpu().pool.report().liveBytes;
  const onProgress = (done: number, total: number) => done > total / 2 && stop.abort();
  await rejected(
    () => buildModel(raw, source, { quantization: NF4, onProgress, signal: stop.signal }),
    "model/stopped",
    /while the model was loaded/,
  );
  assert.equal(gpu().pool.report().liveBytes, before);
});

function closing(source: TensorSource) {
  return { source, [Symbol.dispose]: () => source.close() };
}

Deno.test("fresh weights: deviation, ones for norms, and the same numbers in any piece", () => {
  const c = readConfig(tinyConfig({ initializer_range: 0.05, vocab_size: 500 }), "c");
  const source = randomSource(c, 42);
  const embed = source.readF32("model.embed_tokens.weight");
  const n = embed.length;
  const mean = embed.reduce((a, b) => a + b, 0) / n;
  const deviation = Math.sqrt(embed.reduce((a, b) => a + b * b, 0) / n);
  // 16,000 draws: the mean errs by 0.05 / sqrt(n), the deviation by 0.05 / sqrt(2 n); five times that
  assert.ok(Math.abs(mean) < 5 * 0.05 / Math.sqrt(n), `mean ${mean}`);
  assert.ok(Math.abs(deviation - 0.05) < 5 * 0.05 / Math.sqrt(2 * n), `deviation ${deviation}`);
  assert.deepEqual([...source.readF32("model.embed_tokens.weight", 100, 130)], [...embed.subarray(100, 130)]);
  assert.ok(source.readF32("model.norm.weight").every((v) => v === 1));
  assert.notEqual(randomSource(c, 43).readF32("model.embed_tokens.weight", 0, 1)[0], embed[0]);
  const other = source.readF32("lm_head.weight", 0, n);
  const correlation = other.reduce((a, v, i) => a + v * embed[i]!, 0) / n / 0.05 ** 2;
  assert.ok(Math.abs(correlation) < 5 / Math.sqrt(n), "names draw independently");
});
