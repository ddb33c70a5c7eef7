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
  /** Whether weight decay applies: no for biases and norms. */
  decay: boolean;
}

/** Parameters of one kind side by side; gaps between them hold zeros, and stay so. */
export interface ParameterPage {
  decay: boolean;
  /** `[n]` f32, n a multiple of 64. */
  value: Tensor;
  /** `[n]` f32 */
  grad: Tensor;
  names: string[];
}

/** All trainable parameters of a run. */
export interface ParameterPages {
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

/** Elements on which parameters start: 256 bytes. */
const ALIGN = 64;
const PAGE_BYTES = 64 * 2 ** 20;

/**
 * Lays parameters out in flat f32 pages of at most 64 MiB or one binding, those with weight decay apart from those
 * without. A parameter larger than a page has a page of its own. Order is kept within each kind.
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
  const limit = Math.floor(Math.min(PAGE_BYTES, gpu().maxBinding) / 4 / ALIGN) * ALIGN;
  const tensors = new Map<string, Tensor>();
  const pages: ParameterPage[] = [];
  let count = 0;
  for (const decay of [true, false]) {
    let open: { spec: ParameterSpec; start: number }[] = [];
    let used = 0;
    const close = () => {
      if (open.length > 0) pages.push(fill(open, used, decay));
      open = [];
      used = 0;
    };
    for (const spec of params) {
      if (spec.decay !== decay) continue;
      const size = Math.ceil(elements(spec.shape) / ALIGN) * ALIGN;
      if (used + size > limit) close();
      open.push({ spec, start: used });
      used += size;
      count += elements(spec.shape);
    }
    close();
  }

  function fill(open: { spec: ParameterSpec; start: number }[], size: number, decay: boolean): ParameterPage {
    const value = keep(zeros([size], "f32", kind)), grad = keep(zeros([size], "f32", "gradient"));
    for (const { spec, start } of open) {
      const t = viewAt(value, start, spec.shape);
      t.name = spec.name;
      t.requiresGrad = true;
      t.grad = viewAt(grad, start, spec.shape);
      tensors.set(spec.name, t);
    }
    return { decay, value, grad, names: open.map((o) => o.spec.name) };
  }

  return {
    pages,
    tensors,
    count,
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

function viewAt(page: Tensor, start: number, shape: readonly number[]): Tensor {
  page.buffer.references++;
  return keep(new Tensor(shape, "f32", page.buffer, page.offset + 4 * start));
}

function elements(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}
