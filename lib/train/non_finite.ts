/**
 * Where the first NaN or infinity of a step comes from: its forward pass again, looked at module by module.
 * @module
 */
import type { Watch } from "../model/linear.ts";
import type { ParameterPages } from "../optim/mod.ts";
import { createLookout } from "../tensor/ops/non_finite.ts";
import { noGrad } from "../tensor/tape.ts";
import { scope, type Tensor } from "../tensor/tensor.ts";

/** Tensors that one search looks at; a mixture of 32 blocks has some thousand. */
const MOST = 16384;

/**
 * Says where a step that was not finite went wrong: the first module of the forward pass whose output is not finite, or
 * the gradient at which the backward pass arrived so first. To be called after the step, which changed nothing then.
 *
 * @param passes forward pass and loss of each micro-batch, as the step ran it
 * @returns one sentence, and what to know beside it
 */
export async function findNonFinite(
  passes: readonly ((watch: Watch) => Tensor)[],
  pages: ParameterPages,
): Promise<{ what: string; where: string }> {
  const parameters = createLookout(MOST);
  for (const [name, value] of pages.tensors) parameters.look(name, value);
  const broken = await parameters.found();
  const holds = broken.length > 0 ? `; parameter ${broken[0]!.name} is ${broken[0]!.what}` : "";
  for (const [micro, pass] of passes.entries()) {
    const outputs = createLookout(MOST);
    noGrad(() => scope(() => outputs.look("the loss", pass(outputs.look))));
    const [first] = await outputs.found();
    if (!first) continue;
    return {
      what: first.name === "the loss"
        ? `The loss is ${first.what}, the output of every module finite`
        : `${first.name} is the first module whose output is ${first.what}`,
      where: `micro-batch ${micro + 1} of ${passes.length}${holds}`,
    };
  }
  const gradients = createLookout(MOST);
  for (const [name, { grad }] of pages.tensors) gradients.look(name, grad!);
  const last = (await gradients.found()).at(-1); // the backward pass comes to the last module first
  return last
    ? { what: `The gradient of ${last.name} is ${last.what}`, where: `the forward pass is finite${holds}` }
    : {
      what: "The gradients are finite, the sum of their squares is not",
      where: "the forward pass is finite",
    };
}
