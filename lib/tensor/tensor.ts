/**
 * Tensors: a shape, an element type and a range of one device buffer, owned by a scope.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type BufferKind, type BufferRange, gpu, type GpuBuffer } from "../gpu/mod.ts";

/** Element types. `f16` and `bf16` are storage only: kernels compute in f32. */
export type DType = "f32" | "f16" | "bf16" | "u32" | "i32";

/** Bytes of one element. */
export const BYTES: Record<DType, number> = { f32: 4, f16: 2, bf16: 2, u32: 4, i32: 4 };

/** Typed arrays that tensors are made from. */
export type HostArray = Float32Array | Uint32Array | Int32Array | Uint16Array;

/** A dense row-major tensor on the device. Dispose it, or make it inside a {@link scope} that does. */
export class Tensor {
  /** Length of each axis, the last of which runs fastest. */
  readonly shape: readonly number[];
  /** Element type. */
  readonly dtype: DType;
  /** The device's buffer, shared with views. */
  readonly buffer: GpuBuffer;
  /** Bytes from the buffer's start, a multiple of 256. */
  readonly offset: number;
  /** Hugging Face's parameter name, where it is a parameter. */
  name: string | undefined;
  /** Whether backward computes a gradient for it. */
  requiresGrad = false;
  /** A parameter's gradient, preallocated; backward adds to it. */
  grad: Tensor | undefined;
  #disposed = false;

