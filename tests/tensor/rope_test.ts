import assert from "node:assert/strict";
import { openGpu } from "../../lib/gpu/mod.ts";
import { rope, type RopeScaling, ropeTable } from "../../lib/tensor/ops/rope.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { asOnGpu, checkGradients, EPS, gpuTest } from "../gpu_helper.ts";

gpuTest("rope: an unknown scaling, and factors that are not one for each pair, are refused by name", () => {
  const table = (scaling: Record<string, unknown>) => () =>
    scope(() => void ropeTable(8, 100, 16, { factor: 2, ...scaling } as unknown as RopeScaling));
  assert.throws(table({ rope_type: "ntk" }), {
    code: "model/rope-type",
    message: /'ntk'.*config\.json.*Supported/s,
  });
  const three = { rope_type: "longrope", original_max_position_embeddings: 32, short_factor: [1, 1, 1] };
  assert.throws(table(three), { code: "model/rope-type", message: /needs 4 factors, not 3.*short_factor/s });
  assert.throws(table({ ...three, short_factor: undefined }), { message: /needs 4 factors, not undefined/ });
});

/** The angle is rounded to f32, 5 EPS; its sine and cosine, two products and a sum add a few more. */
const TOLERANCE = 24 * EPS;

/** Rotation of the first `rotary` of `headDim` elements against its definition, and its transpose. */
async function checkRope(heads: number, headDim: number, rotary: number): Promise<void> {
  const positions = [0, 1, 5, 0, 3], row = heads * headDim;
  const table = ropeTable(rotary, 100, 16);
  try {
    await checkGradients(
      `rope ${heads} ${headDim} ${rotary}`,
      [{ name: "x", shape: [5, row] }],
      (x) => rope(x, tensor(Uint32Array.from(positions), [5]), table, heads, headDim),
      (x) => {
        const y = Float64Array.from(x);
        for (let r = 0; r < 5; r++) {
          for (let h = 0; h < heads; h++) {
            for (let j = 0; j < rotary / 2; j++) {
              const angle = positions[r]! * 100 ** (-2 * j / rotary);
              const i = r * row + h * headDim + j, k = i + rotary / 2;
              y[i] = x[i]! * Math.cos(angle) - x[k]! * Math.sin(angle);
              y[k] = x[k]! * Math.cos(angle) + x[i]! * Math.sin(angle);
            }
          }
        }
        return y;
      },
      TOLERANCE,
    );
  } finally {
    table.dispose();
  }
}

gpuTest("rope: rotation and its transpose, restarting positions, a partly rotated head", async () => {
  for (const [heads, headDim, rotary] of [[2, 8, 8], [2, 8, 4], [3, 24, 16], [1, 6, 4]] as const) {
    await checkRope(heads, headDim, rotary);
    await asOnGpu(() => checkRope(heads, headDim, rotary));
  }
});

gpuTest("rope: kernels that are broken in one place do not pass", async () => {
  const { kernels } = await openGpu(), { launch } = kernels;
  kernels.launch = (k, options) => {
    assert.match(k.source, /u \* c - v \* s|u \* angle.x - v \* s/);
    launch({ ...k, name: `${k.name} broken`, source: k.source.replace("- v * s", "+ v * s") }, options);
  };
  try {
    await assert.rejects(checkRope(2, 8, 8), /rope 2 8 8: y/);
    await assert.rejects(asOnGpu(() => checkRope(2, 8, 8)), /rope 2 8 8: y/);
  } finally {
    kernels.launch = launch;
  }
});
