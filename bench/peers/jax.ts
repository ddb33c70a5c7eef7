/**
 * jax-js as a peer of `bench/peers.ts`: products under `jit`, and a LoRA step by `valueAndGrad`.
 * @module
 */
import { numbers, operands } from "../shapes.ts";
import type { Product } from "../shapes.ts";
import { adapterName, serve, type Server, timed, type Work } from "./serve.ts";
import { jaxStep } from "./jax_step.ts";

const PACKAGE = "npm:@jax-js/jax@0.1.25";

// deno-lint-ignore no-explicit-any
export type Jax = any; // not among the project's imports, so its types are not there either

async function load(): Promise<Server> {
  const jax: Jax = await import(PACKAGE);
  const found = await jax.init("webgpu");
  if (!found.includes("webgpu")) throw new Error("jax.init() found no WebGPU");
  jax.defaultDevice("webgpu");
  return {
    about: async () => `${PACKAGE}, ${await adapterName(jax.getWebGPUDevice())}`,
    open(task) {
      if (task.kind === "product") return product(jax, task.product);
      if (task.kind === "step" && !task.quantized && !task.optimizer) return jaxStep(jax, task);
      throw new Error("jax-js has no 4-bit weights");
    },
  };
}

async function product(jax: Jax, product: Product): Promise<Work> {
  const { numpy: np } = jax, { layout, M, K, N } = product, shapes = operands(product);
  const x = np.array(numbers(M * K, 1)).reshape(shapes.x);
  const w = np.array(numbers(N * K, 2)).reshape(shapes.w);
  const run = jax.jit((x: Jax, w: Jax) =>
    np.matmul(layout === "tn" ? np.transpose(x) : x, layout === "nt" ? np.transpose(w) : w)
  );
  await jax.blockUntilReady([x, w]);
  return {
    async time(repeats) {
      // kept until all have run: what is disposed before it was needed might not be computed
      const results: Jax[] = [];
      const ms = await timed(() => {
        for (let i = 0; i < repeats; i++) results.push(run(x.ref, w.ref));
      }, () => jax.blockUntilReady(results));
      for (const y of results) y.dispose();
      return ms;
    },
    async values(at) {
      const y: Float32Array = await run(x.ref, w.ref).data();
      return at.map((i) => y[i]!);
    },
    close() {
      x.dispose();
      w.dispose();
      run.dispose?.();
    },
  };
}

if (import.meta.main) await serve(load);
