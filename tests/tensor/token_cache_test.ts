import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { ropeTable } from "../../lib/tensor/ops/rope.ts";
import { TokenCache, tokenCacheFits } from "../../lib/tensor/ops/token_cache.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { EPS, gpuTest, randoms } from "../gpu_helper.ts";

interface Case {
  heads: number;
  kvHeads: number;
  headDim: number;
  rotary: number;
  window?: number;
  /** Positions in the buffers that the cache begins with. */
  filled: number;
  /** The control: the oracle turns by the position before. */
  late?: boolean;
}

/** Two tokens over a cache; how far the worst element is off, as a ratio to its bound. */
async function excess({ heads, kvHeads, headDim: d, rotary, window, filled, late }: Case): Promise<number> {
  const capacity = filled + 3, kv = kvHeads * d, width = heads * d + 2 * kv;
  const kCache = randoms(capacity * kv, 1), vCache = randoms(capacity * kv, 2);
  const rows = [randoms(width, 3), randoms(width, 4)];
  const angles = ropeTable(rotary || 8, 100, capacity);
  const table = await angles.data();
  const got = scope(() => {
    const cache = new TokenCache(tensor(kCache, [capacity, kv]), tensor(vCache, [capacity, kv]));
    const options = { heads, kvHeads, headDim: d, window };
    const o = rows.map((row, i) =>
      cache.attend(tensor(row, [1, width]), filled + i, rotary ? angles : undefined, options)
    );
    cache.dispose();
    return o;
  });
  let worst = 0;
  for (const [i, row] of rows.entries()) {
    const position = filled + i, at = position - (late ? 1 : 0);
    const turned = Float64Array.from(row.subarray(0, heads * d + kv), (own, e) => {
      const j = e % d, half = rotary / 2;
      if (j >= rotary) return own;
      const [c, s] = [0, 1].map((n) => table[(at * half + j % half) * 2 + n]!) as [number, number];
      return j < half ? own * c - row[e + half]! * s : own * c + row[e - half]! * s;
    });
    kCache.set(turned.subarray(heads * d), position * kv);
    vCache.set(row.subarray(heads * d + kv), position * kv);
    const o = await got[i]!.data();
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h * kvHeads / heads), first = Math.max(0, position + 1 - (window ?? Infinity));
      const keys = Array.from({ length: position + 1 - first }, (_, n) => first + n);
      const q = turned.subarray(h * d, (h + 1) * d);
      let off = 0;
      const scores = keys.map((t) => {
        let sum = 0, size = 0;
        for (let e = 0; e < d; e++) {
          sum += q[e]! * kCache[t * kv + g * d + e]!;
          // a rotation errs by 3 eps of at most 2, on either side; and the sum over d
          size += Math.abs(q[e]!) * 6 + Math.abs(kCache[t * kv + g * d + e]!) * 6 + (d + 2) * 2;
        }
        off = Math.max(off, size * EPS / Math.sqrt(d));
        return sum / Math.sqrt(d);
      });
      const top = Math.max(...scores), ps = scores.map((s) => Math.exp(s - top));
      const total = ps.reduce((a, b) => a + b);
      const spread = top - Math.min(...scores);
      for (let e = 0; e < d; e++) {
        let sum = 0, size = 0;
        for (const [n, t] of keys.entries()) {
          sum += ps[n]! / total * vCache[t * kv + g * d + e]!;
          size += Math.abs(ps[n]! / total * vCache[t * kv + g * d + e]!);
        }
        // exponentials err with their arguments, which are taken from a running maximum; numerator and sum alike
        const bound = size * (4 * off + (4 * spread + 2 * keys.length + 16) * EPS) + EPS * Math.abs(sum);
        worst = Math.max(worst, Math.abs(o[h * d + e]! - sum) / bound);
      }
    }
  }
  [angles, ...got].forEach((t) => t.dispose());
  return worst;
}

const CASES: Case[] = [
  { heads: 4, kvHeads: 2, headDim: 16, rotary: 16, filled: 0 },
  { heads: 9, kvHeads: 3, headDim: 64, rotary: 64, filled: 37 },
  { heads: 4, kvHeads: 4, headDim: 32, rotary: 8, filled: 20, window: 7 },
  { heads: 2, kvHeads: 1, headDim: 128, rotary: 128, filled: 90 },
  { heads: 4, kvHeads: 2, headDim: 24, rotary: 0, filled: 11 },
];

for (const c of CASES) {
  gpuTest(`a token over the cache in textures: ${JSON.stringify(c)}`, async () => {
    if (vectorLanes(gpu()) === 0) return;
    const ratio = await excess(c);
    assert.ok(ratio <= 1, `error ${ratio} times its bound`);
  });
}

gpuTest("the check catches an angle of the position before", async () => {
  if (vectorLanes(gpu()) > 0) assert.ok(await excess({ ...CASES[1]!, late: true }) > 10);
});

gpuTest("heads, rotations and lengths that do not fit the cache in textures are refused", () => {
  const heads = { heads: 4, kvHeads: 2, headDim: 64 };
  assert.equal(tokenCacheFits(heads, 100, 64), vectorLanes(gpu()) > 0);
  assert.ok(!tokenCacheFits({ ...heads, headDim: 256 }, 100, 64));
  assert.ok(!tokenCacheFits(heads, 100, 12));
  assert.ok(!tokenCacheFits(heads, 2 ** 20, 64));
});
