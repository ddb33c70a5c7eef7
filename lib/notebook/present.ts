/**
 * nibble's own things show themselves: as the last value of a cell, by `show`, and in a terminal, where they are text.
 * Tensors do so by their class; models, adapters, recipes, plans and results are plain objects, and get it where
 * they are made.
 * @module
 */
import { gpu } from "../gpu/mod.ts";
import { QuantizedTensor } from "../quant/mod.ts";
import { Tensor } from "../tensor/tensor.ts";
import { heatChart } from "./chart.ts";
import { bytesText, escapeHtml, figures, type Table, tableHtml, tableText } from "./html.ts";
import type { MimeBundle } from "./kernel.ts";
import { svgOf } from "./svg.ts";

/** Under this key Jupyter's Deno kernel looks for a method that returns forms by MIME type. */
export const DISPLAY = Symbol.for("Jupyter.display");
const INSPECT = Symbol.for("Deno.customInspect");

/** How something is shown. */
export interface Presentation {
  /** One line that says what it is. */
  title: string;
  /** What follows it. */
  table?: Table;
  /** Text in place of the table, where that is another. */
  text?: string;
  /** HTML below the table. */
  html?: string;
}

/** Forms of a presentation. */
export function presentationBundle({ title, table, text, html }: Presentation): MimeBundle {
  return {
    "text/html": `<p><b>${escapeHtml(title)}</b></p>${table ? tableHtml(table) : ""}${html ?? ""}`,
    "text/plain": [title, text ?? (table && tableText(table))].filter(Boolean).join("\n"),
  };
}

/** Gives an object its presentation, and returns it. The keys cannot be listed, so copies and comparisons see nothing. */
export function presented<T extends object>(thing: T, present: (thing: T) => Presentation): T {
  const bundle = () => presentationBundle(present(thing));
  Object.defineProperty(thing, DISPLAY, { value: bundle, configurable: true });
  Object.defineProperty(thing, INSPECT, { value: () => bundle()["text/plain"], configurable: true });
  return thing;
}

/** Rows and columns of a tensor that its picture and its text show at most. */
const PICTURE = 32, NUMBERS = 8;

/** `Tensor f32 [9, 100], 3.5 KiB` */
function tensorTitle(t: Tensor): string {
  return `Tensor ${t.dtype} [${t.shape.join(", ")}], ${bytesText(t.bytes)}${
    t.disposed ? ", given back" : ""
  }`;
}

/** Shape, type, bytes, the first numbers, and a picture of the first rows. Reads those rows and no more. */
export async function presentTensor(t: Tensor): Promise<MimeBundle> {
  const title = tensorTitle(t);
  if (t.disposed || t.size === 0) return presentationBundle({ title });
  const { columns } = t, rows = Math.min(PICTURE, t.rows);
  const values = await firstRows(t, rows);
  const head = (count: number) =>
    Array.from({ length: Math.min(count, rows) }, (_, i) => {
      const from = i * columns;
      return [...values.subarray(from, from + Math.min(count, columns))];
    });
  const lines = head(NUMBERS).map((row) =>
    row.map((v) => figures(v).padStart(9)).join(" ") + (columns > NUMBERS ? " ..." : "")
  );
  const text = [...lines, ...(t.rows > NUMBERS ? ["..."] : [])].join("\n");
  if (t.size === 1) return presentationBundle({ title, text, html: `<pre>${escapeHtml(text)}</pre>` });
  const shown = columns > PICTURE || t.rows > PICTURE ? "its first rows and columns" : "";
  const signed = values.some((v) => v < 0);
  const picture = svgOf([heatChart(head(PICTURE), { title: shown, diverging: signed })], 420);
  return presentationBundle({ title, text, html: picture });
}

async function firstRows(t: Tensor, rows: number): Promise<Float32Array> {
  const part = new Tensor([rows, t.columns], t.dtype, t.buffer, t.offset);
  t.buffer.references++;
  try {
    return await part.data();
  } finally {
    part.dispose();
  }
}

/** Shape, code book, bits, and a picture of the first codes. */
export async function presentQuantized(q: QuantizedTensor): Promise<MimeBundle> {
  const title = `QuantizedTensor ${q.quantType} [${q.shape.join(", ")}], ${bytesText(q.bytes)}`;
  const table = [{
    "block size": q.blocksize,
    scales: q.nested ? "8 bits (double quantization)" : "32 bits",
    "bits a number": (8 * q.bytes / q.size).toFixed(3),
    "as f32": bytesText(4 * q.size),
  }];
  if (q.packed.disposed) return presentationBundle({ title: `${title}, given back` });
  const rows = Math.min(16, q.rows), columns = Math.min(PICTURE, q.columns);
  const [bytes] = await gpu().stream.read([
    {
      buffer: q.packed.buffer,
      offset: q.packed.offset,
      bytes: Math.min(q.packed.bytes, Math.ceil(rows * q.columns / 2)),
    },
  ]);
  const packed = new Uint8Array(bytes!);
  const code = (i: number) => i % 2 ? packed[i >> 1]! & 15 : packed[i >> 1]! >> 4;
  const codes = Array.from(
    { length: rows },
    (_, r) => Array.from({ length: columns }, (_, c) => q.codeBook.values[code(r * q.columns + c)]!),
  );
  const options = {
    title: "its first codes, decoded",
    diverging: true,
    range: [-1, 1] as const,
  };
  return presentationBundle({ title, table, html: svgOf([heatChart(codes, options)], 420) });
}

/** Lets the two tensor classes show themselves. */
function presentClasses(): void {
  const own = <T>(prototype: object, display: (x: T) => Promise<MimeBundle>, inspect: (x: T) => string) => {
    Object.defineProperty(prototype, DISPLAY, {
      value(this: T) {
        return display(this);
      },
      configurable: true,
    });
    Object.defineProperty(prototype, INSPECT, {
      value(this: T) {
        return inspect(this);
      },
      configurable: true,
    });
  };
  own<Tensor>(Tensor.prototype, presentTensor, tensorTitle);
  own<QuantizedTensor>(
    QuantizedTensor.prototype,
    presentQuantized,
    (q) => `QuantizedTensor ${q.quantType} [${q.shape.join(", ")}], ${bytesText(q.bytes)}`,
  );
}
presentClasses();
