import assert from "node:assert/strict";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { embedding } from "../../lib/tensor/ops/embedding.ts";
import { linear } from "../../lib/tensor/ops/linear.ts";
import { toF32 } from "../../lib/tensor/ops/storage.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { keep, scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, checkGradients, EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";

const tol = (n: number) => 16 * EPS * (n + 4);

/** Random numbers as 16 bits hold them: the tensor, owned by the caller, and its values. */
function stored(dtype: "f16" | "bf16", shape: [number, number], seed: number) {
  const numbers = randoms(shape[0] * shape[1], seed);
  const bits = dtype === "f16" ? f32ToF16(numbers) : f32ToBf16(numbers);
  const values = dtype === "f16" ? f16ToF32(bits) : bf16ToF32(bits);
  return { w: keep(tensor(bits, shape, dtype, "base")), bits, values };
}

for (const dtype of ["f16", "bf16"] as const) {
  gpuTest(`${dtype}: look-up, decoding and reading back are exact, in half the bytes`, async () => {
    for (const shape of [[29, 13], [1, 1], [7, 1], [93, 172]] as [number, number][]) {
      const { w, values } = stored(dtype, shape, 5);
      assert.equal(w.bytes, 2 * values.length);
      assert.deepEqual([...await w.data()], [...values], "read back");
      const whole = scope(() => toF32(w));
      assert.deepEqual([...await whole.data()], [...values], "decoded");
      const ids = Uint32Array.of(shape[0] - 1, 0, Math.floor(shape[0] / 2), shape[0] - 1);
      const y = scope(() => embedding(ids, w));
      const want = Array.from(ids).flatMap((id) => [...values.subarray(id * shape[1], (id + 1) * shape[1])]);
      assert.deepEqual([...await y.data()], want, `rows of [${shape}]`);
      for (const t of [w, whole, y]) t.dispose();
    }
  });

  gpuTest(`${dtype}: a frozen linear layer, forward and dx`, async () => {
    // one row takes the vector kernel, 13 a matrix kernel; 17 columns no kernel that wants whole words
    for (const [m, n, k] of [[1, 93, 64], [3, 7, 172], [13, 31, 64], [5, 11, 17]] as const) {
      const { w, values } = stored(dtype, [n, k], 6);
      await checkGradients(
        `linear ${m}x${n}x${k}`,
        [{ name: "x", shape: [m, k] }],
        (x) => linear(x, w),
        (x) =>
          Float64Array.from({ length: m * n }, (_, at) => {
            let sum = 0;
            for (let c = 0; c < k; c++) sum += x[Math.floor(at / n) * k + c]! * values[at % n * k + c]!;
            return sum;
          }),
        tol(Math.max(n, k)),
      );
      w.dispose();
    }
  });

  gpuTest(`${dtype}: the head's loss and gradient are those of its decoded weights`, async () => {
    const { w, values } = stored(dtype, [61, 24], 7);
    const dense = keep(tensor(values, [61, 24]));
    const labels = Int32Array.from({ length: 90 }, (_, i) => i % 4 === 1 ? -100 : (i * 17) % 61);
    const run = (head: Tensor) =>
      scope(() => {
        const x = tensor(randoms(90 * 24, 8), [90, 24]);
        x.requiresGrad = true;
        const { output, gradients } = differentiate(
          () => linearCrossEntropy(x, head, labels).stats,
          undefined,
          [x],
        );
        return { output, dx: gradients[0]! };
      });
    const [got, want] = [run(w), run(dense)];
    // the f32 path is held against the formula elsewhere; here 68 losses of about 4 add up
    assertClose(await got.output.data(), await want.output.data(), 68 * tol(24), "loss and hits");
    assertClose(await got.dx.data(), await want.dx.data(), tol(61), "dx");
    for (const t of [w, dense, ...Object.values(got), ...Object.values(want)]) t.dispose();
  });
}

gpuTest("16-bit tables larger than a binding walk in ranges of rows", async () => {
  const shape: [number, number] = [700, 24];
  for (const dtype of ["f16", "bf16"] as const) {
    const { w, values } = stored(dtype, shape, 9);
    assert.ok(w.bytes > 4 * gpu().maxBinding);
    const ids = Uint32Array.of(699, 127, 128, 0, 300);
    const y = scope(() => embedding(ids, w));
    assert.deepEqual(
      [...await y.data()],
      Array.from(ids).flatMap((id) => [...values.subarray(id * 24, id * 24 + 24)]),
    );
    const whole = scope(() => toF32(w));
    assert.deepEqual([...await whole.data()], [...values]);
    for (const t of [w, y, whole]) t.dispose();
  }
}, { maxBinding: 128 * 24 * 2 });

gpuTest("one type read as the other is seen, and integers are refused", async () => {
  const { w, bits, values } = stored("bf16", [5, 8], 3);
  const wrong = tensor(bits, [5, 8], "f16");
  const y = scope(() => toF32(wrong));
  const got = await y.data();
  assert.throws(() => assertClose(got, values, tol(1), "control"), /control\[0\]/);
  const ids = tensor(Uint32Array.of(1, 2), [1, 2]);
  for (const op of [() => toF32(ids), () => embedding(Uint32Array.of(0), ids)]) {
    refused(() => scope(op), "tensor/shape", /u32, not a floating-point type/);
  }
  for (const t of [w, wrong, y, ids]) t.dispose();
});
