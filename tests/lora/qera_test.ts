import assert from "node:assert/strict";
import { type ModelFiles, openModel, readAdapter } from "../../lib/formats/mod.ts";
import { initOf } from "../../lib/lora/config.ts";
import type { Adapter, LoraConfig } from "../../lib/lora/lora.ts";
import { loadAdapter, saveAdapter } from "../../lib/lora/peft.ts";
import { type Matrix, topSingular } from "../../lib/lora/decompose.ts";
import { type Calibration, inputMoments } from "../../lib/lora/input_moments.ts";
import { correct, correctQuantization } from "../../lib/lora/qera.ts";
import { modelSource, parameterShapes } from "../../lib/model/parameters.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits, type Model } from "../../lib/model/model.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms, rejected } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { adapt, BASE, CONFIG, NF4 } from "./adapt_helper.ts";

await warmDevice();

const QERA: Partial<LoraConfig> = {
  lora_dropout: 0.1,
  init_lora_weights: "qera",
  target_modules: "all-linear",
};
const TOKENS = Array.from({ length: 96 }, (_, i) => (i * i * 7 + 3 * i) % 61);

/** The tokens in rows of `time`, each row padded at its end by `pad` tokens. */
function batchOf(tokens: readonly number[], time: number, pad = 0): Calibration {
  const rows = tokens.length / time, width = time + pad;
  const fill = (value: (row: number, t: number) => number) =>
    Uint32Array.from({ length: rows * width }, (_, i) => value(Math.floor(i / width), i % width));
  return {
    ...{ batch: rows, time: width },
    ids: fill((row, t) => t < time ? tokens[row * time + t]! : 60),
    positions: fill((_, t) => t < time ? t : 0),
    segments: fill((_, t) => t < time ? 1 : 0),
  };
}

/** Runs `use` on the base in 4 bits, or as its files say, with an adapter. */
async function adapted<T>(
  config: Partial<LoraConfig>,
  use: (model: Model, adapter: Adapter, files: ModelFiles) => Promise<T>,
  bits: 4 | 32 = 4,
): Promise<T> {
  using a = await adapt({ ...QERA, ...config }, bits === 4 ? NF4 : {});
  return await use(a.model, a.adapter, a.files);
}

const distance = (x: ArrayLike<number>, y: ArrayLike<number>) =>
  Math.sqrt(Array.from(x).reduce((sum, v, i) => sum + (v - y[i]!) ** 2, 0));

/** `‖(E − s B A) L‖² / ‖E L‖²`, computed from C = L Lᵀ itself. */
function leftOf(
  e: Matrix,
  c: Matrix,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  r: number,
  s: number,
): number {
  const { rows, columns: n } = e;
  const square = (m: Float64Array) => {
    let sum = 0;
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) sum += m[row * n + i]! * c.data[i * n + j]! * m[row * n + j]!;
      }
    }
    return sum;
  };
  const rest = Float64Array.from(e.data);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < r; k++) {
      for (let j = 0; j < n; j++) rest[row * n + j]! -= s * b[row * r + k]! * a[k * n + j]!;
    }
  }
  return square(rest) / square(Float64Array.from(e.data));
}

/** `Xᵀ X` of inputs that lie near few directions. */
function moments(n: number, tokens: number): Matrix {
  const x = randoms(tokens * n, 3).map((v, i) => v * 2 ** -(i % n));
  const data = new Float64Array(n * n);
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) data[i * n + j]! += x[t * n + i]! * x[t * n + j]!;
  }
  return { rows: n, columns: n, data };
}

