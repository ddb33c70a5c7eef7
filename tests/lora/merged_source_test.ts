/** A base read with an adapter merged in: every weight against W + s B A in f64, in pieces, transposed, with DoRA. */
import assert from "node:assert/strict";
import {
  type AdapterConfig,
  adapterConfig,
  adapterKey,
  contentHashOf,
  MERGED_ADAPTERS,
  type ModelFiles,
  writeAdapter,
} from "../../lib/formats/mod.ts";
import { mergedFiles } from "../../lib/lora/merged_source.ts";
import { assertClose, EPS, randoms, refused } from "../gpu_helper.ts";

const Q = "model.layers.0.self_attn.q_proj", UP = "model.layers.0.mlp.up_proj";
const SHAPES: Record<string, [number, number]> = { [`${Q}.weight`]: [7, 5], [`${UP}.weight`]: [11, 5] };
const R = 3;

/** A base in memory; `[out, in]`, or `[in, out]` as GPT-2 stores it. */
function base(transposed = false): ModelFiles {
  const data = new Map(Object.keys(SHAPES).map((name, i) => [name, randoms(SHAPES[name]![0] * 5, i + 1)]));
  const tensors = new Map(
    Object.entries(SHAPES).map(([name, [out, into]]) => {
      const shape = transposed ? [into, out] : [out, into];
      return [name, { name, dtype: "F32", shape, bytes: 4 * out * into }];
    }),
  );
  return {
    ...{ path: "(memory)", config: { model_type: "test" }, tokenizerJson: undefined, tokenizerConfig: {} },
    ...{ generationConfig: {}, chatTemplate: undefined },
    source: {
      path: "(memory)",
      tensors,
      readF32: (name, start, end) => data.get(name)!.slice(start, end),
      readBytes: (name, start, end) => new Uint8Array(data.get(name)!.buffer).slice(start, end),
      // deno-lint-ignore require-await
      async readPlain(name, into, start) {
        into.set(new Uint8Array(data.get(name)!.buffer).subarray(start, start + into.length));
      },
      close() {},
    },
  };
}

const A = randoms(R * 5, 11), B = randoms(7 * R, 12), MAGNITUDE = randoms(7, 13).map((v) => 1 + 0.5 * v);

/** An adapter on the query projection alone. */
function adapterFolder(
  fields: Partial<AdapterConfig> = {},
  more: [string, number[], Float32Array][] = [],
): string {
  const folder = Deno.makeTempDirSync({ prefix: "nibble-adapter-" });
  const config = adapterConfig({
    ...{ r: R, lora_alpha: 6, target_modules: ["q_proj"], base_model_name_or_path: "org/base", ...fields },
  });
  writeAdapter(
    folder,
    config,
    new Map([
      [adapterKey(Q, "lora_A"), { shape: [R, 5], data: A }],
      [adapterKey(Q, "lora_B"), { shape: [7, R], data: B }],
      ...more.map(([key, shape, data]) => [key, { shape, data }] as const),
    ]),
  );
  return folder;
}

/** W + s B A, `[out, in]`, in f64; with `magnitude` each row at that length. */
function naive(w: Float32Array, s: number, magnitude?: Float32Array): number[] {
  return Array.from({ length: 7 }, (_, o) => {
    const row = Array.from({ length: 5 }, (_, i) => {
      let sum = w[5 * o + i]!;
      for (let k = 0; k < R; k++) sum += s * B[o * R + k]! * A[5 * k + i]!;
      return sum;
    });
    const by = magnitude ? magnitude[o]! / Math.hypot(...row) : 1;
    return row.map((v) => v * by);
  }).flat();
}

const FACTORS: [string, Partial<AdapterConfig>, number][] = [
  ["alpha / r", {}, 2],
  ["alpha / sqrt(r)", { use_rslora: true }, 6 / Math.sqrt(3)],
  ["an alpha of its own", { alpha_pattern: { q_proj: 9 } }, 3],
];
for (const [what, fields, scaling] of FACTORS) {
  Deno.test(`the adapted weight is W + s B A, s = ${what}; the others are the base's`, () => {
    const folder = adapterFolder(fields), files = base(), merged = mergedFiles(files, folder, "org/adapter");
    const w = files.source.readF32(`${Q}.weight`);
    const want = naive(w, scaling);
    // summed in f64, rounded once
    assertClose(merged.source.readF32(`${Q}.weight`), want, 4 * EPS * 10, "W + s B A");
    assert.deepEqual(merged.source.readF32(`${UP}.weight`), files.source.readF32(`${UP}.weight`));
    const plain = (name: string) =>
      merged.source.readPlain!(`${name}.weight`, new Uint8Array(), 0) !== undefined;
    assert.deepEqual([plain(Q), plain(UP)], [false, true], "what the base stores is not what is adapted");
    assert.ok(want.some((v, i) => Math.abs(v - w[i]!) > 0.1), "there is something to merge");
    const wrong = naive(w, 2 * scaling);
    assert.ok(wrong.some((v, i) => Math.abs(v - want[i]!) > 1000 * EPS), "twice the scale would be seen");
    Deno.removeSync(folder, { recursive: true });
  });
}

