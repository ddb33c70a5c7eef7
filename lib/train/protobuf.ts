/**
 * Protobuf's wire format, as far as event files and Weights & Biases need it: a key (field number and kind), then the
 * value (protobuf.dev, "Encoding").
 * @module
 */
import { NibbleError } from "../errors.ts";

/** A whole number of up to 53 bits, seven bits a byte, the lowest first. */
function varint(value: number): number[] {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new NibbleError("train/bad-step", `A step must be a whole number from 0 on, not ${value}`);
  }
  const bytes = [];
  // Division and not shifts: shifts would cut a step at 32 bits.
  for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80);
  bytes.push(value);
  return bytes;
}

/** A whole number from 0 on. */
export function varintField(number: number, value: number): number[] {
  return [...varint(number * 8), ...varint(value)];
}

/** Bytes, or a message inside a message. */
export function bytesField(number: number, bytes: ArrayLike<number>): number[] {
  return [...varint(number * 8 + 2), ...varint(bytes.length), ...Array.from(bytes)];
}

/** Text in UTF-8. */
export function stringField(number: number, text: string): number[] {
  return bytesField(number, new TextEncoder().encode(text));
}

/** A number in 32 bits. */
export function floatField(number: number, value: number): number[] {
  return [...varint(number * 8 + 5), ...new Uint8Array(Float32Array.of(value).buffer)];
}

/** A number in 64 bits. */
export function doubleField(number: number, value: number): number[] {
  return [...varint(number * 8 + 1), ...new Uint8Array(Float64Array.of(value).buffer)];
}
