/**
 * Codes of a 4-bit tensor that are chosen by what they do to a layer's outputs.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { defineKernel, gpu } from "../gpu/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import { product, productInto } from "../tensor/ops/linear.ts";
import { scope, shapeError, type Tensor, zeros } from "../tensor/tensor.ts";
import source from "../../wgsl/refine_4bit.wgsl" with { type: "text" };
import nf4 from "../../wgsl/shared/nf4.wgsl" with { type: "text" };
import scales from "../../wgsl/shared/scales_4bit.wgsl" with { type: "text" };
import { type QuantizedTensor, scaleBindings, valueConstants } from "./quantized_tensor.ts";

const kernel = defineKernel("refine_4bit", source, nf4, scales);

/** Columns chosen in one launch: then the others are told at once, by a matrix product. */
const TOGETHER = 64;

/**
 * Chooses the codes of columns `[first, first + width)` anew, such that `tr (W − Q) C (W − Q)ᵀ` falls: the mean square
 * of what the quantization does to the outputs, where C is `xᵀ x` of the layer's inputs. Nearest codes err in each
 * weight by itself; here a weight makes up for the others that its inputs go together with. Scales stay.
 *
 * Each sweep gives every column the best code there is while the others are as they are (coordinate descent), so that
 * the error falls from sweep to sweep, to where no code by itself is better. {@link roundAhead} finds a lower place to
 * begin from.
 *
 * @param q `[out, in]`, in a multiple of eight; its codes are overwritten
 * @param error `W − Q` of these columns, `[out, width]`, of the codes as they are
 * @param c C, `[width, width]`
 * @throws NibbleError `quant/refine` for a q that this cannot take
 */
export function refine(q: QuantizedTensor, first: number, error: Tensor, c: Tensor, sweeps: number): void {
  scope(() => {
    const g = product("nn", error, c);
    for (let sweep = 0; sweep < sweeps; sweep++) choose(q, first, error, c, g, false);
  });
}

/**
 * Rounds columns `[first, first + width)` one after the other, each after adding what the errors of those before it ask
 * for: GPTQ (Frantar et al. 2022, arXiv 2210.17323) in the form of LDLQ (Chee et al. 2023, arXiv 2307.13304), which
 * counts on the columns to come making up for what this one errs.
 *
 * @param error as in {@link refine}
 * @param f F, `[width, width]`, upper triangular with ones on its diagonal: `C = F D Fᵀ` with a diagonal D
 * @throws NibbleError `quant/refine` for a q that this cannot take
 */
export function roundAhead(q: QuantizedTensor, first: number, error: Tensor, f: Tensor): void {
  scope(() => choose(q, first, error, f, zeros(error.shape, "f32", "scratch"), true));
}

/** Chooses every column's codes once; g is kept up to date. */
function choose(
  q: QuantizedTensor,
  first: number,
  error: Tensor,
  c: Tensor,
  g: Tensor,
  ahead: boolean,
): void {
  const { rows: out, columns: width } = error;
  if (out !== q.rows || first + width > q.columns || c.rows !== width || c.columns !== width) {
    throw shapeError("refine", `[${q.shape}] from ${first}, error [${error.shape}], moments [${c.shape}]`);
  }
  if (!refinable(q) || first % 8 !== 0 || width % 8 !== 0) {
    throw new NibbleError("quant/refine", `The codes of [${q.shape}] cannot be chosen by columns`, {
      where: q.name ?? "tensor",
      remedy: "Columns are multiples of 8, and codes, scales and sums fit one binding.",
    });
  }
  const consts = { BLOCK: q.blocksize, NESTED: q.nested !== undefined, ...valueConstants(q.codeBook) };
  const { groups, row } = grid1d(Math.ceil(out / 64), 64);
  for (let at = 0; at < width; at += TOGETHER) {
    const count = Math.min(TOGETHER, width - at);
    const change = zeros([out, count], "f32", "scratch");
    gpu().kernels.launch(kernel, {
      entry: "refine",
      consts: { ...consts, COUNT: count, AHEAD: ahead },
      params: { rows: out, row, columns: q.columns, first: first + at, width, at },
      bind: {
        words: q.packed.range,
        absmax: q.absmax.range,
        ...scaleBindings(q),
        ...{ g: g.range, c: c.range, change: change.range, error: error.range },
      },
      groups,
    });
    const told = c.slice(at, at + count);
    productInto("nn", change, told, g, { alpha: -1 });
    for (const t of [change, told]) t.dispose();
  }
  gpu().stream.flush();
}

/** Whether {@link refine} can take a tensor. */
export function refinable(q: QuantizedTensor): boolean {
  return q.columns % 8 === 0 && Math.max(q.packed.bytes, 4 * q.size) <= gpu().maxBinding;
}