Deno.test("pieces are those of the whole, wherever they are cut", () => {
  const folder = adapterFolder({ use_dora: true }, [
    [adapterKey(Q, "lora_magnitude_vector"), [7], MAGNITUDE],
  ]);
  const files = base(), merged = mergedFiles(files, folder, "a");
  const whole = merged.source.readF32(`${Q}.weight`);
  assertClose(whole, naive(files.source.readF32(`${Q}.weight`), 2, MAGNITUDE), 8 * EPS, "DoRA's rows");
  for (const [from, to] of [[0, 5], [5, 20], [3, 4], [7, 33], [34, 35], [0, undefined]] as const) {
    assert.deepEqual(
      merged.source.readF32(`${Q}.weight`, from, to),
      whole.slice(from, to),
      `${from} to ${to}`,
    );
  }
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("weights stored the other way round, and modules trained whole", () => {
  const whole = randoms(55, 21);
  const folder = adapterFolder({ fan_in_fan_out: true, modules_to_save: ["up_proj"] }, [
    [adapterKey(`${UP}.weight`, "full"), [5, 11], whole],
  ]);
  const files = base(true), merged = mergedFiles(files, folder, "a");
  const stored = files.source.readF32(`${Q}.weight`); // [in, out]
  const turned = Float32Array.from({ length: 35 }, (_, i) => stored[(i % 5) * 7 + Math.floor(i / 5)]!);
  const want = naive(turned, 2);
  const got = merged.source.readF32(`${Q}.weight`);
  assertClose(got, got.map((_, i) => want[(i % 7) * 5 + Math.floor(i / 7)]!), 4 * EPS * 10, "transposed");
  assert.deepEqual(merged.source.readF32(`${UP}.weight`, 3, 20), whole.slice(3, 20));
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("the fingerprint tells which adapter was merged, not where it lay", () => {
  const folder = adapterFolder(), copy = adapterFolder();
  const changed = adapterFolder({}, []);
  const path = `${changed}/adapter_model.safetensors`;
  const bytes = Deno.readFileSync(path);
  bytes[bytes.length - 1] ^= 1;
  Deno.writeFileSync(path, bytes);
  const hashes = [folder, copy, changed].map((f) => contentHashOf(mergedFiles(base(), f, f)));
  assert.equal(hashes[0], hashes[1]);
  assert.notEqual(hashes[0], hashes[2]);
  assert.notEqual(hashes[0], contentHashOf(base()));
  const twice = mergedFiles(mergedFiles(base(), folder, "first"), changed, "second");
  assert.deepEqual(
    (twice.config[MERGED_ADAPTERS] as { adapter: string; base: string }[]).map((m) => [m.adapter, m.base]),
    [["first", "org/base"], ["second", "org/base"]],
  );
  for (const f of [folder, copy, changed]) Deno.removeSync(f, { recursive: true });
});

Deno.test("what cannot be merged is refused by name", () => {
  const folders = [
    adapterFolder({ init_lora_weights: "pissa" }),
    adapterFolder({}, [[adapterKey("model.layers.9.mlp.up_proj.weight", "full"), [11, 5], randoms(55, 1)]]),
    adapterFolder({}, [[adapterKey(`${UP}.weight`, "full"), [5, 11], randoms(55, 1)]]),
  ];
  const expected = [
    ["lora/unsupported", /init_lora_weights: pissa/],
    ["lora/unsupported", /layers\.9/],
    ["lora/shape", /\[5,11\], the base has \[11,5\]/],
  ] as const;
  folders.forEach((folder, i) => {
    refused(() => mergedFiles(base(), folder, "a"), expected[i]![0], expected[i]![1]);
    Deno.removeSync(folder, { recursive: true });
  });
});
