import assert from "node:assert/strict";
import { join } from "@std/path";
import {
  openSafetensors,
  quantizedSource,
  quantStateTensors,
  writeSafetensors,
} from "../../lib/formats/mod.ts";
import { dequantizeOracle, quantizeOracle } from "../../lib/quant/oracle.ts";
import { temporaryFolder, throwsCode } from "./support.ts";

const NAME = "model.layers.0.mlp.up_proj.weight";

Deno.test("a 4-bit weight is seen under its own shape; any range decodes to what the whole does", () => {
  using folder = temporaryFolder();
  const x = Float32Array.from({ length: 33 * 93 }, (_, i) => Math.sin(i * i) / (1 + i % 7));
  for (const [quantType, doubleQuant] of [["nf4", true], ["fp4", false]] as const) {
    const state = {
      ...quantizeOracle(x, [33, 93], { quantType, doubleQuant }),
      quantType,
      dtype: "bfloat16" as const,
    };
    const path = join(folder.path, `${quantType}.safetensors`);
    writeSafetensors(path, [
      ...quantStateTensors(NAME, state),
      { name: "norm", dtype: "F32", shape: [3], data: Float32Array.of(1, 2, 3) },
    ]);
    const plain = openSafetensors(path);
    const source = quantizedSource(plain);
    const info = source.tensors.get(NAME)!;
    assert.deepEqual([info.dtype, info.shape, info.bytes], [quantType.toUpperCase(), [33, 93], 1535]);
    assert.deepEqual(info.quantized, {
      ...{ quantType, blocksize: 64, dtype: "bfloat16", shape: [33, 93] },
      ...(doubleQuant ? { nested: { blocksize: 256, offset: state.nested!.offset } } : {}),
    });
    const whole = dequantizeOracle(state);
    assert.deepEqual(source.readF32(NAME), whole);
    for (const [from, to] of [[0, 1], [1, 2], [63, 65], [93, 93 * 3], [3068, 3069]] as const) {
      assert.deepEqual(source.readF32(NAME, from, to), whole.slice(from, to), `${from} to ${to}`);
    }
    assert.deepEqual(source.readF32("norm", 1), Float32Array.of(2, 3));
    assert.deepEqual(source.readBytes(NAME), state.packed);
    assert.deepEqual(source.readQuantState!(NAME), state);
    assert.ok(source.tensors.has(`${NAME}.absmax`), "scales stay: fingerprints are made of all tensors");
    source.close();
  }
});

Deno.test("a source without 4-bit weights comes back as it is; a weight without its parts is refused", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "w.safetensors");
  writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [1], data: Float32Array.of(1) }]);
  const dense = openSafetensors(path);
  assert.equal(quantizedSource(dense), dense);
  dense.close();
  const parts = quantStateTensors(NAME, {
    ...quantizeOracle(new Float32Array(64).fill(1), [1, 64]),
    quantType: "nf4",
  });
  writeSafetensors(path, parts.filter((t) => !t.name.endsWith(".absmax")));
  const broken = openSafetensors(path);
  const source = quantizedSource(broken);
  throwsCode(() => source.readF32(NAME), "formats/quant-state", NAME, "absmax");
  broken.close();
});
