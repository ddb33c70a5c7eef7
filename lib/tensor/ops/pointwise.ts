/**
 * Element by element: sums, products, activations and their gradients, over one kernel file.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/pointwise.wgsl" with { type: "text" };
import { grid1d, loneLanes, rowRanges } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";
import { sumTo } from "./reduce.ts";

const kernel = defineKernel("pointwise", source);
const BINARY = { add: 0, mul: 1, sub: 2 } as const;
const UNARY = { scale: 0, addScalar: 1, exp: 2, log: 3, square: 4, softcap: 5 } as const;

/** Activations by the names that config.json's `hidden_act` uses, and which of the kernel's formulas each is. */
const ACTIVATIONS = {
  ...{ silu: 0, swish: 0 },
  ...{ gelu: 1 },
  ...{ gelu_new: 2, gelu_fast: 2, gelu_pytorch_tanh: 2 },
  ...{ relu: 3 },
} as const;

/** An activation, as `hidden_act` names it: `gelu` is the exact form, `gelu_new` and its synonyms the tanh form. */
export type Activation = keyof typeof ACTIVATIONS;

/** Whether `name` is an activation that {@link activation} and {@link gated} know. */
export function isActivation(name: string): name is Activation {
  return Object.hasOwn(ACTIVATIONS, name);
}

/** How the second operand's index follows from the first's. */
interface Broadcast {
  mode: 0 | 1 | 2;
  period: number;
}

const SAME: Broadcast = { mode: 0, period: 1 };

/** `b` equal to `a`, a suffix of it (`[C]` on `[B, T, C]`), or a prefix with ones (`[B, T, 1]`). */
function broadcastOf(op: string, a: Tensor, b: Tensor): Broadcast {
  const size = b.size;
  if (size === a.size && `${a.shape}` === `${b.shape}`) return SAME;
  if (size === 1) return { mode: 1, period: 1 };
  const trimmed = b.shape.slice(b.shape.findIndex((d) => d !== 1));
  if (`${a.shape.slice(a.shape.length - trimmed.length)}` === `${trimmed}`) return { mode: 1, period: size };
  const kept = b.shape.slice(0, b.shape.findLastIndex((d) => d !== 1) + 1);
  if (b.shape.length === a.shape.length && `${a.shape.slice(0, kept.length)}` === `${kept}`) {
    return { mode: 2, period: a.size / size };
  }
  throw shapeError(op, `cannot broadcast [${b.shape}] to [${a.shape}]`);
}

type Operands = { a?: Tensor; b?: Tensor; y: Tensor; dy?: Tensor; db?: Tensor };

function run(
  entry: string,
  consts: Record<string, number>,
  operands: Operands,
  alpha = 1,
  how: Broadcast = SAME,
): void {
  const { y } = operands;
  // broadcast operands are small beside a binding, and equal ones walk together
  const columns = how.mode === 0 ? 1 : how.period;
  const rows = y.size / columns;
  for (const [from, to] of rowRanges(rows, [4 * columns])) {
    // four elements an invocation where every length is a multiple of four
    const width = how.mode !== 2 && (to - from) * columns % 4 === 0 && (how.mode === 0 || columns % 4 === 0)
      ? 4
      : 1;
    const n = (to - from) * columns / width;
    const lanes = loneLanes(), { groups, row } = grid1d(Math.ceil(n / lanes), lanes);
    const bind = Object.fromEntries(
      Object.entries(operands).map(([name, t]) => {
        const whole = name === "b" && how.mode === 1;
        const stride = name === "b" && how.mode === 2 ? 1 : columns;
        const range = {
          buffer: t.buffer,
          offset: t.offset + from * stride * 4,
          bytes: (to - from) * stride * 4,
        };
        return [name, whole ? t.range : range];
      }),
    );
    gpu().kernels.launch(kernel, {
      entry,
      consts: { ...consts, LANES: lanes },
      types: { V: width === 4 ? "vec4<f32>" : "f32" },
      params: { n, period: Math.max(1, how.period / width), row, alpha },
      bind,
      groups,
    });
  }
}

function binary(op: keyof typeof BINARY, a: Tensor, b: Tensor): Tensor {
  const y = empty(a.shape);
  const how = broadcastOf(op, a, b);
  run("binary", { OP: BINARY[op], MODE: how.mode }, { a, b, y }, 1, how);
  return y;
}

/** `a + b`; `b` may be broadcast. */
export function add(a: Tensor, b: Tensor): Tensor {
  return record("add", binary("add", a, b), [a, b], (dy) => [
    a.requiresGrad ? dy.view(a.shape) : undefined,
    b.requiresGrad ? sumTo(dy, b.shape) : undefined,
  ], false);
}

