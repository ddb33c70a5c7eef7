/**
 * TensorFlow.js with its WebGPU backend as a peer of `bench/peers.ts`: products.
 * @module
 */
import { numbers, operands } from "../shapes.ts";
import { adapterName, serve, type Server, timed } from "./serve.ts";

const CORE = "npm:@tensorflow/tfjs-core@4.22.0", BACKEND = "npm:@tensorflow/tfjs-backend-webgpu@4.22.0";

async function load(): Promise<Server> {
  const tf = await import(CORE);
  await import(BACKEND);
  if (!await tf.setBackend("webgpu")) throw new Error("tf.setBackend('webgpu') failed");
  await tf.ready();
  const backend = tf.backend(), { device } = backend;
  // nothing may be lost silently: an error of the device ends the process
  device.addEventListener("uncapturederror", (event: GPUUncapturedErrorEvent) => {
    throw new Error(event.error.message);
  });
  const wait = () => {
    backend.endComputePassEncoder();
    if (backend.commandEncoder) backend.submitQueue();
    return device.queue.onSubmittedWorkDone();
  };
  return {
    about: async () => `${BACKEND}, ${await adapterName(device)}`,
    open(task) {
      if (task.kind !== "product") throw new Error("TensorFlow.js has no 4-bit weights");
      const { layout, M, N, K } = task.product, shapes = operands(task.product);
      const x = tf.tensor2d(numbers(M * K, 1), shapes.x), w = tf.tensor2d(numbers(N * K, 2), shapes.w);
      const run = () => tf.matMul(x, w, layout === "tn", layout === "nt");
      return {
        time: (repeats) =>
          timed(() => {
            for (let i = 0; i < repeats; i++) run().dispose();
          }, wait),
        async values(at) {
          const y = run(), data = await y.data();
          y.dispose();
          return at.map((i) => data[i]);
        },
        close() {
          x.dispose();
          w.dispose();
        },
      };
    },
  };
}

if (import.meta.main) await serve(load);
