/**
 * Weights from a file to the device, one after the other: in 4 bits, or dense.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { elementCount, type TensorSource } from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import {
  createQuantized,
  finishQuantized,
  fromQuantState,
  type QuantizedTensor,
  quantizeRows,
  rowQuantum,
} from "../quant/mod.ts";
import { createLookout } from "../tensor/ops/non_finite.ts";
import { empty, keep, type Tensor } from "../tensor/tensor.ts";
import { checkFinite, type Chunk, chunks, type ChunkSpec, inF32, reusable } from "./chunks.ts";
import type { BuildOptions, QuantizationConfig } from "./load.ts";
import type { ParameterSpec } from "./parameters.ts";
import { encodeAs, frozenType } from "./storage.ts";

/** Bytes written after which the device is waited for: what it has not taken yet, WebGPU keeps on the host. */
const IN_FLIGHT = 128 * 2 ** 20;

/** A model's weights, in the order of their specs. */
export interface Weights {
  dense(spec: ParameterSpec): Promise<Tensor>;
  /** A weight that is in 4 bits only from now on. */
  quantized(spec: ParameterSpec, config: QuantizationConfig): Promise<QuantizedTensor>;
  /** A weight that is in 4 bits already: its codes go to the device as they are. */
  stored(spec: ParameterSpec): QuantizedTensor;
  /**
   * Looks at what only the device has looked at so far; one readback.
   *
   * @throws NibbleError `model/nan`
   */
  checkQuantized(): Promise<void>;
  /** Ends reading; the file may be closed then. */
  close(): Promise<void>;
}

/**
 * Begins to read.
 *
 * @param specs all that will be asked for of `dense` and `quantized`, in that order
 * @param advance told how many parameters have been read
 */
export function openWeights(
  source: TensorSource,
  specs: readonly ParameterSpec[],
  { allocate, torch_dtype, quantization, rehearsal = false }: BuildOptions,
  advance: (parameters: number) => void,
): Weights {
  const inBlocks = ({ name, shape, quantizable }: ParameterSpec): ChunkSpec => ({
    ...{ name, shape },
    ...(quantization && quantizable
      ? { multiple: rowQuantum({ columns: shape.at(-1)!, blocksize: quantization.blocksize }) }
      : {}),
  });
  const reading = chunks(specs.map(inBlocks), { source, rehearsal });
  const decoded = reusable();
  const lookout = createLookout(specs.length);
  let inFlight = 0;

  /** The tensor's chunks; each is gone with the next. */
  async function* chunksOf({ name, shape }: ParameterSpec): AsyncGenerator<Chunk> {
    for (let row = 0, rows = elementCount(shape) / shape.at(-1)!; row < rows;) {
      const { value: chunk } = await reading.next();
      if (chunk?.name !== name) throw new Error(`${name} was asked for, ${chunk?.name} comes next`);
      yield chunk;
      row += chunk.rows;
      advance(chunk.values.length);
      written(chunk.values.byteLength);
    }
  }

  function written(bytes: number): void {
    if (rehearsal || (inFlight += bytes) <= IN_FLIGHT) return;
    gpu().stream.wait();
    inFlight = 0;
  }

  return {
    async dense(spec) {
      const { name, shape } = spec;
      const dtype = frozenType(shape, source.tensors.get(name)!.dtype, torch_dtype);
      const t = allocate?.(name, shape) ?? keep(empty(shape, dtype, "base"));
      t.name = name;
      return await orDispose(t, async () => {
        for await (const chunk of chunksOf(spec)) {
          if (rehearsal) continue;
          checkFinite(chunk, source);
          const values = chunk.dtype === t.dtype
            ? chunk.values
            : encodeAs(t.dtype, inF32(chunk, decoded), name, source.path);
          t.write(values, chunk.row * t.columns);
        }
      });
    },
    async quantized(spec, config) {
      const { name, shape } = spec;
      const q = createQuantized(shape, { ...config, name });
      return await orDispose(q, async () => {
        for await (const chunk of chunksOf(spec)) quantizeRows(q, chunk.row, chunk);
        // a block's scale is not finite where one of its numbers is not: fewer to look at, and the device does
        lookout.look(name, q.absmax);
        finishQuantized(q);
      });
    },
    stored({ name, shape: whole }) {
      const { shape, quantType, blocksize, nested } = source.tensors.get(name)!.quantized!;
      if (allocate?.(name, shape)) {
        throw new NibbleError("model/frozen", `'${name}' is stored in 4 bits, which cannot be trained`, {
          where: source.path,
          remedy: "Set use_peft: true (QLoRA), or train the checkpoint in 16 bits.",
        });
      }
      if (rehearsal) {
        const q = createQuantized(shape, { quantType, blocksize, doubleQuant: nested !== undefined, name });
        finishQuantized(q);
        return q;
      }
      const state = source.readQuantState!(name);
      const scales = state.nested ? [state.nested.offset, ...state.nested.absmax] : state.absmax;
      if (!scales.every(Number.isFinite)) {
        throw new NibbleError("model/nan", `'${name}' has a scale that is not a number`, {
          where: source.path,
          remedy: "The file is damaged or was saved from a diverged run; fetch it again.",
        });
      }
      const q = fromQuantState(state, name);
      advance(elementCount(whole));
      written(q.bytes);
      return q;
    },
    async checkQuantized() {
      const found = rehearsal ? [] : await lookout.found();
      const spoiled = specs.filter(({ name }) => found.some((other) => other.name === name));
      for await (const chunk of chunks(spoiled, { source, rehearsal })) checkFinite(chunk, source);
    },
    async close() {
      lookout.dispose();
      await reading.return(undefined);
    },
  };
}

/** The tensor, once it is filled; given back where that fails. */
async function orDispose<T extends { dispose(): void }>(t: T, fill: () => Promise<void>): Promise<T> {
  try {
    await fill();
  } catch (error) {
    t.dispose();
    throw error;
  }
  return t;
}
