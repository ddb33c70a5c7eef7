/**
 * Every kernel of training on small odd shapes, beside what the naive formula gives.
 * @module
 */
import { bf16ToF32, f16ToF32 } from "../formats/mod.ts";
import { createOptimizer, createParameterPages } from "../optim/mod.ts";
import {
  decodeAbsmax,
  dequantize,
  dequantizeOracle,
  gemvQuantized,
  matmulQuantized,
  quantize,
  quantizeOracle,
} from "../quant/mod.ts";
import { attention } from "../tensor/ops/attention.ts";
import { linearCrossEntropy } from "../tensor/ops/cross_entropy.ts";
import { embedding } from "../tensor/ops/embedding.ts";
import { product } from "../tensor/ops/linear.ts";
import { add, gated } from "../tensor/ops/pointwise.ts";
import { layerNorm } from "../tensor/ops/layer_norm.ts";
import { rmsNorm } from "../tensor/ops/rms_norm.ts";
import { rope, ropeTable } from "../tensor/ops/rope.ts";
import { sum } from "../tensor/ops/reduce.ts";
import { softmax } from "../tensor/ops/softmax.ts";
import { toF32 } from "../tensor/ops/storage.ts";
import { differentiate } from "../tensor/tape.ts";
import { empty, type Tensor, tensor } from "../tensor/tensor.ts";
import * as oracle from "./oracles.ts";

/** Numbers from the device beside those that they should be. */
export interface Compared {
  got: ArrayLike<number>;
  want: ArrayLike<number>;
}

/** One kernel's check. */
export interface Check {
  name: string;
  /** Largest absolute error that rounding explains; the numbers are of the order of 1. */
  tolerance: number;
  /**
   * Encodes the kernel's launches, inside a scope. `read` are tensors to read back, whose elements `compare` gets
   * as 32-bit floats (codes too: look at the bytes).
   */
  build: () => { read: Tensor[]; compare: (parts: Float32Array<ArrayBuffer>[]) => Compared };
}

/** Unit roundoff of f32. */
const EPS = 2 ** -24;

/** Seeded numbers, uniform in ±1. */
function randoms(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 31 - 1;
  });
}

/** The usual case: all elements of `read`, one after the other, should be `want`. */
function compared(read: Tensor[], want: ArrayLike<number>): ReturnType<Check["build"]> {
  return { read, compare: (parts) => ({ got: parts.flatMap((part) => [...part]), want }) };
}

function matmulCheck(layout: "nt" | "nn" | "tn", M: number, N: number, K: number): Check {
  return {
    name: `matmul ${layout} ${M}x${N}x${K}`,
    // K products of numbers below 1, each sum rounded once: at most K * K / 2 roundings, in practice far fewer
    tolerance: K * K * EPS / 2,
    build() {
      const x = randoms(M * K, 1), w = randoms(N * K, 2);
      const xs = layout === "tn" ? [K, M] : [M, K], ws = layout === "nt" ? [N, K] : [K, N];
      const y = product(layout, tensor(x, xs), tensor(w, ws));
      return compared([y], oracle.matmul(layout, x, w, M, N, K));
    },
  };
}

/** A weight of 93 rows, most of which begin within a block of 64. */
const WEIGHT: [number, number] = [93, 172];