/** What {@link correct} writes for E and C in groups, from A of ones and B of twos. */
async function corrected(e: Matrix, groups: readonly Matrix[], r: number, ranks: number, scaling: number) {
  using a = tensor(new Float32Array(r * e.columns).fill(1), [r, e.columns]);
  using b = tensor(new Float32Array(e.rows * r).fill(2), [e.rows, r]);
  using error = tensor(Float32Array.from(e.data), [e.rows, e.columns]);
  const moments = groups.map((c) => tensor(Float32Array.from(c.data), [c.rows, c.columns]));
  const left = await correct({ a, b, scaling }, ranks, error, moments, 1);
  for (const c of moments) c.dispose();
  return { a: await a.data(), b: await b.data(), left };
}

gpuTest(
  "QERA's A and B leave the least error of the outputs that their rank can, LoftQ's and changed ones more",
  async () => {
    const [rows, n, r, s] = [11, 13, 3, 1.5];
    const e = { rows, columns: n, data: randoms(rows * n, 5) };
    const c = moments(n, 200);
    const { a, b, left } = await corrected(e, [c], r, r, s);
    const got = leftOf(e, c, a, b, r, s);
    assert.ok(got < 0.2, `${got} of the error is left`);
    // f32: products of 13 and 11, each rounded to 2^-24 of the whole error
    assert.ok(Math.abs(left - got) < 24 * 2 ** -22, `${left} is said, ${got} is left`);
    // the theorem's own form: the weighed error E L, its first triplets, and L's inverse after them
    const best = topEigenvalues(e, c, r);
    assert.ok(Math.abs(got - best) < 24 * 2 ** -22, `${got} is left, ${best} is the least`);
    const plain = topSingular(e, r, { seed: 1 }); // what LoftQ takes
    const root = (k: number) => Math.sqrt(plain.s[k]! / s);
    const loftq = leftOf(
      e,
      c,
      Float64Array.from(
        { length: r * n },
        (_, i) => root(Math.floor(i / n)) * plain.v[i % n * r + Math.floor(i / n)]!,
      ),
      Float64Array.from({ length: rows * r }, (_, i) => root(i % r) * plain.u[i]!),
      ...[r, s] as const,
    );
    assert.ok(got < 0.5 * loftq, `QERA ${got}, LoftQ ${loftq}`);
    // a minimum: no direction leads down
    for (let i = 0; i < 20; i++) {
      const step = randoms(a.length, 50 + i).map((v) => 1e-2 * v);
      assert.ok(leftOf(e, c, a.map((v, j) => v + step[j]!), b, r, s) > got - 1e-4, "another A");
    }
    // inputs in two independent groups
    const two = [moments(8, 90), moments(5, 90)];
    const whole = { rows: n, columns: n, data: new Float64Array(n * n) };
    let first = 0;
    for (const { rows: m, data } of two) {
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < m; j++) whole.data[(first + i) * n + first + j] = data[i * m + j]!;
      }
      first += m;
    }
    const parts = await corrected(e, two, r, r, s);
    assert.ok(Math.abs(leftOf(e, whole, parts.a, parts.b, r, s) - parts.left) < 24 * 2 ** -22, "two groups");
  },
);

gpuTest("ranks beyond the correction's stay LoRA's own; without an error all do", async () => {
  const [rows, n, r, ranks] = [11, 13, 5, 2];
  const e = { rows, columns: n, data: randoms(rows * n, 5) };
  const { a, b } = await corrected(e, [moments(n, 200)], r, ranks, 2);
  assert.ok(a.subarray(ranks * n).every((v) => v === 1) && a.subarray(0, ranks * n).every((v) => v !== 1));
  for (let i = 0; i < b.length; i++) assert.equal(b[i] === 0, i % r >= ranks, `B ${i}`);
  const none = await corrected({ ...e, data: new Float32Array(rows * n) }, [moments(n, 200)], r, ranks, 2);
  assert.deepEqual([none.left, ...new Set(none.a), ...new Set(none.b)], [0, 1, 2]);
});

