/**
 * onnxruntime-web with its WebGPU provider as a peer of `bench/peers.ts`: Gemm in f32, and MatMulNBits in 4 bits.
 * @module
 */
import { numbers, operands, type Product } from "../shapes.ts";
import { onnxModel } from "./onnx_model.ts";
import { adapterName, serve, type Server, timed, type Work } from "./serve.ts";
import { BLOCK, codes4 } from "./task.ts";

const PACKAGE = "npm:onnxruntime-web@1.27.0", ENTRY = `${PACKAGE}/webgpu`;

// deno-lint-ignore no-explicit-any
type Ort = any; // not among the project's imports, so its types are not there either

async function load(): Promise<Server> {
  const ort: Ort = await import(ENTRY);
  return {
    async about() {
      return `${PACKAGE}, ${await adapterName()}`;
    },
    open(task) {
      if (task.kind === "product") return run(ort, task.product, dense(task.product));
      if (task.kind === "product4") return run(ort, task.product, fourBits(task.product));
      throw new Error("onnxruntime-web runs no training");
    },
  };
}

/** Gemm, whose weight is a constant as in a model. */
function dense(product: Product): Uint8Array {
  const { layout, M, N, K } = product, shapes = operands(product);
  return onnxModel({
    operator: "Gemm",
    domain: "",
    attributes: { transA: Number(layout === "tn"), transB: Number(layout === "nt") },
    input: { name: "x", shape: shapes.x },
    constants: [{ name: "w", shape: shapes.w, data: numbers(N * K, 2) }],
    output: { name: "y", shape: [M, N] },
  });
}

function fourBits(product: Product): Uint8Array {
  const { M, N, K } = product, { codes, scales } = codes4(product), block = BLOCK.onnxruntime;
  return onnxModel({
    operator: "MatMulNBits",
    domain: "com.microsoft",
    attributes: { K, N, bits: 4, block_size: block },
    input: { name: "x", shape: [M, K] },
    constants: [
      { name: "w", shape: [N, K / block, block / 2], data: codes },
      { name: "scales", shape: [N * K / block], data: scales },
    ],
    output: { name: "y", shape: [M, N] },
  });
}

/** Input and output stay on the device. */
async function run(ort: Ort, product: Product, model: Uint8Array): Promise<Work> {
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ["webgpu"],
    preferredOutputLocation: "gpu-buffer",
  });
  const device: GPUDevice = await ort.env.webgpu.device;
  const data = numbers(product.M * product.K, 1);
  const { STORAGE, COPY_DST, COPY_SRC } = GPUBufferUsage;
  const buffer = device.createBuffer({ size: data.byteLength, usage: STORAGE | COPY_DST | COPY_SRC });
  device.queue.writeBuffer(buffer, 0, data);
  const x = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: operands(product).x });
  return {
    time: (repeats) =>
      timed(async () => {
        for (let i = 0; i < repeats; i++) (await session.run({ x })).y.dispose();
      }, () => device.queue.onSubmittedWorkDone()),
    async values(at) {
      const { y } = await session.run({ x }), values = await y.getData(true);
      return at.map((i) => values[i]);
    },
    close() {
      buffer.destroy();
      session.release();
    },
  };
}

if (import.meta.main) await serve(load);
