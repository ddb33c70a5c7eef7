import assert from "node:assert/strict";
import { type Dora, doraLinear, rowNorms, rowSquares } from "../../lib/lora/dora.ts";
import { openModel } from "../../lib/formats/mod.ts";
import { loadAdapter } from "../../lib/lora/peft.ts";
import { generate } from "../../lib/model/generate.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits } from "../../lib/model/model.ts";
import type { LoraLayer } from "../../lib/lora/lora.ts";
import type { LinearLayer } from "../../lib/model/linear.ts";
import { dequantize, quantize, type QuantizedTensor } from "../../lib/quant/mod.ts";
import { dropoutOnly } from "../../lib/tensor/ops/dropout.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { keep, scope, type Tensor, tensor, zeros } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";

await warmDevice();

interface Case {
  rows: number;
  into: number;
  out: number;
  r: number;
  s: number;
}

/** `‖W + s B A‖` by rows, written out. */
function naiveNorms(c: Case, w: ArrayLike<number>, a: ArrayLike<number>, b: ArrayLike<number>): Float64Array {
  return Float64Array.from({ length: c.out }, (_, o) => {
    let sum = 0;
    for (let i = 0; i < c.into; i++) {
      let v = w[o * c.into + i]!;
      for (let k = 0; k < c.r; k++) v += c.s * b[o * c.r + k]! * a[k * c.into + i]!;
      sum += v * v;
    }
    return Math.sqrt(sum);
  });
}

/** y as PEFT computes it, in f64; `mask` is what dropout multiplies x with, and the norm is given: a constant. */
function naiveDora(
  c: Case,
  [x, w, a, b, m, bias]: ArrayLike<number>[],
  mask: ArrayLike<number> | undefined,
  norms: ArrayLike<number>,
): Float64Array {
  return Float64Array.from({ length: c.rows * c.out }, (_, at) => {
    const row = Math.floor(at / c.out), o = at % c.out, g = m![o]! / norms[o]!;
    let base = 0, dropped = 0, change = 0;
    for (let i = 0; i < c.into; i++) {
      const xi = x![row * c.into + i]!, di = mask ? xi * mask[row * c.into + i]! : xi;
      base += xi * w![o * c.into + i]!;
      dropped += di * w![o * c.into + i]!;
      for (let k = 0; k < c.r; k++) change += di * a![k * c.into + i]! * b![o * c.r + k]!;
    }
    return base + bias![o]! + (g - 1) * dropped + g * c.s * change;
  });
}

async function check(c: Case, quantized: boolean, rate: number, broken = false): Promise<void> {
  const dropping = rate > 0 ? { rate, seed: 77 } : undefined;
  const sizes = [c.rows * c.into, c.out * c.into, c.r * c.into, c.out * c.r, c.out, c.out];
  const data = sizes.map((n, i) => randoms(n, i + 3));
  data[4]!.forEach((v, i) => data[4]![i] = 1.5 + v); // magnitudes
  const keepers: { dispose(): void }[] = [];
  const own = <T extends { dispose(): void }>(t: T) => (keepers.push(t), t);
  let weight: Tensor | QuantizedTensor = own(keep(tensor(data[1]!, [c.out, c.into])));
  if (quantized) {
    weight = own(quantize(weight as Tensor, { doubleQuant: true }));
    const dense = own(keep(dequantize(weight)));
    data[1] = await dense.data();
  }
  const trainable = (values: Float32Array<ArrayBuffer>, shape: number[]) => {
    const t = own(keep(tensor(values, shape)));
    t.requiresGrad = true;
    t.grad = own(keep(zeros(shape)));
    return t;
  };
  const [x, a, b, m, bias] = [
    trainable(data[0]!, [c.rows, c.into]),
    trainable(data[2]!, [c.r, c.into]),
    trainable(data[3]!, [c.out, c.r]),
    trainable(data[4]!, [c.out]),
    trainable(data[5]!, [c.out]),
  ];
  const layer: LinearLayer = { module: "m", shape: [c.out, c.into], weight, bias, adapter: undefined };
  const dora: Dora = { magnitude: m, squares: own(rowSquares(weight)) };
  const lora: LoraLayer = {
    layer,
    a,
    b,
    scaling: broken ? 1.01 * c.s : c.s,
    masks: undefined,
    dora,
    initial: undefined,
  };
  try {
    const norms = naiveNorms(c, data[1]!, data[2]!, data[3]!);
    const got = own(keep(scope(() => rowNorms(lora, dora.squares))));
    // terms of size 1: |W|^2 of `into` of them and twice as many of the change, before the root halves the error
    const relative = 4 * EPS * (c.into + 2 * c.r + 8);
    (await got.data()).forEach((v, o) =>
      assert.ok(Math.abs(v - norms[o]!) <= relative * norms[o]!, `norm ${o}`)
    );
    const mask = dropping && await own(keep(
      dropoutOnly(own(keep(tensor(new Float32Array(c.rows * c.into).fill(1), [c.rows, c.into]))), rate, 77),
    )).data();
    const weights = randoms(c.rows * c.out, 50);
    const dy = own(keep(tensor(weights, [c.rows, c.out])));
    const output = scope(() =>
      differentiate(() => doraLinear(lora, dora, x, dropping, { dropoutSeed: undefined }), dy).output
    );
    own(keep(output));
    const want = naiveDora(c, data, mask, norms);
    const size = Math.max(...want.map(Math.abs));
    const bound = 8 * EPS * (c.into + c.r) * Math.max(1, size);
    assertClose(await output.data(), want, bound, "y");
    for (
      const [name, t, at] of [["x", x, 0], ["a", a, 2], ["b", b, 3], ["m", m, 4], ["bias", bias, 5]] as const
    ) {
      const input = data.map((d) => Float64Array.from(d));
      const h = 1e-5;
      const slope = Array.from(input[at]!, (value, k) => {
        const loss = (v: number) => {
          input[at]![k] = v;
          return naiveDora(c, input, mask, norms).reduce((sum, y, i) => sum + y * weights[i]!, 0);
        };
        const d = (loss(value + h) - loss(value - h)) / (2 * h);
        input[at]![k] = value;
        return d;
      });
      const largest = slope.reduce((m, v) => Math.max(m, Math.abs(v)), 1);
      assertClose(
        await t.grad!.data(),
        slope,
        8 * EPS * (c.into + c.out + c.rows) * largest + 1e-8,
        `d${name}`,
      );
    }
  } finally {
    keepers.forEach((k) => k.dispose());
  }
}

