import assert from "node:assert/strict";
import fc from "fast-check";
import { join } from "@std/path";
import {
  pythonFloat,
  QUANT_STORAGE,
  quantizedNames,
  type QuantState,
  quantStateTensors,
  readQuantState,
} from "../../lib/formats/bnb.ts";
import { openSafetensors } from "../../lib/formats/safetensors.ts";
import { DTYPE_BYTES } from "../../lib/formats/dtype.ts";
import { type WritableTensor, writeSafetensors } from "../../lib/formats/safetensors_write.ts";
import { temporaryFolder, throwsCode } from "./support.ts";

const NAME = "model.layers.0.mlp.up_proj.weight";

function state(
  shape: number[],
  blocksize: number,
  nested: boolean,
  quantType: "nf4" | "fp4" = "nf4",
): QuantState {
  const n = shape.reduce((a, b) => a * b, 1);
  const blocks = Math.ceil(n / blocksize);
  const bytes = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 73 + 5) & 255);
  const reals = (length: number) => Float32Array.from({ length }, (_, i) => Math.fround(Math.cos(i)));
  return {
    packed: bytes(Math.ceil(n / 2)),
    absmax: nested ? bytes(blocks) : reals(blocks),
    quantMap: reals(16),
    quantType,
    blocksize,
    shape,
    dtype: "bfloat16",
    ...(nested
      ? {
        nested: {
          absmax: reals(Math.ceil(blocks / 256)),
          quantMap: reals(256),
          blocksize: 256,
          offset: 0.039828669279813766,
        },
      }
      : {}),
  };
}

const stateText = (tensors: WritableTensor[]) => new TextDecoder().decode(tensors.at(-1)!.data as Uint8Array);

Deno.test("the state's JSON has Python's spelling, byte for byte", () => {
  // Both examples were written by bitsandbytes itself.
  const plain = '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [150, 128]}';
  const single = quantStateTensors(NAME, state([150, 128], 64, false));
  assert.equal(stateText(single), plain);
  assert.deepEqual(single.at(-1)!.shape, [80]);
  assert.equal(single.at(-1)!.name, `${NAME}.quant_state.bitsandbytes__nf4`);
  assert.equal(
    stateText(quantStateTensors(NAME, state([150, 128], 64, true))),
    plain.slice(0, -1) +
      ', "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.039828669279813766}',
  );
});

Deno.test("names, types and shapes of the tensors are bitsandbytes'", () => {
  const tensors = quantStateTensors(NAME, state([150, 128], 64, true));
  assert.deepEqual(tensors.map((t) => [t.name.slice(NAME.length), t.dtype, t.shape]), [
    ["", "U8", [9600, 1]],
    [".absmax", "U8", [300]],
    [".quant_map", "F32", [16]],
    [".nested_absmax", "F32", [2]],
    [".nested_quant_map", "F32", [256]],
    [".quant_state.bitsandbytes__nf4", "U8", [tensors.at(-1)!.shape[0]!]],
  ]);
});

Deno.test("Python's spelling of floats", () => {
  const cases: [number, string][] = [
    [0, "0.0"],
    [-0, "-0.0"],
    [1, "1.0"],
    [0.1, "0.1"],
    [1e-4, "0.0001"],
    [1.5e-5, "1.5e-05"],
    [-2.5e-7, "-2.5e-07"],
    [1e-100, "1e-100"],
    [123456789012345680, "1.2345678901234568e+17"],
    [1e15, "1000000000000000.0"],
    [1e16, "1e+16"],
  ];
  for (const [x, text] of cases) assert.equal(pythonFloat(x), text);
  fc.assert(fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (x) => {
    assert.ok(Object.is(JSON.parse(pythonFloat(x)), x));
  }));
});

Deno.test("any state comes back from a file", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "q.safetensors");
  fc.assert(
    fc.property(
      fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 })),
      fc.constantFrom(32, 64, 128),
      fc.boolean(),
      fc.constantFrom("nf4" as const, "fp4" as const),
      (shape, blocksize, nested, quantType) => {
        const written = state(shape, blocksize, nested, quantType);
        writeSafetensors(path, [
          ...quantStateTensors(NAME, written),
          { name: "other.weight", dtype: "F32", shape: [1], data: new Float32Array(1) },
        ]);
        const source = openSafetensors(path);
        assert.deepEqual(quantizedNames(source), [NAME]);
        assert.deepEqual(readQuantState(source, NAME), written);
        source.close();
      },
    ),
    { numRuns: 40 },
  );
});

Deno.test("packed bytes are labelled as any type of bnb_4bit_quant_storage, and read the same", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "q.safetensors");
  const written = state([8, 8], 64, true);
  for (const storage of Object.values(QUANT_STORAGE)) {
    writeSafetensors(path, quantStateTensors(NAME, written, storage));
    const source = openSafetensors(path);
    const { dtype, shape } = source.tensors.get(NAME)!;
    assert.deepEqual([dtype, shape], [storage, [32 / DTYPE_BYTES[storage], 1]]);
    assert.deepEqual(source.readBytes(NAME), written.packed, storage);
    assert.deepEqual(readQuantState(source, NAME), written);
    source.close();
  }
  const odd = state([3, 4], 64, false); // 6 bytes: three of two, not a whole number of four
  assert.deepEqual(quantStateTensors(NAME, odd, "BF16")[0]!.shape, [3, 1]);
  throwsCode(() => quantStateTensors(NAME, odd, "F32"), "formats/quant-storage", NAME, "6 packed", "uint8");
});

Deno.test("faults are named", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "q.safetensors");
  const refuse = (change: (tensors: WritableTensor[]) => WritableTensor[], ...words: string[]) => {
    writeSafetensors(path, change(quantStateTensors(NAME, state([16, 16], 64, true))));
    const source = openSafetensors(path);
    throwsCode(() => readQuantState(source, NAME), "formats/quant-state", path, NAME, ...words);
    source.close();
  };
  const without = (suffix: string) => (tensors: WritableTensor[]) =>
    tensors.filter((t) => !t.name.endsWith(suffix));
  const json = (from: string | RegExp, to: string) => (tensors: WritableTensor[]) => {
    const data = new TextEncoder().encode(stateText(tensors).replace(from, to));
    return [...tensors.slice(0, -1), { ...tensors.at(-1)!, data, shape: [data.length] }];
  };
  refuse(without("__nf4"), "0 quantization states");
  refuse(
    (t) => [...t, { ...t.at(-1)!, name: `${NAME}.quant_state.bitsandbytes__fp4` }],
    "2 quantization states",
  );
  refuse(without(".absmax"), ".absmax", "missing");
  refuse(without(".quant_map"), ".quant_map");
  refuse(without(".nested_absmax"), ".nested_absmax");
  refuse(without(".nested_quant_map"), ".nested_quant_map");
  refuse(json("{", "["), "JSON");
  refuse(json('"nf4"', '"int4"'), "int4");
  refuse(json("bfloat16", "float64"), "float64");
  refuse(json('"blocksize": 64', '"blocksize": 0'), "blocksize");
  refuse(json("[16, 16]", "[16, -1]"), "shape");
  refuse(json("[16, 16]", "[16, 32]"), NAME, "128", "256");
  refuse(json('"blocksize": 64', '"blocksize": 32'), ".absmax", "4 U8, not 8");
  refuse(json(/, "nested_offset".*/, "}"), "nested_offset");
  refuse(json(/, "nested_blocksize".*/, "}"), ".absmax", "U8, not F32");
});
