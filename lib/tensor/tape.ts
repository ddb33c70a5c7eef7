/**
 * Reverse-mode automatic differentiation: a tape of operations, walked backwards once.
 * @module
 */
import { add, addInto } from "./ops/pointwise.ts";
import { scope, Tensor } from "./tensor.ts";

/** One recorded operation. */
interface Node {
  op: string;
  output: Tensor;
  inputs: readonly (Tensor | undefined)[];
  /** Gradients in the order of `inputs`; undefined for frozen inputs and for those added to `grad` directly. */
  backward: (dy: Tensor) => readonly (Tensor | undefined)[];
  /** The backward does not read the output, which may go before it runs. */
  outputSpent: boolean;
}

let tape: Node[] | undefined;
/** Whether a checkpoint runs again. */
let again = false;

/** Whether operations are being recorded. */
export function recording(): boolean {
  return tape !== undefined;
}

/**
 * Records an operation if any input needs a gradient and a tape is open; returns `output`.
 *
 * @param backward from the output's gradient to one gradient an input (undefined where none is needed)
 * @param keepsOutput false where `backward` does not read `output`: its bytes are then free while it runs
 */
export function record(
  op: string,
  output: Tensor,
  inputs: readonly (Tensor | undefined)[],
  backward: Node["backward"],
  keepsOutput = true,
): Tensor {
  if (tape && inputs.some((t) => t?.requiresGrad)) {
    output.requiresGrad = true;
    tape.push({ op, output, inputs, backward, outputSpent: !keepsOutput });
  }
  return output;
}

/**
 * Whether the work of a {@link checkpoint} runs again for its gradients, so that nobody reads the values of its result:
 * its last operations may leave them out.
 */
export function recomputing(): boolean {
  return again;
}

/** Runs `work` without recording. */
export function noGrad<T>(work: () => T): T {
  const outer = tape;
  tape = undefined;
  try {
    return work();
  } finally {
    tape = outer;
  }
}

/**
 * Runs `forward` with a tape and then walks it backwards from its result.
 *
 * Parameters (tensors with `requiresGrad` made outside) have their gradients added to `grad`, which their owner
 * made beforehand. Each operation's output returns to the pool as soon as its backward has run, so memory falls
 * while the walk goes on.
 *
 * @param forward returns the tensor to differentiate
 * @param dy its gradient; default: the result is a scalar and its gradient 1 is built in by the operation
 * @param inputs tensors whose gradients are returned
 * @param keepOutput false where `dy` is given and the result itself is of no use: it is disposed on the way
 * @returns the gradients of `inputs`
 */
export function differentiate(
  forward: () => Tensor,
  dy: Tensor | undefined,
  inputs: readonly Tensor[] = [],
  keepOutput = true,
): { output: Tensor; gradients: (Tensor | undefined)[] } {
  const outer = tape;
  const nodes: Node[] = tape = [];
  let output: Tensor;
  try {
    output = forward();
  } finally {
    tape = outer;
  }
  const gradients = new Map<Tensor, Tensor>();
  if (dy) gradients.set(output, dy.view(dy.shape));
  noGrad(() => {
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i]!;
      const gradient = gradients.get(node.output);
      gradients.delete(node.output);
      const goes = !(node.output === output && keepOutput) && !inputs.includes(node.output);
      if (goes && node.outputSpent) node.output.dispose();
      if (gradient || (!dy && node.output === output)) {
        const results = scope(() => [...node.backward(gradient ?? node.output)]);
        node.inputs.forEach((input, k) => accumulate(input, results[k], gradients));
        gradient?.dispose();
      }
      if (goes) node.output.dispose();
    }
  });
  return { output, gradients: inputs.map((t) => gradients.get(t)) };
}

function accumulate(input: Tensor | undefined, gradient: Tensor | undefined, all: Map<Tensor, Tensor>): void {
  if (!gradient) return;
  if (!input?.requiresGrad) return gradient.dispose();
  if (input.grad) {
    addInto(input.grad, gradient);
    gradient.dispose();
    return;
  }
  const before = all.get(input);
  if (!before) {
    all.set(input, gradient);
  } else if (before.buffer.references === 1) {
    addInto(before, gradient);
    gradient.dispose();
  } else {
    all.set(input, add(before, gradient));
    before.dispose();
    gradient.dispose();
  }
}

/**
 * Gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): keeps only the
 * inputs and the output of `work`, and runs it again in the backward pass.
 *
 * @param work a pure function of `inputs` and of parameters; it must give the same numbers both times, but for those of
 *   its result, see {@link recomputing}
 */
export function checkpoint(work: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
  if (!recording()) return scope(() => work(...inputs));
  const output = noGrad(() => scope(() => work(...inputs)));
  output.requiresGrad = true;
  tape!.push({
    op: "checkpoint",
    output,
    inputs,
    backward(dy) {
      const copies = inputs.map((t) => {
        const copy = t.view(t.shape);
        copy.requiresGrad = t.requiresGrad;
        return copy;
      });
      return differentiate(() => runAgain(() => work(...copies)), dy, copies, false).gradients;
    },
    outputSpent: true,
  });
  return output;
}

function runAgain<T>(work: () => T): T {
  const outer = again;
  again = true;
  try {
    return work();
  } finally {
    again = outer;
  }
}