  /** Over a buffer that it owns from now on, in the scope that is open; numbers come in through `tensor`. */
  constructor(shape: readonly number[], dtype: DType, buffer: GpuBuffer, offset = 0) {
    this.shape = shape;
    this.dtype = dtype;
    this.buffer = buffer;
    this.offset = offset;
    scopes.at(-1)?.add(this);
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  /** Bytes of the elements. */
  get bytes(): number {
    return this.size * BYTES[this.dtype];
  }

  /** Elements of the last axis. */
  get columns(): number {
    return this.shape.at(-1) ?? 1;
  }

  /** Product of all axes but the last. */
  get rows(): number {
    return this.size / this.columns;
  }

  /** Whether the buffer was given back. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** The whole tensor as a kernel binding. */
  get range(): BufferRange {
    return { buffer: this.buffer, offset: this.offset, bytes: this.bytes };
  }

  /** Rows `[from, to)` of the matrix of `rows` x `columns` as a kernel binding. */
  rowRange(from: number, to: number): BufferRange {
    const row = this.columns * BYTES[this.dtype];
    return { buffer: this.buffer, offset: this.offset + from * row, bytes: (to - from) * row };
  }

  /** Another shape over the same bytes; owns the buffer together with this tensor. */
  view(shape: readonly number[]): Tensor {
    const size = shape.reduce((a, b) => a * b, 1);
    if (size !== this.size) {
      throw shapeError("view", `[${this.shape}] has ${this.size} elements, [${shape}] ${size}`);
    }
    this.buffer.references++;
    return new Tensor(shape, this.dtype, this.buffer, this.offset);
  }

  /** Rows `[from, to)` over the same bytes; `from` rows must be a multiple of 256 bytes. Not recorded. */
  slice(from: number, to: number): Tensor {
    const start = from * this.columns * BYTES[this.dtype];
    if (start % 256 !== 0) {
      throw shapeError("slice", `row ${from} of [${this.shape}] starts at byte ${start}`);
    }
    this.buffer.references++;
    return new Tensor([to - from, this.columns], this.dtype, this.buffer, this.offset + start);
  }

  /** Gives the buffer back. Calling it again does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    gpu().pool.release(this.buffer);
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Reads the elements back (one readback, at least 10 ms). f16 and bf16 arrive as f32. */
  async data(): Promise<Float32Array<ArrayBuffer>> {
    const [bytes] = await gpu().stream.read([{
      buffer: this.buffer,
      offset: this.offset,
      bytes: this.bytes,
    }]);
    if (this.dtype === "f32") return new Float32Array(bytes!);
    if (this.dtype === "f16") return new Float32Array(new Float16Array(bytes!));
    if (this.dtype === "bf16") {
      return new Float32Array(Uint32Array.from(new Uint16Array(bytes!), (b) => b << 16).buffer);
    }
    return Float32Array.from(this.dtype === "u32" ? new Uint32Array(bytes!) : new Int32Array(bytes!));
  }

  /** Overwrites the elements from `start` on. */
  write(data: HostArray, start = 0): void {
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    gpu().stream.write(this.buffer, this.offset + start * BYTES[this.dtype], padded(bytes));
  }
}

function padded(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (bytes.length % 4 === 0) return bytes;
  const out = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  out.set(bytes);
  return out;
}

const scopes: Set<Tensor>[] = [];

/**
 * Runs `work` and disposes every tensor made in it, except those it returns (alone, in an array or as values of
 * an object), which pass to the scope around.
 *
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { scope, tensor } from "./tensor.ts";
 * await openGpu();
 * const kept = scope(() => {
 *   tensor([1, 2], [2]); // disposed
 *   return tensor([3, 4], [2]);
 * });
 * if (kept.disposed) throw new Error("the result must survive");
 * kept.dispose();
 * ```
 */
export function scope<T>(work: () => T): T {
  const made = new Set<Tensor>();
  scopes.push(made);
  let result: T | undefined;
  try {
    return result = work();
  } finally {
    scopes.pop();
    const outer = scopes.at(-1);
    const kept = new Set(tensorsIn(result));
    for (const t of made) {
      if (!kept.has(t)) t.dispose();
      else outer?.add(t);
    }
  }
}

/** Takes a tensor out of every scope: its owner disposes it from now on. */
export function keep<T extends Tensor>(t: T): T {
  for (const s of scopes) s.delete(t);
  return t;
}

function tensorsIn(value: unknown): Tensor[] {
  if (value instanceof Tensor) return [value];
  if (Array.isArray(value)) return value.flatMap(tensorsIn);
  if (value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.values(value).flatMap(tensorsIn);
  }
  return [];
}

/** A tensor with undefined contents. */
export function empty(
  shape: readonly number[],
  dtype: DType = "f32",
  kind: BufferKind = "activation",
): Tensor {
  const bytes = shape.reduce((a, b) => a * b, 1) * BYTES[dtype];
  return new Tensor(shape, dtype, gpu().pool.acquire(bytes, kind));
}

/** A tensor of zeros. */
export function zeros(
  shape: readonly number[],
  dtype: DType = "f32",
  kind: BufferKind = "activation",
): Tensor {
  const t = empty(shape, dtype, kind);
  gpu().stream.clear(t.buffer);
  return t;
}

/**
 * A tensor from host numbers, row-major.
 *
 * @param data as many elements as `shape` has; plain arrays become f32
 * @throws NibbleError `tensor/shape` when the counts differ
 */
export function tensor(
  data: HostArray | readonly number[],
  shape: readonly number[],
  dtype?: DType,
  kind: BufferKind = "activation",
): Tensor {
  const type = dtype ?? (data instanceof Uint32Array ? "u32" : data instanceof Int32Array ? "i32" : "f32");
  const size = shape.reduce((a, b) => a * b, 1);
  if (data.length !== size) {
    throw shapeError("tensor", `${data.length} numbers for shape [${shape}] (${size})`);
  }
  const t = empty(shape, type, kind);
  t.write(ArrayBuffer.isView(data) ? data : Float32Array.from(data));
  return t;
}

/**
 * `[rows, columns]` in a buffer for `room` rows. For what has another length in every step: as long as the room is the
 * same, the pool hands out the same buffers again.
 */
export function emptyRows(rows: number, columns: number, room: number, dtype: DType = "f32"): Tensor {
  const whole = empty([room, columns], dtype);
  const part = whole.slice(0, rows);
  whole.dispose();
  return part;
}

/** Integers from the host as `[length, 1]`, in a buffer for `room` of them; see {@link emptyRows}. */
export function indices(data: Uint32Array<ArrayBuffer>, room: number): Tensor {
  const t = emptyRows(data.length, 1, room, "u32");
  t.write(data);
  return t;
}

/** An error that shows the shapes. */
export function shapeError(op: string, what: string): NibbleError {
  return new NibbleError("tensor/shape", `${op}: ${what}`);
}
