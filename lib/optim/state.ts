/**
 * Optimizer state, on the device or in host memory, cut into chunks that are updated one after the other.
 *
 * Paged, as bitsandbytes means it: chunks beyond what the device may hold lie in host memory and pass through two
 * slots on the device. While one slot's chunk is updated, the other's goes home and the next one comes, so the
 * device takes two slots whatever the state's size. The numbers are those of state that never moves.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type BufferRange, gpu, type GpuBuffer, type Reader } from "../gpu/mod.ts";

/** One array of state beside the parameters. */
export interface StateField {
  /** Its name in checkpoints, before the page's. */
  name: string;
  /** The kernel's binding. */
  bind: string;
  dtype: "F32" | "U8";
  /** Elements of the parameters to one of its own: 1, or 256 for a number a block. */
  per: number;
}

/** Parameters whose state is laid out alike. */
export interface StatePage {
  /** Its name in checkpoints. */
  label: string;
  /** Elements of the parameters. */
  size: number;
  fields: readonly StateField[];
  /** Chunks begin at multiples of this. */
  granule: number;
}

/** How paged state is divided between device and host. */
export interface PagingOptions {
  /** Device bytes for chunks that stay, beside the slots; default 0: all large chunks live on the host. */
  residentBytes?: number;
  /** Bytes of each of the two slots; default 8 MiB. */
  slotBytes?: number;
}

/** Elements `[from, to)` of a page, and what the kernel binds as their state. */
export interface StateChunk {
  /** Index of the page. */
  page: number;
  from: number;
  to: number;
  bind: Readonly<Record<string, BufferRange>>;
}

/** An array of state, whole, in pieces one after the other. */
export interface SavedState {
  name: string;
  dtype: "F32" | "U8";
  shape: readonly number[];
  data: Uint8Array<ArrayBuffer>[];
}

/** The state of an optimizer. */
export interface OptimizerState {
  /** Bytes that lie in host memory. */
  readonly hostBytes: number;
  /**
   * Hands every chunk to `update`, which encodes what is done with it. Without chunks on the host all is encoded
   * before the call returns; with them it resolves when the last is back.
   */
  each(update: (chunk: StateChunk) => void): Promise<void>;
  save(): Promise<SavedState[]>;
  /** @param read bytes of the array of that name */
  load(read: (name: string) => Uint8Array<ArrayBuffer>): void;
  dispose(): void;
}

/** A chunk has a device buffer, or bytes on the host (none while all are zero), or no state at all. */
interface Held extends Omit<StateChunk, "bind"> {
  /** First byte of each field. */
  offsets: number[];
  bytes: number;
  buffer?: GpuBuffer;
  host?: Uint8Array<ArrayBuffer>;
}

interface Slot {
  buffer: GpuBuffer;
  reader: Reader;
}

/** 2^20 elements of 32-bit AdamW: their update takes about as long as the way home, which in Deno is 10 ms or more. */
const SLOT_BYTES = 8 * 2 ** 20;
/** A chunk below this part of a slot stays on the device: fetching it would cost a round trip for nothing. */
const SMALL_PART = 16;
const WIDTH = { F32: 4, U8: 1 };

