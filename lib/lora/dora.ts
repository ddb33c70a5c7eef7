/**
 * Weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353): `W' = m ∘ (W + s B A) / ‖W + s B A‖`,
 * with one magnitude m and one norm an output row.
 *
 * As in PEFT the norm counts as a constant in the backward pass (section 4.3), the bias is not scaled, and with
 * dropout the base's part of the change sees the dropped input.
 * @module
 */
import { defineKernel, gpu } from "../gpu/mod.ts";
import { baseBackward, baseForward, type ForwardContext } from "../model/linear.ts";
import { type Drop, dropoutOnly } from "../tensor/ops/dropout.ts";
import { addBias, biasGradient, product, productInto } from "../tensor/ops/linear.ts";
import { addInto, mul, square, sub } from "../tensor/ops/pointwise.ts";
import { columnSum, rowSum } from "../tensor/ops/reduce.ts";
import { noGrad, record } from "../tensor/tape.ts";
import { empty, keep, scope, type Tensor } from "../tensor/tensor.ts";
import { grid1d } from "../tensor/grid.ts";
import { ofTraining } from "./fixed_ranks.ts";
import type { LoraLayer } from "./lora.ts";
import { forRows } from "./rows.ts";
import source from "../../wgsl/dora.wgsl" with { type: "text" };

const kernel = defineKernel("dora", source);

/** What DoRA adds to a layer's A and B. */
export interface Dora {
  /** m, `[out]`. */
  readonly magnitude: Tensor;
  /** `‖W_o‖²` of the frozen base, `[out]`. */
  readonly squares: Tensor;
}

type Factors = Pick<LoraLayer, "layer" | "a" | "b" | "scaling">;

/** Sums of squares of a frozen weight's rows, `[out]`; its owner disposes it. */
export function rowSquares(weight: LoraLayer["layer"]["weight"]): Tensor {
  const out = keep(empty([weight.rows], "f32", "adapter"));
  noGrad(() =>
    forRows(weight, (w, from, to) => {
      const sums = rowSum(square(w));
      gpu().stream.copy(sums.buffer, sums.offset, out.buffer, out.offset + 4 * from, 4 * (to - from));
    })
  );
  return out;
}

/** `‖W + s B A‖` of each output row, `[out]`, without forming a row: see wgsl/dora.wgsl. Not recorded. */
export function rowNorms({ layer, a, b, scaling }: Factors, squares: Tensor): Tensor {
  const aw = baseForward(layer.weight, a); // (r, out)
  const bg = product("nn", b, product("nt", a, a)); // (out, r)
  const norm = empty([b.rows]);
  launch("norms", { w2: squares, b, aw, bg, norm }, b.rows, a.rows, scaling);
  return norm;
}

/** Sets m to what A and B leave of the model as it is: the norms of the rows of `W + s B A`. */
export function startMagnitude(factors: Factors, { magnitude: m, squares }: Dora): void {
  noGrad(() =>
    scope(() => {
      const norms = rowNorms(factors, squares);
      gpu().stream.copy(norms.buffer, norms.offset, m.buffer, m.offset, norms.bytes);
    })
  );
}

/** `x / norm`, element by element. */
export function over(x: Tensor, norm: Tensor): Tensor {
  const y = empty([x.size]);
  launch("divide", { m: x, norm: norm, g: y }, x.size, 0, 0);
  return y;
}

function launch(entry: string, bind: Record<string, Tensor>, rows: number, r: number, s: number): void {
  const { groups, row } = grid1d(Math.ceil(rows / 64), 64);
  gpu().kernels.launch(kernel, {
    entry,
    params: { rows, r, row, s },
    bind: Object.fromEntries(Object.entries(bind).map(([name, t]) => [name, t.range])),
    groups,
  });
}

/** `g = m / ‖W + s B A‖` and the norm, both `[out]`; computed once in a pass whose parameters stand still. */
function scales(lora: LoraLayer, dora: Dora, context: ForwardContext): { g: Tensor; norm: Tensor } {
  const known = context.constants?.get(dora) as { g: Tensor; norm: Tensor } | undefined;
  if (known) return known;
  const norm = rowNorms(lora, dora.squares);
  const made = { g: over(dora.magnitude, norm), norm };
  context.constants?.set(dora, { g: keep(made.g), norm: keep(made.norm) });
  return made;
}

/**
 * With z = drop(x) (W + s B A)ᵀ and g = m / norm: `y = x Wᵀ + (g ∘ z − drop(x) Wᵀ) + bias`, which without dropout is
 * `g ∘ z + bias`. Backward, with u = g ∘ dy and dh = s u B: `dm = Σ dy ∘ z / norm`, `dB += s uᵀ h`, `dA += dhᵀ drop(x)`,
 * `dx = dy W + dropᵀ(u W − dy W + dh A)`.
 */
export function doraLinear(
  lora: LoraLayer,
  dora: Dora,
  x: Tensor,
  dropping: Drop | undefined,
  context: ForwardContext,
): Tensor {
  const { layer: { weight, bias }, a, b, scaling: s, masks } = lora;
  const drop = (t: Tensor, base?: Tensor) => dropoutOnly(t, dropping!.rate, dropping!.seed, base);
  const dropped = dropping ? drop(x) : x; // (M, in)
  const { g, norm } = scales(lora, dora, context);
  const h = product("nt", dropped, a); // (M, r)
  const z = baseForward(weight, dropped); // (M, out)
  productInto("nt", h, b, z, { alpha: s });
  const y = noGrad(() => mul(z, g));
  if (dropping) addInto(y, baseForward(weight, noGrad(() => sub(x, dropped))));
  addBias(y, bias);
  const { magnitude } = dora;
  return record("doraLinear", y, [x, a, b, magnitude, bias], (dy) => {
    const dm = over(columnSum(mul(dy, z)), norm);
    const u = mul(dy, g); // (M, out)
    const dh = product("nn", u, b, { alpha: s }); // (M, r)
    productInto("tn", u, ofTraining(h, masks), b.grad!, { alpha: s });
    productInto("tn", ofTraining(dh, masks), dropped, a.grad!);
    const rest = [undefined, undefined, dm, biasGradient(bias, dy)];
    if (!x.requiresGrad) return [undefined, ...rest];
    const dx = baseBackward(weight, u);
    productInto("nn", dh, a, dx);
    if (!dropping) return [dx, ...rest];
    const straight = baseBackward(weight, dy);
    addInto(dx, straight, -1);
    return [drop(dx, straight), ...rest];
  });
}