/** `a - b`; `b` may be broadcast. */
export function sub(a: Tensor, b: Tensor): Tensor {
  return record("sub", binary("sub", a, b), [a, b], (dy) => [
    a.requiresGrad ? dy.view(a.shape) : undefined,
    b.requiresGrad ? scale(sumTo(dy, b.shape), -1) : undefined,
  ]);
}

/** `a * b`; `b` may be broadcast. */
export function mul(a: Tensor, b: Tensor): Tensor {
  return record("mul", binary("mul", a, b), [a, b], (dy) => [
    a.requiresGrad ? binary("mul", dy, b) : undefined,
    b.requiresGrad ? sumTo(binary("mul", dy, a), b.shape) : undefined,
  ]);
}

/** `y += alpha * b` in place, for gradients, states and biases; `b` may be broadcast. Not recorded. */
export function addInto(y: Tensor, b: Tensor, alpha = 1): void {
  const how = y.size === b.size ? SAME : broadcastOf("addInto", y, b);
  run("add_into", { MODE: how.mode }, { b, y }, alpha, how);
}

/** `act(a)`, element by element. */
export function activation(act: Activation, a: Tensor): Tensor {
  const consts = { ACT: ACTIVATIONS[act] };
  const y = empty(a.shape);
  run("activation", consts, { a, y });
  return record(act, y, [a], (dy) => {
    const da = empty(a.shape);
    run("activation_backward", consts, { a, dy, y: da });
    return [da];
  });
}

/**
 * `act(a) * b`, the gated unit of SwiGLU (`silu`) and GeGLU (`gelu_pytorch_tanh` in Gemma) in one pass (Shazeer 2020,
 * arXiv 2002.05202, eq. 5 and 6). The backward writes the gradients over `a` and `b`, which are the largest tensors of
 * a block: no operation recorded before this one may read them in its own backward.
 */
export function gated(act: Activation, a: Tensor, b: Tensor): Tensor {
  if (a.size !== b.size) throw shapeError("gated", `[${a.shape}] and [${b.shape}]`);
  const consts = { ACT: ACTIVATIONS[act] };
  const y = empty(a.shape);
  run("gated", consts, { a, b, y });
  return record("gated", y, [a, b], (dy) => {
    run("gated_backward", consts, { dy, y: a, db: b });
    return [a.view(a.shape), b.view(b.shape)];
  }, false);
}

function unary(op: keyof typeof UNARY, a: Tensor, alpha = 1): Tensor {
  const y = empty(a.shape);
  run("unary", { OP: UNARY[op] }, { a, y }, alpha);
  return record(op, y, [a], (dy) => {
    const da = empty(a.shape);
    run("unary_backward", { OP: UNARY[op] }, { a, dy, y: da }, alpha);
    return [da];
  });
}

/** `alpha * a`. */
export const scale = (a: Tensor, alpha: number): Tensor => unary("scale", a, alpha);
/** `a + alpha`. */
export const addScalar = (a: Tensor, alpha: number): Tensor => unary("addScalar", a, alpha);
/** `cap * tanh(a / cap)`: Gemma 2's soft cap on logits and scores (arXiv 2408.00118, section 2). */
export const softcap = (a: Tensor, cap: number): Tensor => unary("softcap", a, cap);
/** `e^a`. */
export const exp = (a: Tensor): Tensor => unary("exp", a);
/** Natural logarithm. */
export const log = (a: Tensor): Tensor => unary("log", a);
/** `a^2`. */
export const square = (a: Tensor): Tensor => unary("square", a);
/** `a * sigmoid(a)`. */
export const silu = (a: Tensor): Tensor => activation("silu", a);
/** GELU: `a` times the normal distribution function of `a` (Hendrycks and Gimpel 2016, arXiv 1606.08415). */
export const gelu = (a: Tensor): Tensor => activation("gelu", a);
/** GELU, tanh form: `a/2 (1 + tanh(sqrt(2/pi)(a + 0.044715 a^3)))` (the same paper, section 2). */
export const geluTanh = (a: Tensor): Tensor => activation("gelu_pytorch_tanh", a);
/** `max(a, 0)`. */
export const relu = (a: Tensor): Tensor => activation("relu", a);

/** A copy with its own buffer; its gradient passes through. */
export function copy(a: Tensor): Tensor {
  const y = empty(a.shape, a.dtype);
  gpu().stream.copy(a.buffer, a.offset, y.buffer, y.offset, Math.ceil(a.bytes / 4) * 4);
  return record("copy", y, [a], (dy) => [dy.view(a.shape)]);
}

/** Another shape over the same elements. */
export function reshape(a: Tensor, shape: readonly number[]): Tensor {
  return record("reshape", a.view(shape), [a], (dy) => [dy.view(a.shape)]);
}
