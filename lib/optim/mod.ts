/**
 * Parameters in pages, optimizers and learning-rate schedules.
 * @module
 */
export {
  findOptimizer,
  OPTIMIZER_ALIASES,
  type OptimizerEntry,
  type OptimizerName,
  OPTIMIZERS,
  readOptimArgs,
} from "./catalog.ts";
export { decays } from "./decay.ts";
export {
  createOptimizer,
  METRICS,
  type Optimizer,
  type OptimizerSettings,
  type StepOptions,
} from "./optimizer.ts";
export {
  createParameterPages,
  MIN_8BIT_SIZE,
  type ParameterPage,
  type ParameterPages,
  type ParameterSpec,
} from "./pages.ts";
export {
  checkSchedule,
  learningRate,
  type ScheduleKwargs,
  type SchedulePoint,
  SCHEDULES,
  warmupSteps,
} from "./schedules.ts";
export { type PagingOptions, type SavedState } from "./state.ts";
