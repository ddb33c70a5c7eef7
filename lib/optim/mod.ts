/**
 * Parameters in pages, optimizers and learning-rate schedules.
 * @module
 */
export {
  createOptimizer,
  METRICS,
  type Optimizer,
  OPTIMIZERS,
  type OptimizerSettings,
  type StepOptions,
} from "./optimizer.ts";
export {
  createParameterPages,
  type ParameterPage,
  type ParameterPages,
  type ParameterSpec,
} from "./pages.ts";
export {
  learningRate,
  type ScheduleKwargs,
  type SchedulePoint,
  SCHEDULES,
  warmupSteps,
} from "./schedules.ts";
