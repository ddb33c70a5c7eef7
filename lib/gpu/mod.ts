/**
 * The GPU room: device, buffers, kernels, one command stream. It knows nothing of machine learning.
 * @module
 */
export {
  type AdapterKind,
  adapterKind,
  environment,
  type Gpu,
  gpu,
  type GpuFeatures,
  type GpuOptions,
  openGpu,
} from "./device.ts";
export { type Rehearsal, rehearse } from "./dry.ts";
export { type BufferRange, defineKernel, type Kernel, type LaunchOptions } from "./kernel.ts";
export {
  BUFFER_KINDS,
  type BufferKind,
  byKind,
  type GpuBuffer,
  type GpuTexture,
  type MemoryReport,
  mib,
  TEXEL_BYTES,
  type TextureShape,
} from "./pool.ts";
export { type KernelTime, profile } from "./profile.ts";
export { type CommandStream, type Reader, type StreamCounters } from "./stream.ts";
export {
  type Choices,
  type Clock,
  deviceClock,
  type Measured,
  type Probe,
  storedTuning,
  type Tunable,
  tuneDevice,
  type TuneDeviceOptions,
  type TunedKernel,
  type TuneStore,
  type Tuning,
} from "./tuner.ts";
export { tuningOff } from "./tuning_file.ts";
export { reflect, type Specialization, specialize } from "./wgsl.ts";
