/**
 * Optimizers and schedules: all state on the device.
 * @module
 */
export { createOptimizer, type Optimizer, type OptimizerOptions, type StepOptions } from "./optimizer.ts";
export { createParameterPages, type Page, type PageEntry, type ParameterPages } from "./pages.ts";
export { learningRate, type Schedule, warmupSteps } from "./schedules.ts";