/** Makes zero state for `pages`; with `paging` large chunks move to the host. */
export function createState(pages: readonly StatePage[], paging?: PagingOptions): OptimizerState {
  const slotBytes = paging?.slotBytes ?? SLOT_BYTES;
  const chunks = pages.flatMap((page, i) => cut(page, i, paging ? slotBytes : Infinity));
  const moving = paging ? toTheHost(chunks, slotBytes, paging.residentBytes ?? 0) : [];
  const away = new Set(moving), largest = moving.reduce((n, chunk) => Math.max(n, chunk.bytes), 0);
  for (const chunk of chunks) {
    if (away.has(chunk) || chunk.bytes === 0) continue;
    chunk.buffer = gpu().pool.acquire(chunk.bytes, "optimizer");
    gpu().stream.clear(chunk.buffer);
  }
  const slots: Slot[] = moving.slice(0, 2).map(() => ({
    buffer: gpu().pool.acquire(largest, "optimizer"),
    reader: gpu().stream.reader(largest),
  }));

  const ranges = (chunk: Held, buffer: GpuBuffer) =>
    pages[chunk.page]!.fields.map((field, k) => ({
      buffer,
      offset: chunk.offsets[k]!,
      bytes: fieldBytes(field, chunk.to - chunk.from),
    }));
  const handOver = (chunk: Held, buffer: GpuBuffer | undefined): StateChunk => {
    const all = buffer ? ranges(chunk, buffer) : [];
    const bind = Object.fromEntries(all.map((range, k) => [pages[chunk.page]!.fields[k]!.bind, range]));
    return { page: chunk.page, from: chunk.from, to: chunk.to, bind };
  };
  /** Every field of every page with its chunks, in order. */
  const arrays = pages.flatMap(({ label, fields, size }, page) => {
    const own = chunks.filter((chunk) => chunk.page === page);
    return fields.map((field, k) => ({ name: `${field.name}.${label}`, field, k, size, own }));
  });

  return {
    hostBytes: moving.reduce((n, chunk) => n + chunk.bytes, 0),
    async each(update) {
      const { stream } = gpu();
      const onTheirWay: Promise<void>[] = [];
      let turn = 0;
      try {
        for (const chunk of chunks) {
          if (!away.has(chunk)) {
            update(handOver(chunk, chunk.buffer));
            continue;
          }
          const k = turn++ % slots.length, { buffer, reader } = slots[k]!;
          await onTheirWay[k]; // what was in this slot is home
          if (chunk.host) stream.write(buffer, 0, chunk.host);
          else stream.clear(buffer, 0, chunk.bytes);
          update(handOver(chunk, buffer));
          onTheirWay[k] = reader.read(buffer, 0, chunk.bytes, chunk.host).then((host) => {
            chunk.host = host;
          });
          onTheirWay[k].catch(() => {}); // thrown where it is awaited
        }
      } finally {
        await Promise.all(onTheirWay);
      }
    },
    async save() {
      const parts = arrays.map(({ own, k }) =>
        own.filter((chunk) => chunk.buffer).map((chunk) => ranges(chunk, chunk.buffer!)[k]!)
      );
      const next = (await readAll(parts.flat())).values();
      return arrays.map(({ name, field, k, size, own }) => ({
        name,
        dtype: field.dtype,
        shape: [size / field.per],
        data: own.map((chunk) => {
          if (chunk.buffer) return new Uint8Array(next.next().value!);
          const bytes = fieldBytes(field, chunk.to - chunk.from), at = chunk.offsets[k]!;
          return chunk.host?.subarray(at, at + bytes) ?? new Uint8Array(bytes);
        }),
      }));
    },
    load(read) {
      for (const { name, field, k, size, own } of arrays) {
        const bytes = read(name), expected = fieldBytes(field, size);
        if (bytes.length !== expected) {
          throw new NibbleError("optim/state", `${name} has ${bytes.length} bytes, not ${expected}`, {
            remedy: "The checkpoint is of other parameters or of another optimizer.",
          });
        }
        for (const chunk of own) {
          const from = fieldBytes(field, chunk.from), at = chunk.offsets[k]!;
          const piece = bytes.subarray(from, fieldBytes(field, chunk.to));
          if (chunk.buffer) gpu().stream.write(chunk.buffer, at, piece);
          else (chunk.host ??= new Uint8Array(chunk.bytes)).set(piece, at);
        }
      }
    },
    dispose() {
      for (const { buffer } of [...chunks, ...slots]) if (buffer) gpu().pool.release(buffer);
      for (const { reader } of slots) reader.dispose();
      for (const chunk of chunks) delete chunk.host;
    },
  };
}

type ByteRange = Required<BufferRange>;

/** Reads ranges in as few readbacks as a mappable buffer of 256 MiB, WebGPU's smallest limit, allows. */
async function readAll(ranges: readonly ByteRange[]): Promise<ArrayBuffer[]> {
  const groups: ByteRange[][] = [];
  let bytes = Infinity;
  for (const range of ranges) {
    if (bytes + range.bytes > 2 ** 28) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)!.push(range);
    bytes += range.bytes;
  }
  const read: ArrayBuffer[] = [];
  for (const group of groups) read.push(...await gpu().stream.read(group));
  return read;
}

/** The chunks that move: all that are worth it, but what there is room for. Two slots must be less than they hold. */
function toTheHost(chunks: readonly Held[], slotBytes: number, residentBytes: number): Held[] {
  let room = residentBytes;
  const moving = chunks.filter(({ bytes }) => {
    if (bytes * SMALL_PART < slotBytes) return false;
    if (bytes > room) return true;
    room -= bytes;
    return false;
  });
  return moving.length > 2 ? moving : [];
}

function fieldBytes({ per, dtype }: StateField, elements: number): number {
  return elements / per * WIDTH[dtype];
}

/** Divides a page such that each chunk's parameters fit one binding and its state one buffer, or a slot. */
function cut({ size, fields, granule }: StatePage, page: number, most: number): Held[] {
  const { maxBinding, limits } = gpu();
  const each = fields.reduce((n, field) => n + WIDTH[field.dtype] / field.per, 0);
  const fit = Math.min(maxBinding / 4, Math.min(most, limits.maxBufferSize) / each - granule);
  const step = Math.max(granule, Math.floor(fit / granule) * granule);
  const chunks: Held[] = [];
  for (let from = 0; from < size; from += step) {
    const to = Math.min(size, from + step);
    let bytes = 0;
    const offsets = fields.map((field) => {
      const at = bytes;
      bytes += Math.ceil(fieldBytes(field, to - from) / 256) * 256;
      return at;
    });
    chunks.push({ page, from, to, offsets, bytes });
  }
  return chunks;
}
