/**
 * Rotary position embedding and its tables.
 * @module
 */
import { NibbleError } from "../../errors.ts";
import { defineKernel, gpu } from "../../gpu/mod.ts";
import quadSource from "../../../wgsl/rope_quad.wgsl" with { type: "text" };
import source from "../../../wgsl/rope.wgsl" with { type: "text" };
import { grid1d } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, type Tensor, tensor } from "../tensor.ts";
import { vectorLanes } from "./matmul_texture.ts";

const kernel = defineKernel("rope", source);
const quadKernel = defineKernel("rope_quad", quadSource);

/** `rope_scaling` of a model's config.json. */
export interface RopeScaling {
  rope_type: string;
  factor?: number;
  low_freq_factor?: number;
  high_freq_factor?: number;
  original_max_position_embeddings?: number;
  beta_fast?: number;
  beta_slow?: number;
  mscale?: number;
  mscale_all_dim?: number;
  truncate?: boolean;
  short_factor?: number[];
  long_factor?: number[];
  attention_factor?: number;
}

/**
 * Cosines and sines `[positions, dim / 2, 2]`, computed in f64 and rounded once.
 *
 * Types: `default`, `linear` (Chen et al. 2023), `llama3` (Llama 3.1's scaling by wavelength), `yarn` (Peng et al.
 * 2023, arXiv 2309.00071), `longrope` (Ding et al. 2024, arXiv 2402.13753). The frequencies of `dynamic` and
 * `longrope` depend on whether the sequence is longer than `original_max_position_embeddings`.
 *
 * @param dim rotated elements of a head
 * @param positions rows of the table
 * @param length positions of the sequence that it is for
 */
export function ropeTable(
  dim: number,
  theta: number,
  positions: number,
  scaling?: RopeScaling,
  length = positions,
): Tensor {
  const { frequencies, magnitude } = inverseFrequencies(dim, theta, length, scaling);
  const half = dim / 2;
  const table = new Float32Array(positions * dim);
  for (let p = 0; p < positions; p++) {
    for (let j = 0; j < half; j++) {
      // the angle is rounded to f32 first, as the reference implementations do
      const angle = Math.fround(p * frequencies[j]!);
      table[(p * half + j) * 2] = Math.cos(angle) * magnitude;
      table[(p * half + j) * 2 + 1] = Math.sin(angle) * magnitude;
    }
  }
  return tensor(table, [positions, half, 2], "f32", "base");
}

function inverseFrequencies(dim: number, theta: number, length: number, scaling?: RopeScaling) {
  const original = scaling?.original_max_position_embeddings ?? length;
  const factor = scaling?.factor ?? 1;
  let base = theta;
  const type = scaling?.rope_type ?? "default";
  if (type === "dynamic" && length > original) {
    base = theta * (factor * length / original - (factor - 1)) ** (dim / (dim - 2));
  }
  const plain = Array.from({ length: dim / 2 }, (_, j) => Math.fround(1 / base ** (2 * j / dim)));
  if (type === "default" || type === "dynamic") return { frequencies: plain, magnitude: 1 };
  if (type === "linear") return { frequencies: plain.map((f) => Math.fround(f / factor)), magnitude: 1 };
  if (type === "llama3") {
    const low = scaling?.low_freq_factor ?? 1, high = scaling?.high_freq_factor ?? 4;
    const frequencies = plain.map((f) => {
      const wavelength = 2 * Math.PI / f;
      if (wavelength > original / low) return Math.fround(f / factor);
      if (wavelength < original / high) return f;
      const smooth = (original / wavelength - low) / (high - low);
      return Math.fround((1 - smooth) * f / factor + smooth * f);
    });
    return { frequencies, magnitude: 1 };
  }
  if (type === "yarn") {
    const turns = (n: number) => dim * Math.log(original / (n * 2 * Math.PI)) / (2 * Math.log(base));
    const [down, up] = scaling?.truncate === false ? [Number, Number] : [Math.floor, Math.ceil];
    const low = Math.max(0, down(turns(scaling?.beta_fast || 32)));
    const high = Math.min(dim - 1, up(turns(scaling?.beta_slow || 1)));
    const frequencies = plain.map((f, j) => {
      const ramp = Math.min(1, Math.max(0, (j - low) / (high === low ? 0.001 : high - low)));
      return Math.fround(f / factor * ramp + f * (1 - ramp));
    });
    const scale = (m: number) => factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1;
    const { mscale, mscale_all_dim: all } = scaling ?? {};
    return {
      frequencies,
      magnitude: scaling?.attention_factor ?? (mscale && all ? scale(mscale) / scale(all) : scale(1)),
    };
  }
  if (type === "longrope") {
    const factors = length > original ? scaling?.long_factor : scaling?.short_factor;
    if (factors?.length !== dim / 2) {
      throw new NibbleError("model/rope-type", `longrope needs ${dim / 2} factors, not ${factors?.length}`, {
        where: "config.json, rope_scaling, short_factor and long_factor",
      });
    }
    const frequencies = plain.map((_, j) => Math.fround(1 / (factors[j]! * base ** (2 * j / dim))));
    const grown = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
    return { frequencies, magnitude: scaling?.attention_factor ?? grown };
  }
  throw new NibbleError("model/rope-type", `Unknown rope_type '${type}'`, {
    where: "config.json, rope_scaling",
    remedy: "Supported: default, linear, dynamic, llama3, yarn, longrope.",
  });
}

/**
 * Rotates the first `rotary` elements of every head by its position's angles.
 *
 * @param x `[rows, heads * headDim]`
 * @param positions u32 `[rows]`, each below the table's length
 * @param table from {@link ropeTable}
 */
export function rope(x: Tensor, positions: Tensor, table: Tensor, heads: number, headDim: number): Tensor {
  const rotary = table.shape[1]! * 2;
  const rotate = (from: Tensor, sign: number): Tensor => {
    const to = empty(from.shape);
    if (rotary < headDim) gpu().stream.copy(from.buffer, from.offset, to.buffer, to.offset, from.bytes);
    const bind = { x: from.range, positions: positions.range, table: table.range, y: to.range };
    if (vectorLanes(gpu()) > 0 && rotary % 8 === 0 && headDim % 4 === 0) {
      const quads = from.rows * rotary / 8;
      const { groups, row } = grid1d(Math.ceil(quads / 64), 64);
      const params = { quads, row, heads, head_dim: headDim, rotary, sign };
      gpu().kernels.launch(quadKernel, { params, bind, groups });
    } else {
      const pairs = from.rows * heads * rotary / 2;
      const { groups, row } = grid1d(Math.ceil(pairs / 64), 64);
      const params = { pairs, row, heads, head_dim: headDim, rotary, sign };
      gpu().kernels.launch(kernel, { params, bind, groups });
    }
    return to;
  };
  return record("rope", rotate(x, 1), [x], (dy) => [rotate(dy, -1)], false);
}
