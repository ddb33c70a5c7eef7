/**
 * Element by element: sums, products, activations and their gradients, over one kernel file.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/pointwise.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";
import { sumTo } from "./reduce.ts";

const kernel = defineKernel("pointwise", source);
const BINARY = { add: 0, mul: 1, silu: 2, gelu: 3, sub: 4 } as const;
const UNARY = { scale: 0, silu: 1, gelu: 2, exp: 3, log: 4, square: 5, relu: 6, addScalar: 7 } as const;

/** How the second operand's index follows from the first's. */
interface Broadcast {
  mode: 0 | 1 | 2;
  period: number;
}

/** `b` equal to `a`, a suffix of it (`[C]` on `[B, T, C]`), or a prefix with ones (`[B, T, 1]`). */
function broadcastOf(op: string, a: Tensor, b: Tensor): Broadcast {
  const size = b.size;
  if (size === a.size && `${a.shape}` === `${b.shape}`) return { mode: 0, period: 1 };
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
  op: number,
  operands: Operands,
  alpha = 1,
  how: Broadcast = { mode: 0, period: 1 },
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
    const { groups, row } = grid1d(Math.ceil(n / 64), 64);
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
      consts: entry === "add_into" ? {} : entry === "binary" ? { OP: op, MODE: how.mode } : { OP: op },
      types: { V: width === 4 ? "vec4<f32>" : "f32" },
      params: { n, period: Math.max(1, how.period / width), row, alpha },
      bind,
      groups,
    });
  }
}

function binary(op: keyof typeof BINARY, a: Tensor, b: Tensor): Tensor {
  const y = empty(a.shape);
  run("binary", BINARY[op], { a, b, y }, 1, broadcastOf(op, a, b));
  return y;
}

/** `a + b`; `b` may be broadcast. */
export function add(a: Tensor, b: Tensor): Tensor {
  return record("add", binary("add", a, b), [a, b], (dy) => [
    a.requiresGrad ? dy.view(a.shape) : undefined,
    b.requiresGrad ? sumTo(dy, b.shape) : undefined,
  ]);
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

/** `y += alpha * b` in place, for gradients and states; not recorded. */
export function addInto(y: Tensor, b: Tensor, alpha = 1): void {
  if (y.size !== b.size) throw shapeError("addInto", `[${y.shape}] += [${b.shape}]`);
  run("add_into", 0, { b, y }, alpha);
}

/** `act(a) * b`, the gated unit of SwiGLU (`silu`; Shazeer 2020, arXiv 2002.05202) and GeGLU (`gelu`, tanh form). */
export function gated(act: "silu" | "gelu", a: Tensor, b: Tensor): Tensor {
  if (a.size !== b.size) throw shapeError("gated", `[${a.shape}] and [${b.shape}]`);
  return record("gated", binary(act, a, b), [a, b], (dy) => {
    const da = empty(a.shape), db = empty(b.shape);
    run("gated_backward", BINARY[act], { a, b, dy, y: da, db });
    return [da, db];
  });
}

function unary(op: keyof typeof UNARY, a: Tensor, alpha = 1): Tensor {
  const y = empty(a.shape);
  run("unary", UNARY[op], { a, y }, alpha);
  return record(op, y, [a], (dy) => {
    const da = empty(a.shape);
    run("unary_backward", UNARY[op], { a, dy, y: da }, alpha);
    return [da];
  });
}

/** `alpha * a`. */
export const scale = (a: Tensor, alpha: number): Tensor => unary("scale", a, alpha);
/** `a + alpha`. */
export const addScalar = (a: Tensor, alpha: number): Tensor => unary("addScalar", a, alpha);
/** `a * sigmoid(a)`. */
export const silu = (a: Tensor): Tensor => unary("silu", a);
/** GELU, tanh form: `a/2 (1 + tanh(sqrt(2/pi)(a + 0.044715 a^3)))` (Hendrycks and Gimpel 2016). */
export const gelu = (a: Tensor): Tensor => unary("gelu", a);
/** `e^a`. */
export const exp = (a: Tensor): Tensor => unary("exp", a);
/** Natural logarithm. */
export const log = (a: Tensor): Tensor => unary("log", a);
/** `a^2`. */
export const square = (a: Tensor): Tensor => unary("square", a);
/** `max(a, 0)`. */
export const relu = (a: Tensor): Tensor => unary("relu", a);

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
