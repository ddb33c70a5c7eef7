/**
 * Parameters in flat pages, so that one launch updates many of them.
 * @module
 */
import { type BufferKind, gpu } from "../gpu/mod.ts";
import { keep, Tensor } from "../tensor/tensor.ts";

/** A parameter to place. */
export interface PageEntry {
  name: string;
  shape: readonly number[];
  /** Whether weight decay applies. */
  decay: boolean;
}

/** A flat run of parameters with their gradients. */
export interface Page {
  value: Tensor;
  grad: Tensor;
  decay: boolean;
}

/** Trainable parameters: pages, and a tensor for each parameter that looks into its page. */
export interface ParameterPages {
  readonly pages: readonly Page[];
  /** By name; `requiresGrad` is set and `grad` points into the gradients' page. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Elements of all parameters. */
  readonly count: number;
  /** Clears all gradients: one command a page. */
  zeroGrad(): void;
  dispose(): void;
}

/** Every parameter starts on a multiple of 64 floats: the 256 bytes at which bindings may begin. */
const ALIGN = 64;
const PAGE_BYTES = 64 * 2 ** 20;

/**
 * Lays parameters out in pages of at most 64 MiB (or one parameter, if that is larger). Decayed and exempt ones
 * have pages of their own. Gradients start at zero; values are undefined until written.
 *
 * @param kind what the values count as: `adapter`, or `base` for full fine-tuning
 */
export function createParameterPages(entries: readonly PageEntry[], kind: BufferKind): ParameterPages {
  const limit = Math.min(PAGE_BYTES, gpu().maxBinding) / 4;
  const plans: { decay: boolean; size: number; entries: { entry: PageEntry; at: number }[] }[] = [];
  for (const decay of [true, false]) {
    let plan: (typeof plans)[number] | undefined;
    for (const entry of entries.filter((e) => e.decay === decay)) {
      const size = Math.ceil(entry.shape.reduce((a, b) => a * b, 1) / ALIGN) * ALIGN;
      if (!plan || plan.size + size > limit) plans.push(plan = { decay, size: 0, entries: [] });
      plan.entries.push({ entry, at: plan.size });
      plan.size += size;
    }
  }
  const parameters = new Map<string, Tensor>();
  const pages = plans.map((plan): Page => {
    const make = (of: BufferKind) => keep(new Tensor([plan.size], "f32", gpu().pool.acquire(4 * plan.size, of)));
    const value = make(kind), grad = make("gradient");
    gpu().stream.clear(value.buffer); // gaps between parameters must not hold NaN
    gpu().stream.clear(grad.buffer);
    for (const { entry, at } of plan.entries) {
      const view = (page: Tensor) => {
        page.buffer.references++;
        return keep(new Tensor(entry.shape, "f32", page.buffer, page.offset + 4 * at));
      };
      const t = view(value);
      t.name = entry.name;
      t.requiresGrad = true;
      t.grad = view(grad);
      parameters.set(entry.name, t);
    }
    return { value, grad, decay: plan.decay };
  });
  return {
    pages,
    parameters: new Map(entries.map(({ name }) => [name, parameters.get(name)!])),
    count: entries.reduce((n, e) => n + e.shape.reduce((a, b) => a * b, 1), 0),
    zeroGrad() {
      for (const { grad } of pages) gpu().stream.clear(grad.buffer);
    },
    dispose() {
      for (const t of parameters.values()) {
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
