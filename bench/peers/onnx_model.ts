/**
 * An ONNX model of one node, as bytes (onnx.proto3 of ONNX 1.17, opset 17): enough to run one operator.
 * @module
 */

/** A message's fields: number and value; a list is a message inside. */
type Fields = [number: number, value: number | string | Uint8Array | Fields][];

/** An input of the graph with fixed shape, f32. */
export interface Value {
  name: string;
  shape: readonly number[];
}

/** A constant of the graph. */
export interface Constant extends Value {
  data: Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;
}

/** What the node is. */
export interface Node {
  operator: string;
  /** Empty for ONNX's own operators. */
  domain: string;
  attributes: Readonly<Record<string, number>>;
  input: Value;
  constants: readonly Constant[];
  output: Value;
}

const FLOAT = 1, UINT8 = 2, INT_ATTRIBUTE = 2;

/** The bytes of a model whose graph is this node. */
export function onnxModel({ operator, domain, attributes, input, constants, output }: Node): Uint8Array {
  const node: Fields = [
    ...[input, ...constants].map(({ name }): Fields[number] => [1, name]),
    [2, output.name],
    [4, operator],
    ...Object.entries(attributes).map((
      [name, i],
    ): Fields[number] => [5, [[1, name], [3, i], [20, INT_ATTRIBUTE]]]),
    [7, domain],
  ];
  const graph: Fields = [
    [1, node],
    [2, "graph"],
    ...constants.map(({ name, shape, data }): Fields[number] => [5, [
      ...shape.map((n): Fields[number] => [1, n]),
      [2, data instanceof Uint8Array ? UINT8 : FLOAT],
      [8, name],
      [9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)],
    ]]),
    [11, valueInfo(input)],
    [12, valueInfo(output)],
  ];
  return message([
    [1, 8], // IR version
    [8, [[1, ""], [2, 17]]],
    [8, [[1, "com.microsoft"], [2, 1]]],
    [7, graph],
  ]);
}

function valueInfo({ name, shape }: Value): Fields {
  const dims: Fields = shape.map((n) => [1, [[1, n]]]);
  return [[1, name], [2, [[1, [[1, FLOAT], [2, dims]]]]]];
}

/** Protobuf's wire format: varints, and everything else with its length before it. */
function message(fields: Fields): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [number, value] of fields) {
    if (typeof value === "number") parts.push(varint(number << 3), varint(value));
    else {
      const bytes = typeof value === "string"
        ? new TextEncoder().encode(value)
        : value instanceof Uint8Array
        ? value
        : message(value);
      parts.push(varint(number << 3 | 2), varint(bytes.length), bytes);
    }
  }
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(value % 128 + 128);
  return Uint8Array.from([...bytes, value]);
}