/** All checks, in the order in which a training step needs the kernels. */
export const CHECKS: readonly Check[] = [
  matmulCheck("nt", 1, 93, 64),
  matmulCheck("nt", 2, 512, 96),
  matmulCheck("nt", 37, 93, 61),
  matmulCheck("nt", 128, 128, 64),
  matmulCheck("nn", 64, 172, 96),
  matmulCheck("tn", 33, 65, 40),
  {
    name: "embedding",
    tolerance: 0,
    build() {
      const w = randoms(29 * 13, 3), ids = Uint32Array.of(3, 28, 0, 3, 17);
      const y = embedding(ids, tensor(w, [29, 13]));
      return compared([y], Array.from(ids).flatMap((id) => [...w.subarray(id * 13, id * 13 + 13)]));
    },
  },
  {
    name: "rms_norm",
    tolerance: 93 * EPS,
    build() {
      const x = randoms(17 * 93, 4), w = randoms(93, 5);
      const y = rmsNorm(tensor(x, [17, 93]), tensor(w, [93]), 1e-5);
      return compared([y], oracle.rmsNorm(x, w, 93, 1e-5));
    },
  },
  {
    name: "layer_norm",
    tolerance: 93 * EPS * 4, // two sums over a row
    build() {
      const x = randoms(17 * 93, 22), w = randoms(93, 23), b = randoms(93, 24);
      const y = layerNorm(tensor(x, [17, 93]), tensor(w, [93]), tensor(b, [93]), 1e-3);
      return compared([y], oracle.layerNorm(x, w, b, 93, 1e-3));
    },
  },
  {
    name: "softmax",
    tolerance: 93 * EPS,
    build() {
      const x = randoms(17 * 93, 25);
      return compared([softmax(tensor(x, [17, 93]))], oracle.softmax(x, 93));
    },
  },
  {
    name: "16-bit weights (f16, bf16)",
    tolerance: 0,
    build() {
      const bits = Uint16Array.from({ length: 91 }, (_, i) => 0x3c00 + 37 * i);
      const read = [
        toF32(tensor(bits, [7, 13], "f16")),
        embedding(Uint32Array.of(6), tensor(bits, [7, 13], "bf16")),
      ];
      return compared(read, [...f16ToF32(bits), ...bf16ToF32(bits.slice(78))]);
    },
  },
  {
    name: "rope",
    tolerance: 8 * EPS,
    build() {
      const x = randoms(5 * 3 * 16, 6), positions = Uint32Array.of(0, 1, 7, 30, 99);
      const table = ropeTable(16, 10000, 100);
      try {
        const y = rope(tensor(x, [5, 48]), tensor(positions, [5]), table, 3, 16);
        return compared([y], oracle.rope(x, positions, 3, 16, 10000));
      } finally {
        table.dispose();
      }
    },
  },
  {
    name: "attention, forward and backward",
    tolerance: 512 * EPS, // two products through at most 21 weights each, on values up to about 5
    build() {
      const shape = { time: 21, heads: 4, kvHeads: 2, dim: 8 };
      const q = randoms(21 * 32, 7),
        k = randoms(21 * 16, 8),
        v = randoms(21 * 16, 9),
        dy = randoms(21 * 32, 10);
      const segments = Uint32Array.from({ length: 21 }, (_, i) => i < 8 ? 1 : 2);
      const inputs = [tensor(q, [21, 32]), tensor(k, [21, 16]), tensor(v, [21, 16])];
      for (const t of inputs) t.requiresGrad = true;
      const s = tensor(segments, [21]);
      const { output, gradients } = differentiate(
        () =>
          attention({
            ...{ q: inputs[0]!, k: inputs[1]!, v: inputs[2]!, segments: s, batch: 1 },
            ...{ time: 21, heads: 4, kvHeads: 2, headDim: 8 },
          }),
        tensor(dy, [21, 32]),
        inputs,
      );
      const want = oracle.attention({ q, k, v, segments, ...shape }, dy);
      return compared([output, ...gradients as Tensor[]], [want.y, want.dq, want.dk, want.dv].flat());
    },
  },
  {
    name: "pointwise (add, SwiGLU, GeGLU)",
    tolerance: 16 * EPS,
    build() {
      const a = randoms(1003, 11), b = randoms(1003, 12);
      const [u, v] = [tensor(a, [1003]), tensor(b, [1003])];
      const silu = Array.from(a, (v, i) => v / (1 + Math.exp(-v)) * b[i]! + b[i]!);
      const gelu = Array.from(a, (v, i) => v * oracle.normalCdf(v) * b[i]!);
      return compared([add(gated("silu", u, v), v), gated("gelu", u, v)], [...silu, ...gelu]);
    },
  },
  {
    name: "reduce",
    tolerance: 5003 * 16 * EPS,
    build() {
      const x = randoms(5003, 13);
      return compared([sum(tensor(x, [5003]))], [x.reduce((a, v) => a + v, 0)]);
    },
  },
  {
    name: "cross_entropy, loss and gradient",
    tolerance: 2048 * EPS, // the loss is a sum of 17 terms of about 5
    build() {
      const C = 24, V = 131, x = randoms(19 * C, 14), w = randoms(V * C, 15);
      const labels = Int32Array.from({ length: 19 }, (_, i) => i % 9 === 4 ? -100 : (i * 37) % V);
      const hidden = tensor(x, [19, C]), head = tensor(w, [V, C]);
      hidden.requiresGrad = true;
      const { output, gradients } = differentiate(
        () => linearCrossEntropy(hidden, head, labels).stats,
        undefined,
        [hidden],
      );
      const want = oracle.crossEntropy(x, w, labels, C, V);
      return {
        read: [output, gradients[0]!], // the first also counts labels that were the likeliest
        compare: ([stats, dx]) => ({ got: [stats![0]!, ...dx!], want: [want.loss, ...want.dx] }),
      };
    },
  },
  {
    name: "NF4 quantize",
    tolerance: 0, // the same bytes
    build() {
      const x = randoms(93 * 172, 16), want = quantizeOracle(x, WEIGHT);
      using q = quantize(tensor(x, WEIGHT), { doubleQuant: false });
      return {
        read: [q.packed.view(q.packed.shape), q.absmax.view(q.absmax.shape)],
        compare: ([packed, absmax]) => ({
          got: [...new Uint8Array(packed!.buffer, 0, want.packed.length), ...absmax!],
          want: [...want.packed, ...decodeAbsmax(want)],
        }),
      };
    },
  },
  {
    name: "NF4 dequantize, double quantization",
    tolerance: 16 * EPS, // two products and a sum
    build() {
      const x = randoms(93 * 172, 17);
      using q = quantize(tensor(x, WEIGHT));
      const { scales } = q.nested!;
      return {
        read: [dequantize(q), scales.view(scales.shape)],
        // the offset, a mean, is summed in another order: given it, all else is the same
        compare: ([got, [offset]]) => {
          const state = quantizeOracle(x, WEIGHT, { doubleQuant: true, offset: offset! });
          return { got: got!, want: dequantizeOracle(state) };
        },
      };
    },
  },
  {
    name: "NF4 matrix by vector",
    tolerance: 192 * 192 * EPS / 2,
    build() {
      const x = randoms(192, 18), w = randoms(93 * 192, 19);
      using q = quantize(tensor(w, [93, 192]), { doubleQuant: false });
      const y = gemvQuantized(tensor(x, [1, 192]), q);
      const decoded = dequantizeOracle(quantizeOracle(w, [93, 192]));
      return compared([y], oracle.matmul("nt", x, decoded, 1, 93, 192));
    },
  },
  {
    name: "NF4 products, decoded in the tile",
    tolerance: 192 * 192 * EPS / 2,
    build() {
      const shape = [96, 192],
        x = randoms(13 * 192, 23),
        dy = randoms(13 * 96, 24),
        w = randoms(96 * 192, 25);
      using q = quantize(tensor(w, shape), { doubleQuant: false });
      const y = empty([13, 96]), dx = empty([13, 192]), kernel = "tile32";
      matmulQuantized({ layout: "nt", x: tensor(x, [13, 192]), q, y, kernel });
      matmulQuantized({ layout: "nn", x: tensor(dy, [13, 96]), q, y: dx, kernel });
      const decoded = dequantizeOracle(quantizeOracle(w, shape));
      return compared([y, dx], [
        ...oracle.matmul("nt", x, decoded, 13, 96, 192),
        ...oracle.matmul("nn", dy, decoded, 13, 192, 96),
      ]);
    },
  },
  {
    name: "adamw",
    tolerance: 16 * EPS,
    build() {
      const w = randoms(1000, 20), g = randoms(1000, 21);
      const pages = createParameterPages([{ name: "w", shape: [1000], decay: true }], "scratch");
      const optimizer = createOptimizer(pages, { weight_decay: 0.1, max_grad_norm: 0 });
      try {
        const t = pages.tensors.get("w")!;
        t.write(w);
        t.grad!.write(g);
        optimizer.step({ lr: 0.01, step: 1, gradScale: 1 });
        return compared([t], oracle.adamwFirstStep(w, g, 0.01, 0.1, 1e-8));
      } finally {
        optimizer.dispose();
        pages.dispose();
      }
    },
  },
];
