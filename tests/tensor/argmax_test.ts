import assert from "node:assert/strict";
import { argmax } from "../../lib/tensor/ops/argmax.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms, refused } from "../gpu_helper.ts";

gpuTest("argmax is the first of the largest, wherever it stands", async () => {
  const at = async (x: Float32Array<ArrayBuffer>) => {
    using t = tensor(x, [x.length]);
    using index = argmax(t);
    return (await index.data())[0]!;
  };
  for (const n of [1, 2, 63, 255, 256, 257, 1000, 49152]) {
    const x = randoms(n, n);
    assert.equal(await at(x), x.indexOf(Math.max(...x.subarray(0, 49152))), `${n} numbers`);
    for (const place of [0, n >> 1, n - 1]) {
      const peak = randoms(n, n + 1);
      peak[place] = 2;
      if (place + 3 < n) peak[place + 3] = 2; // the same again, in another lane
      if (place + 256 < n) peak[place + 256] = 2; // and in the same
      assert.equal(await at(peak), place, `${n} numbers, the largest at ${place}`);
    }
    assert.equal(await at(new Float32Array(n)), 0, "all equal");
    assert.equal(await at(new Float32Array(n).fill(-Infinity)), 0, "none above the lowest");
  }
  using none = tensor(new Uint32Array(2), [2]);
  refused(() => argmax(none), "tensor/shape", /argmax/);
});