/** What is left of `tr E C Eᵀ` without its r largest eigenvalues, by Jacobi's rotations of the whole matrix. */
function topEigenvalues(e: Matrix, c: Matrix, r: number): number {
  const { rows, columns: n } = e;
  const m = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      for (let k = 0; k < n; k++) {
        for (let l = 0; l < n; l++) {
          m[i * rows + j]! += e.data[i * n + k]! * c.data[k * n + l]! * e.data[j * n + l]!;
        }
      }
    }
  }
  const { s } = topSingular({ rows, columns: rows, data: m }, rows, { seed: 1 });
  const sum = (x: Float64Array) => x.reduce((a, v) => a + v, 0);
  return 1 - sum(s.subarray(0, r)) / sum(s);
}

gpuTest(
  "moments are the tokens' own: padding counts for nothing, weights and adapters are what they were",
  async () => {
    await adapted({}, async (model, adapter, files) => {
      const layers = [...adapter.layers.values()];
      const source = modelSource(files.source, parameterShapes(model.config));
      const before = layers.map(({ layer }) => [layer.weight, layer.adapter]);
      const measured = async (batches: Calibration[]) => {
        const all = new Map<string, Matrix>();
        for await (const [same, [c]] of inputMoments(model, source, layers, batches)) {
          const m = { rows: c!.rows, columns: c!.columns, data: await c!.data() };
          for (const { layer } of same) all.set(layer.module, m);
        }
        return all;
      };
      const want = await measured([batchOf(TOKENS, 12)]);
      assert.deepEqual([...want.keys()].sort(), [...adapter.layers.keys()].sort());
      assert.equal(want.get("model.layers.0.self_attn.q_proj"), want.get("model.layers.0.self_attn.k_proj"));
      const again = await measured([batchOf(TOKENS, 12)]);
      const padded = await measured([batchOf(TOKENS, 12, 5)]);
      const halves = await measured([batchOf(TOKENS.slice(0, 48), 12), batchOf(TOKENS.slice(48), 12)]);
      for (const [module, m] of want) {
        assert.deepEqual(again.get(module)!.data, m.data, module);
        const size = distance(m.data, new Float64Array(m.data.length));
        // f32 sums of 96 products, behind two layers of which each adds a few roundings
        for (const other of [padded, halves]) {
          assert.ok(distance(other.get(module)!.data, m.data) < 96 * 2 ** -23 * size, module);
        }
      }
      // inputs too wide for one factor: the blocks on the diagonal
      for await (const [same, parts] of inputMoments(model, source, layers, [batchOf(TOKENS, 12)], 20)) {
        const { rows: n, data } = want.get(same[0]!.layer.module)!;
        let first = 0;
        for (const c of parts) {
          const { rows } = c, part = await c.data();
          assert.ok(rows <= 20);
          for (let i = 0; i < rows * rows; i++) {
            const there = data[(first + Math.floor(i / rows)) * n + first + i % rows]!;
            assert.ok(
              Math.abs(part[i]! - there) <= 96 * 2 ** -23 * Math.abs(there) + 1e-6,
              `${part[i]}, ${there}`,
            );
          }
          first += rows;
        }
        assert.equal(first, n);
      }
      layers.forEach(({ layer }, i) =>
        assert.ok(layer.weight === before[i]![0] && layer.adapter === before[i]![1])
      );
      // of the exact model: on a base that is not quantized the same layers see the same
      const exact = await adapted({ init_lora_weights: true }, async (model, { layers }) => {
        const all = new Map<string, Matrix>();
        for await (
          const [same, [c]] of inputMoments(model, source, [...layers.values()], [batchOf(TOKENS, 12)])
        ) {
          const m = { rows: c!.rows, columns: c!.columns, data: await c!.data() };
          for (const { layer } of same) all.set(layer.module, m);
        }
        return all;
      }, 32);
      for (const [module, m] of want) assert.deepEqual(exact.get(module)!.data, m.data, module);
    });
  },
);

