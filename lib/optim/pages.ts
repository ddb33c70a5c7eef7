/**
 * Parameters and their gradients in flat pages, so that clearing, the norm and the update are a launch a page.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type BufferKind, gpu } from "../gpu/mod.ts";
import { keep, Tensor, zeros } from "../tensor/tensor.ts";

/** A parameter to place. */
export interface ParameterSpec {
  /** Hugging Face's name, unique. */
  name: string;
  shape: readonly number[];
  /** Whether weight decay applies: no for biases and norms, see {@link decays}. */
  decay: boolean;
  /** 32 keeps its optimizer state in 32 bits whatever the optimizer, as Trainer has it for embeddings. */
  optim_bits?: 32 | undefined;
}

/** Where a parameter lies in its page. */
export interface PlacedParameter {
  name: string;
  shape: readonly number[];
  /** Its first element. */
  start: number;
}

/** Parameters of one kind side by side; gaps between them hold zeros, and stay so. */
export interface ParameterPage {
  decay: boolean;
  /** Whether the state may be kept in 8 bits: then every block of 256 elements belongs to one parameter. */
  quantizable: boolean;
  /** `[n]` f32, n a multiple of 64, or of 256 where quantizable. */
  value: Tensor;
  /** `[n]` f32 */
  grad: Tensor;
  parameters: readonly PlacedParameter[];
}

/** All trainable parameters of a run. */
export interface ParameterPages {
  /** The flat pages, which optimizers work on. */
  readonly pages: readonly ParameterPage[];
  /** Views by name: `requiresGrad` is set and `grad` is a view of the gradient page. All zeros at first. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Elements of the parameters, gaps not counted. */
  readonly count: number;
  /** Clears every gradient, one command a page. */
  zeroGrad(): void;
  /** Gives every buffer back. */
  dispose(): void;
}

/** Elements on which parameters start: 256 bytes, or a block of 8-bit state. */
const ALIGN = 64, BLOCK = 256;
/** Fewest elements of a parameter whose state may be kept in 8 bits: bitsandbytes' `min_8bit_size`. */
export const MIN_8BIT_SIZE = 4096;
const PAGE_BYTES = 64 * 2 ** 20;

/**
 * Lays parameters out in flat f32 pages of at most 64 MiB or one binding: those with weight decay apart from those
 * without, and large ones, whose optimizer state may be kept in 8 bits, apart from small ones. A parameter larger
 * than a page has a page of its own. Order is kept within each kind.
 *
 * @param kind what the values are accounted as; gradients count as `gradient`
 * @throws NibbleError `optim/name` when a name comes twice, `optim/empty` when there is nothing to train
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { createParameterPages } from "./pages.ts";
 * await openGpu();
 * const pages = createParameterPages([{ name: "a", shape: [3, 5], decay: true }], "adapter");
 * const a = pages.tensors.get("a")!;
 * if (!a.requiresGrad || a.grad?.size !== 15) throw new Error("a trainable view with its gradient");
 * pages.dispose();
 * ```
 */
export function createParameterPages(params: readonly ParameterSpec[], kind: BufferKind): ParameterPages {
  if (params.length === 0) {
    throw new NibbleError("optim/empty", "There are no trainable parameters", {
      remedy: "Check lora_target_modules, or set use_peft: false to train all weights.",
    });
  }
  const twice = params.find((a, i) => params.findIndex((b) => b.name === a.name) !== i);
  if (twice) throw new NibbleError("optim/name", `Parameter '${twice.name}' comes twice`);
  const tensors = new Map<string, Tensor>();
  const pages: ParameterPage[] = [];
  for (const decay of [true, false]) {
    for (const quantizable of [true, false]) {
      const own = params.filter((p) => p.decay === decay && isQuantizable(p) === quantizable);
      for (const { parameters, size } of layOut(own, quantizable ? BLOCK : ALIGN)) {
        pages.push(fill(parameters, size, { decay, quantizable }));
      }
    }
  }

  function fill(
    parameters: readonly PlacedParameter[],
    size: number,
    kinds: Pick<ParameterPage, "decay" | "quantizable">,
  ): ParameterPage {
    const value = keep(zeros([size], "f32", kind)), grad = keep(zeros([size], "f32", "gradient"));
    for (const { name, shape, start } of parameters) {
      const t = viewAt(value, start, shape);
      t.name = name;
      t.requiresGrad = true;
      t.grad = viewAt(grad, start, shape);
      tensors.set(name, t);
    }
    return { ...kinds, value, grad, parameters };
  }

  return {
    pages,
    tensors,
    count: params.reduce((n, p) => n + elements(p.shape), 0),
    zeroGrad() {
      for (const { grad } of pages) gpu().stream.clear(grad.buffer, grad.offset, grad.bytes);
    },
    dispose() {
      for (const t of tensors.values()) {
        t.grad?.dispose();
        t.dispose();
      }
      for (const { value, grad } of pages) {
        value.dispose();
        grad.dispose();
      }
    },
  };
}

function isQuantizable({ shape, optim_bits }: ParameterSpec): boolean {
  return optim_bits !== 32 && elements(shape) >= MIN_8BIT_SIZE;
}

/** Places of parameters in pages, in order. */
function layOut(
  params: readonly ParameterSpec[],
  align: number,
): { parameters: PlacedParameter[]; size: number }[] {
  const limit = Math.floor(Math.min(PAGE_BYTES, gpu().maxBinding) / 4 / align) * align;
  const pages: { parameters: PlacedParameter[]; size: number }[] = [];
  for (const { name, shape } of params) {
    const size = Math.ceil(elements(shape) / align) * align;
    let page = pages.at(-1);
    if (!page || page.size + size > limit) pages.push(page = { parameters: [], size: 0 });
    page.parameters.push({ name, shape, start: page.size });
    page.size += size;
  }
  return pages;
}

function viewAt(page: Tensor, start: number, shape: readonly number[]): Tensor {
  page.buffer.references++;
  return keep(new Tensor(shape, "f32", page.buffer, page.offset + 4 * start));
}

function elements(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}
