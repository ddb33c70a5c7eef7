/**
 * From 4 bits back to f32: whole, or a range of rows into a scratch tensor.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { adapterKind, defineKernel, gpu } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import { empty, shapeError, type Tensor } from "../tensor/tensor.ts";
import source from "../../wgsl/dequantize_4bit.wgsl" with { type: "text" };
import nf4 from "../../wgsl/shared/nf4.wgsl" with { type: "text" };
import scales from "../../wgsl/shared/scales_4bit.wgsl" with { type: "text" };
import { type QuantizedTensor, scaleBindings, span, valueConstants } from "./quantized_tensor.ts";

const kernel = defineKernel("dequantize_4bit", source, nf4, scales);

/**
 * Decodes rows `[from, to)` into the beginning of `into`: `w[i] = value[code_i] * absmax[block of i]`.
 * Double-quantized scales are decoded in the kernel.
 *
 * @param into f32, at least `(to - from) * columns` elements
 * @throws NibbleError `quant/rows` when row `from` does not begin with a packed word (eight codes): any multiple
 * of 8 rows does, and any row where columns are a multiple of 8
 */
export function dequantizeRows(q: QuantizedTensor, from: number, to: number, into: Tensor): void {
  const start = from * q.columns, count = (to - from) * q.columns;
  if (from < 0 || to > q.rows || from > to || into.size < count || into.dtype !== "f32") {
    throw shapeError(
      "dequantizeRows",
      `rows ${from} to ${to} of [${q.shape}] into ${into.dtype} [${into.shape}]`,
    );
  }
  if (start % 8 !== 0) {
    throw new NibbleError("quant/rows", `Row ${from} begins within a word of eight codes`, {
      where: `${q.name ?? "tensor"} [${q.shape}]`,
      remedy: "Begin at a multiple of 8 rows.",
    });
  }
  const { nested } = q;
  const consts = { BLOCK: q.blocksize, NESTED: nested !== undefined, ...valueConstants(q.codeBook) };
  const step = Math.max(64, Math.floor(gpu().maxBinding / 256) * 64);
  for (let done = 0; done < count; done += step) {
    const n = Math.min(step, count - done), at = start + done;
    const words = span(q.packed, at / 2, Math.ceil((at + n) / 8) * 4);
    const blocks = [Math.floor(at / q.blocksize), Math.ceil((at + n) / q.blocksize)] as const;
    const absmax = nested
      ? span(q.absmax, blocks[0], Math.ceil(blocks[1] / 4) * 4)
      : span(q.absmax, 4 * blocks[0], 4 * blocks[1]);
    const y = { buffer: into.buffer, offset: into.offset + done * 4, bytes: n * 4 };
    const whole = n % 8 === 0;
    // a processor's driver pays for every lane's memory access by itself: a block an invocation decodes its scale once
    const perLane = whole && adapterKind(gpu()) !== "gpu"
      ? [8, 4, 2, 1].find((w) => n % (8 * w) === 0 && at % (8 * w) === 0 && q.blocksize % (8 * w) === 0)!
      : 1;
    const { groups, row } = grid1d(Math.ceil(n / (512 * perLane)), 64);
    gpu().kernels.launch(kernel, {
      entry: whole ? "whole_words" : "any_count",
      consts: whole ? { ...consts, WORDS: perLane } : consts,
      params: { n, row, first_word: at / 8 - words.first, start: at, first_scale: absmax.first },
      bind: {
        words: words.range,
        absmax: absmax.range,
        ...scaleBindings(q),
        ...(whole ? { y4: y } : { y }),
      },
      groups,
    });
  }
}

/** The whole tensor as f32, of the same shape. */
export function dequantize(q: QuantizedTensor): Tensor {
  const y = empty(q.shape);
  dequantizeRows(q, 0, q.rows, y);
  return y;
}