gpuTest(
  "a QLoRA run begins closer to the base in 32 bits than with LoftQ, and is saved as plain LoRA",
  async () => {
    const exact = await adapted({ init_lora_weights: true }, (model) => logits(model, TOKENS), 32);
    const plain = await adapted({ init_lora_weights: true }, (model) => logits(model, TOKENS));
    const loftq = await adapted({ init_lora_weights: "loftq" }, (model) => logits(model, TOKENS));
    const folder = Deno.makeTempDirSync();
    const got = await adapted({}, async (model, adapter, files) => {
      assert.deepEqual(await logits(model, TOKENS), plain, "until there are tokens it is the base");
      const seen: number[] = [];
      const report = await correctQuantization(adapter, files.source, [batchOf(TOKENS, 12)], {
        onProgress: (done) => seen.push(done),
      });
      assert.deepEqual(seen, Array.from({ length: 14 }, (_, i) => i + 1));
      assert.equal(report.layers, 14);
      assert.ok(report.left > 0 && report.left < 1, `${report.left}`);
      const corrected = await logits(model, TOKENS);
      adapter.enabled = false;
      assert.deepEqual(await logits(model, TOKENS), plain, "the base is what it was");
      adapter.enabled = true;
      await saveAdapter(adapter, folder, { base: BASE });
      return corrected;
    });
    const { config } = readAdapter(folder);
    assert.deepEqual([config.init_lora_weights, config.nibble?.init_lora_weights], [true, "qera"]);
    const files = openModel(BASE);
    const model = await buildModel(files.config, files.source, NF4);
    files.source.close();
    const adapter = loadAdapter(model, folder);
    assert.deepEqual(await logits(model, TOKENS), got, "loaded again");
    adapter.remove();
    model.dispose();
    Deno.removeSync(folder, { recursive: true });
    const [qera, other, none] = [got, loftq, plain].map((x) => distance(x, exact)) as [
      number,
      number,
      number,
    ];
    assert.ok(qera < other && other < none, `QERA errs by ${qera}, LoftQ by ${other}, NF4 alone by ${none}`);
  },
);

gpuTest("a model whose rotations are made anew for each length is measured too", async () => {
  using a = await adapt(QERA, NF4, {
    max_position_embeddings: 8,
    rope_scaling: { rope_type: "dynamic", factor: 4 },
  });
  const { layers } = await correctQuantization(a.adapter, a.files.source, [batchOf(TOKENS, 12)]);
  assert.equal(layers, 14);
});

Deno.test("how many ranks the correction takes is told in the name", () => {
  const ranks = (init_lora_weights: string) => {
    const init = initOf({ ...CONFIG, init_lora_weights } as LoraConfig);
    return init.kind === "qera" ? init.ranks ?? "half" : init.kind;
  };
  assert.deepEqual(["qera", "QERA", "qera_rank_12"].map(ranks), ["half", "half", 12]);
  for (const name of ["qera_rank_0", "qera_rank_", "qera_12"]) {
    assert.throws(() => ranks(name), /not supported/);
  }
});

gpuTest("QERA wants 4 bits and tokens", async () => {
  await assert.rejects(adapted({}, () => Promise.resolve(), 32), /QERA corrects.*4 bits/);
  await adapted({}, async (_, adapter, files) => {
    await assert.rejects(correctQuantization(adapter, files.source, []), /No tokens to look at/);
  });
});

gpuTest("without a layer in 4 bits, or without tokens, there is nothing that QERA could do", async () => {
  using dense = await adapt({ ...QERA, init_lora_weights: true });
  const run = ({ adapter, files }: typeof dense, batches: Calibration[]) => () =>
    correctQuantization(adapter, files.source, batches);
  await rejected(run(dense, [batchOf(TOKENS, 12)]), "lora/nothing-to-correct", /load_in_4bit: true/);
  using quantized = await adapt(QERA, NF4);
  await rejected(run(quantized, []), "lora/no-tokens", /at least one batch/);
});
