/**
 * Every parameter that a config implies: names as in Hugging Face's files, shapes, how it starts and how it is stored.
 * @module
 */
import type { TensorInfo, TensorSource } from "../formats/mod.ts";
import type { ModelConfig } from "./config.ts";

/** One parameter. */
export interface ParameterSpec {
  /** Hugging Face's name, `model.layers.0.self_attn.q_proj.weight`. */
  name: string;
  /** Shape on the device; linear layers are `[out, in]` in every family. */
  shape: number[];
  /** A weight of a linear layer of a block, which adapters may sit on. */
  linear: boolean;
  /** Whether 4 bits may hold it: linear layers, but not a mixture's router, whose choices a rounding would change. */
  quantizable: boolean;
  /** Files hold it `[in, out]` (Conv1D). */
  transposed: boolean;
  /** Mean and deviation of fresh numbers. */
  init: { mean: number; deviation: number };
}

interface Linear {
  module: string;
  shape: [number, number];
  bias: boolean;
  quantizable: boolean;
  /** Factor on the deviation of fresh numbers. */
  spread: number;
}

/** Linear layers of one block, in the order of the forward pass, with `[out, in]`. */
export function blockLinears(c: ModelConfig): Linear[] {
  const { names } = c.family;
  const { hidden_size: h, intermediate_size: i } = c;
  const spread = c.family.residualInit ? (2 * c.num_hidden_layers) ** -0.5 : 1;
  const side = (modules: readonly string[], widths: readonly number[], bias: boolean): Linear[] => {
    const sum = widths.reduce((a, b) => a + b, 0);
    const rows = modules.length === widths.length ? widths : [sum];
    return modules.map((module, n) => ({ module, shape: [rows[n]!, h], bias, quantizable: true, spread: 1 }));
  };
  const feedForward = (at: string): Linear[] => [
    ...side(names.mlpIn.map((n) => at + n), mlpWidths(c), c.bias.mlp),
    { module: at + names.mlpOut, shape: [h, i], bias: c.bias.mlp, quantizable: true, spread },
  ];
  const q = c.num_attention_heads * c.head_dim;
  const attention = [
    ...side(names.qkv, qkvWidths(c), c.bias.qkv),
    { module: names.o, shape: [h, q] as [number, number], bias: c.bias.o, quantizable: true, spread },
  ];
  if (!names.experts) return [...attention, ...feedForward("")];
  const router: Linear = {
    module: names.router!,
    shape: [c.num_local_experts, h],
    bias: false,
    quantizable: false,
    spread: 1,
  };
  const experts = Array.from(
    { length: c.num_local_experts },
    (_, e) => feedForward(`${names.experts}.${e}.`),
  );
  return [...attention, router, ...experts.flat()];
}

/** Columns of query, key and value. */
export function qkvWidths(c: ModelConfig): number[] {
  const kv = c.num_key_value_heads * c.head_dim;
  return [c.num_attention_heads * c.head_dim, kv, kv];
}

/** Columns of gate and up, or of the one projection where nothing is gated. */
export function mlpWidths(c: ModelConfig): number[] {
  return c.family.gated ? [c.intermediate_size, c.intermediate_size] : [c.intermediate_size];
}

