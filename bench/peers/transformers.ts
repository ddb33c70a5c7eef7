/**
 * transformers.js on WebGPU as a peer of `bench/peers.ts`: generation with the Hub's 4-bit ONNX files of a model.
 * @module
 */
import { adapterName, serve, type Server } from "./serve.ts";

const PACKAGE = "npm:@huggingface/transformers@4.3.2";

async function load(): Promise<Server> {
  const { pipeline } = await import(PACKAGE);
  return {
    about: async () => `${PACKAGE}, ${await adapterName()}`,
    async open(task) {
      if (task.kind !== "generate") throw new Error("transformers.js only generates");
      const write = await pipeline("text-generation", task.model, { device: "webgpu", dtype: "q4" });
      const { tokens, prompt } = task;
      return {
        async time(repeats) {
          const started = performance.now();
          for (let i = 0; i < repeats; i++) {
            await write(prompt, { max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false });
          }
          return performance.now() - started;
        },
        // the text is another model's: quantized in another way
        values: () => Promise.resolve([]),
        close: () => void write.dispose(),
      };
    },
  };
}

if (import.meta.main) await serve(load);