const CASES: Case[] = [
  { rows: 1, into: 8, out: 1, r: 1, s: 2 },
  { rows: 5, into: 13, out: 7, r: 3, s: 0.5 },
  { rows: 3, into: 24, out: 93, r: 5, s: 1.5 },
];
for (const c of CASES) {
  for (
    const [what, quantized, rate] of [["f32", false, 0], ["f32, dropout", false, 0.4], [
      "NF4",
      true,
      0,
    ]] as const
  ) {
    gpuTest(`DoRA forward and backward, [${c.rows}, ${c.into}] to ${c.out}, r ${c.r}, ${what}`, async () => {
      await check(c, quantized, rate);
    });
  }
}

gpuTest("a scaling that is off by a hundredth is told apart", async () => {
  await assert.rejects(check(CASES[1]!, false, 0, true), /norm 0/);
});

gpuTest("norms of a weight larger than a piece, and of rows of zeros", async () => {
  const rows = 172, columns = 4 * 2 ** 20 / 128 + 4; // pieces of 128 rows
  const data = randoms(rows * columns, 1);
  data.fill(0, 5 * columns, 6 * columns);
  const w = tensor(data, [rows, columns]);
  const squares = rowSquares(w);
  const got = await squares.data();
  for (const row of [0, 5, 127, 128, 171]) {
    const part = data.subarray(row * columns, (row + 1) * columns);
    const want = part.reduce((sum, v) => sum + v * v, 0);
    assert.ok(Math.abs(got[row]! - want) <= 64 * EPS * want, `row ${row}: ${got[row]}, want ${want}`);
  }
  const a = tensor(new Float32Array(columns), [1, columns]), b = tensor(new Float32Array(rows), [rows, 1]);
  const layer: LinearLayer = { module: "m", shape: [rows, columns], weight: w, adapter: undefined };
  const norms = keep(scope(() => rowNorms({ layer, a, b, scaling: 1 }, squares)));
  const values = await norms.data();
  assert.ok(values.every((v) => v > 0) && values[5]! < 1e-14, "no division by zero");
  for (const t of [w, squares, a, b, norms]) t.dispose();
});

gpuTest("generation, which computes the scales once, says what whole passes say", async () => {
  const folder = (name: string) => new URL(`../parity/adapters/${name}`, import.meta.url).pathname;
  const files = openModel(folder("base"));
  const model = await buildModel(files.config, files.source);
  files.source.close();
  const adapter = loadAdapter(model, folder("dora"));
  const prompt = [5, 9, 60, 2, 7];
  const ids = [...prompt];
  for (let n = 0; n < 6; n++) {
    const last = (await logits(model, ids)).slice(-model.config.vocab_size);
    ids.push(last.indexOf(Math.max(...last)));
  }
  const say = async () => (await generate(model, prompt, { max_new_tokens: 6, eos_token_id: [] })).ids;
  const turn = async () => {
    for (const { dora } of adapter.layers.values()) {
      dora!.magnitude.write((await dora!.magnitude.data()).map((v) => -v));
    }
  };
  assert.deepEqual(await say(), ids.slice(prompt.length));
  await turn();
  assert.notDeepEqual(await say(), ids.slice(prompt.length), "nothing is kept from one text to the next");
  await turn();
  assert.deepEqual(await say(), ids.slice(prompt.length));
  adapter.remove();
  model.dispose();
});
