/**
 * Matrix products with gradients.
 * @module
 */
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";
import { matmulInto, type MatmulOptions } from "./matmul_kernel.ts";
import { addInto } from "./pointwise.ts";
import { columnSum } from "./reduce.ts";

/** Operand layouts: `nt` is x·wᵀ, `nn` x·w, `tn` xᵀ·w. */
export type Layout = "nt" | "nn" | "tn";

/** What a product may do beside multiplying; see {@link MatmulOptions}. */
export type ProductOptions = Pick<MatmulOptions, "alpha" | "drop" | "low">;

/** `[M, N]` of a product of two matrices in `layout`; not recorded. */
export function product(layout: Layout, x: Tensor, w: Tensor, options: ProductOptions = {}): Tensor {
  const m = layout === "tn" ? x.columns : x.rows;
  const n = layout === "nt" ? w.rows : w.columns;
  const y = empty([m, n]);
  matmulInto({ layout, x, w, y, ...options });
  return y;
}

/** Adds a product to `y` in place; not recorded. */
export function productInto(
  layout: Layout,
  x: Tensor,
  w: Tensor,
  y: Tensor,
  options: ProductOptions = {},
): void {
  matmulInto({ layout, x, w, y, accumulate: true, ...options });
}

/**
 * `y = x wᵀ + bias`, a linear layer.
 *
 * @param x `[M, K]`
 * @param w `[N, K]`, f32, or frozen in f16 or bf16
 * @param bias `[N]`
 * @param unread y is of undefined contents, for its gradients alone
 */
export function linear(x: Tensor, w: Tensor, bias?: Tensor, unread = false): Tensor {
  if (x.columns !== w.columns) throw shapeError("linear", `x [${x.shape}], w [${w.shape}]`);
  const y = unread ? empty([x.rows, w.rows]) : addBias(product("nt", x, w), bias);
  return record("linear", y, [x, w, bias], (dy) => {
    const dx = x.requiresGrad ? product("nn", dy, w) : undefined;
    const db = biasGradient(bias, dy);
    if (!w.requiresGrad) return [dx, undefined, db];
    if (w.grad) {
      productInto("tn", dy, x, w.grad);
      return [dx, undefined, db];
    }
    return [dx, product("tn", dy, x), db];
  }, false);
}

/** `y += bias` in every row, in place where there is one, and `y` again; not recorded. */
export function addBias(y: Tensor, bias: Tensor | undefined): Tensor {
  if (!bias) return y;
  if (bias.size !== y.columns) throw shapeError("linear", `y [${y.shape}], bias [${bias.shape}]`);
  addInto(y, bias);
  return y;
}

/** The gradient of {@link addBias}: the column sums of `dy`, where the bias trains. */
export function biasGradient(bias: Tensor | undefined, dy: Tensor): Tensor | undefined {
  return bias?.requiresGrad ? columnSum(dy) : undefined;
}

/** Matrix product in any layout, with both gradients. `x` and `w` are 2-D. */
export function matmul(x: Tensor, w: Tensor, layout: Layout = "nn"): Tensor {
  if (layout === "nt") return linear(x, w);
  return record(`matmul.${layout}`, product(layout, x, w), [x, w], (dy) => {
    const needX = x.requiresGrad, needW = w.requiresGrad;
    if (layout === "nn") {
      return [needX ? product("nt", dy, w) : undefined, needW ? product("tn", x, dy) : undefined];
    }
    return [needX ? product("nt", w, dy) : undefined, needW ? product("nn", x, dy) : undefined];
  });
}