/** Every parameter of the model under Hugging Face's names, with its shape. */
export function parameterShapes(c: ModelConfig): ParameterSpec[] {
  const { names, norm, conv1d = false } = c.family;
  const plain = { linear: false, quantizable: false, transposed: false };
  const normal = { mean: 0, deviation: c.initializer_range };
  const embedding = (module: string, rows: number): ParameterSpec => ({
    ...plain,
    name: `${module}.weight`,
    shape: [rows, c.hidden_size],
    init: normal,
  });
  const vector = (name: string, size: number, mean: number): ParameterSpec => ({
    ...plain,
    name,
    shape: [size],
    init: { mean, deviation: 0 },
  });
  const normOf = (module: string | undefined, size = c.hidden_size): ParameterSpec[] =>
    module === undefined ? [] : [
      vector(`${module}.weight`, size, norm === "rmsPlusOne" ? 0 : 1),
      ...(norm === "layer" ? [vector(`${module}.bias`, size, 0)] : []),
    ];
  const linear = (at: string, l: Linear): ParameterSpec[] => [
    {
      name: `${at}${l.module}.weight`,
      shape: l.shape,
      linear: true,
      quantizable: l.quantizable,
      transposed: conv1d,
      init: { mean: 0, deviation: c.initializer_range * l.spread },
    },
    ...(l.bias ? [vector(`${at}${l.module}.bias`, l.shape[0], 0)] : []),
  ];
  const linears = blockLinears(c);
  const block = (at: string): ParameterSpec[] => [
    ...normOf(at + names.inputNorm),
    ...linears.flatMap((l) => linear(at, l)),
    ...normOf(names.qNorm && at + names.qNorm, c.head_dim),
    ...normOf(names.kNorm && at + names.kNorm, c.head_dim),
    ...normOf(at + names.postNorm),
  ];
  return [
    embedding(names.embed, c.vocab_size),
    ...(names.positions ? [embedding(names.positions, c.max_position_embeddings)] : []),
    ...Array.from({ length: c.num_hidden_layers }, (_, i) => block(`${names.layers}.${i}.`)).flat(),
    ...normOf(names.norm),
    ...(c.tie_word_embeddings ? [] : [embedding("lm_head", c.vocab_size)]),
  ];
}

/** Whether it is an `nn.Embedding`'s weight; an output head is `nn.Linear`. */
export function isEmbedding({ name, shape, linear }: ParameterSpec): boolean {
  return !linear && shape.length === 2 && name !== "lm_head.weight";
}

/** A parameter's shape in Hugging Face's files. */
export function storedShape(spec: ParameterSpec): number[] {
  return spec.transposed ? spec.shape.toReversed() : spec.shape;
}

/** A parameter's elements in the order of Hugging Face's files. */
export function toStored(spec: ParameterSpec, data: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return spec.transposed ? transpose(data, spec.shape[0]!, spec.shape[1]!) : data;
}

/** The reverse of {@link toStored}. */
export function fromStored(spec: ParameterSpec, data: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return spec.transposed ? transpose(data, spec.shape[1]!, spec.shape[0]!) : data;
}

function transpose(x: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) out[c * rows + r] = x[r * columns + c]!;
  }
  return out;
}

/** Whether the file's tensor is the parameter's transpose. */
function turns(spec: ParameterSpec, info: TensorInfo): boolean {
  return spec.transposed && !info.quantized;
}

/**
 * A checkpoint as the model sees it: every parameter under its full name, linear layers `[out, in]`.
 *
 * Files of the bare base model have no `model.` or `transformer.` before their names (GPT-2's on the Hub): those are
 * found too. A tensor that must be turned is held whole while it is read; bitsandbytes has turned what it quantized.
 */
export function modelSource(source: TensorSource, specs: readonly ParameterSpec[]): TensorSource {
  const tensors = new Map<string, TensorInfo>();
  const places = new Map<string, { stored: string; spec: ParameterSpec }>();
  for (const spec of specs) {
    const stored = [spec.name, spec.name.replace(/^(model|transformer)\./, "")].find((n) =>
      source.tensors.has(n)
    );
    if (stored === undefined) continue;
    const info = source.tensors.get(stored)!;
    places.set(spec.name, { stored, spec });
    tensors.set(spec.name, {
      ...info,
      name: spec.name,
      shape: turns(spec, info) ? info.shape.toReversed() : info.shape,
    });
  }
  let turned: { name: string; values: Float32Array<ArrayBuffer> } | undefined;
  return {
    path: source.path,
    tensors,
    readF32(name, start, end) {
      const { stored, spec } = places.get(name)!;
      if (!turns(spec, source.tensors.get(stored)!)) return source.readF32(stored, start, end);
      if (turned?.name !== name) {
        const [out, into] = spec.shape as [number, number];
        turned = { name, values: transpose(source.readF32(stored), into, out) };
      }
      return turned.values.slice(start, end);
    },
    readBytes: (name, start, end) => source.readBytes(places.get(name)!.stored, start, end),
    readPlain(name, into, start) {
      const { stored, spec } = places.get(name)!;
      return turns(spec, source.tensors.get(stored)!) ? undefined : source.readPlain?.(stored, into, start);
    },
    ...(source.readQuantState
      ? { readQuantState: (name: string) => source.readQuantState!(places.get(name)!.stored) }
      : {}),
    close: () => source.close(),
  };
}
