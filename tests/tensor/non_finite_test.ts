import assert from "node:assert/strict";
import { INFINITE, markNonFinite, NAN } from "../../lib/tensor/ops/non_finite.ts";
import { scope, tensor, zeros } from "../../lib/tensor/tensor.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";

gpuTest(
  "one infinity or NaN among many numbers is found wherever it lies, by its kind, in its own flag",
  async () => {
    const largest = 3.4028234663852886e38, smallest = 2 ** -149;
    const odd = [Infinity, -Infinity, NaN, largest, -largest, smallest, -smallest, 0, -0];
    const want = [INFINITE, INFINITE, NAN, 0, 0, 0, 0, 0, 0];
    for (const n of [1, 63, 64, 65, 1000, 65_536]) {
      for (const at of new Set([0, n >> 1, n - 1])) {
        const flags = zeros([odd.length + 1], "u32");
        scope(() =>
          odd.forEach((value, i) => {
            const x = randoms(n, i);
            x[at] = value;
            markNonFinite(tensor(x, [n]), flags, i);
          })
        );
        assert.deepEqual([...await flags.data()], [...want, 0], `${n} numbers, place ${at}`);
        flags.dispose();
      }
    }
  },
);

gpuTest(
  "every pattern of a NaN counts, both kinds together add up, and more than one row of the grid is walked",
  async () => {
    const flags = zeros([3], "u32");
    const patterns = Uint32Array.of(0x7f800001, 0x7fc00000, 0x7fffffff, 0xff800001, 0xffffffff);
    for (const bits of patterns) {
      const one = zeros([1], "u32");
      scope(() => markNonFinite(tensor(new Float32Array(Uint32Array.of(bits).buffer), [1]), one, 0));
      assert.deepEqual([...await one.data()], [NAN], bits.toString(16));
      one.dispose();
    }
    const n = 65_535 * 64 + 5, far = new Float32Array(n);
    far[n - 1] = Infinity;
    scope(() => {
      markNonFinite(tensor(Float32Array.of(1, Infinity), [2]), flags, 0);
      markNonFinite(tensor(Float32Array.of(NaN, 1), [2]), flags, 0);
      markNonFinite(tensor(far, [n]), flags, 2);
    });
    assert.deepEqual([...await flags.data()], [INFINITE | NAN, 0, INFINITE]);
    flags.dispose();
    scope(() => {
      assert.throws(() => markNonFinite(zeros([1]), zeros([1], "u32"), 1), { code: "tensor/shape" });
      assert.throws(() => markNonFinite(zeros([1], "u32"), zeros([1], "u32"), 0), { code: "tensor/shape" });
    });
  },
);
