/**
 * The quantization room: code books, blockwise and double quantization, 4-bit tensors on the device.
 * @module
 */
export {
  CODE_BOOKS,
  type CodeBook,
  codeBook,
  dynamicMap,
  mapThresholds,
  type QuantType,
} from "./code_books.ts";
export { dequantize, dequantizeRows } from "./dequantize.ts";
export { GEMV_MAX_ROWS, gemvFits, gemvQuantized, gemvTiling } from "./gemv.ts";
export { chooseQuantized, matmulQuantized, type QuantizedKernel, type QuantizedMatmul } from "./matmul.ts";
export { quantizedTunables } from "./matmul_tuning.ts";
export { decodeAbsmax, dequantize8bit, dequantizeOracle, quantize8bit, quantizeOracle } from "./oracle.ts";
export { type QuantState } from "./quant_state.ts";
export {
  createQuantized,
  finishQuantized,
  quantize,
  type QuantizeOptions,
  quantizeRows,
  rowQuantum,
} from "./quantize.ts";
export { type NestedScales, QuantizedTensor } from "./quantized_tensor.ts";
export { refinable, refine, roundAhead } from "./refine.ts";
export { type LowRankWeights, QuantizedStack, type StackedWeight, stackFits } from "./stack.ts";
export { fromQuantState, toQuantState } from "./transfer.ts";
