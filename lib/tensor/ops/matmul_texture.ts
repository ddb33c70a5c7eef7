/**
 * Matrix products on llvmpipe, whose storage buffers are read lane by lane: operands go through textures.
 * @module
 */
import { type Gpu, gpu, reflect, specialize } from "../../gpu/mod.ts";
import source from "../../../wgsl/matmul_texture.wgsl" with { type: "text" };
import type { MatmulLayout, Piece } from "./matmul_kernel.ts";

/** Texels of one texture row; the kernel's `texel` knows it too. */
const WIDTH = 2048;

/** Formats of f32, f16 and bf16 (decoded by the kernel), four elements a texel. */
const FORMATS = ["rgba32float", "rgba16float", "rgba16uint"] as const;

interface Scratch {
  texture: GPUTexture;
  view: GPUTextureView;
  rows: number;
}

interface TextureKernels {
  pipelines: Map<string, GPUComputePipeline>;
  scratch: Map<string, Scratch>;
}

const ofDevice = new WeakMap<GPUDevice, TextureKernels>();
const params = reflect(source).params;

/** Vector lanes of the adapter if it is llvmpipe and its subgroups work, or 0. */
export function vectorLanes(target: Pick<Gpu, "name" | "features">): number {
  const bits = /^llvmpipe .*\b(128|256|512) bits/.exec(target.name)?.[1];
  return bits && target.features.subgroups ? Number(bits) / 32 : 0;
}

/** Whether rows of all operands begin on whole texels. */
export function fitsTexels({ layout, M, N, K, x0, y0, ldy }: Piece): boolean {
  const widths = [N, x0, y0, ldy, layout === "tn" ? M : K];
  return widths.every((n) => n % 4 === 0);
}

/** Rows of y a workgroup computes: 8, 16 or 32, without much waste. */
export function textureTile(M: number, lanes: number, layout: MatmulLayout): number {
  const tile = [8, 16, 32].find((t) => M <= t && t >= lanes) ?? 32;
  return layout === "tn" ? Math.min(tile, 4 * lanes) : tile;
}

/**
 * Blocks of four columns a lane computes: with two, each texel of x serves twice as many products. At 512 rows and the
 * shapes of SmolLM2-135M: 1.2 times as fast as one block in `nt`, 1.5 times in `nn`; three were slower than two, and so
 * were tiles of 64 rows.
 */
export function textureBlocks(N: number, lanes: number, layout: MatmulLayout): 1 | 2 {
  return layout !== "tn" && N > 4 * lanes ? 2 : 1;
}

/** Copies the operands of `piece` into textures and launches the product. `fresh` is false where x is there already. */
export function launchTexture(piece: Piece, fresh: boolean): void {
  const { device, stream } = gpu();
  const { layout, M, N, wKind } = piece;
  const lanes = vectorLanes(gpu());
  let kernels = ofDevice.get(device);
  if (!kernels) ofDevice.set(device, kernels = { pipelines: new Map(), scratch: new Map() });
  stream.flush(); // the copies come after what is encoded
  const encoder = device.createCommandEncoder();
  const x = upload(kernels, encoder, "x", piece.x, 0, fresh);
  const w = upload(kernels, encoder, "w", piece.w, wKind, true);
  // bound in any case, read only to add to
  const before = piece.accumulate ? upload(kernels, encoder, "y", piece.y, 0, true) : x;
  device.queue.submit([encoder.finish()]);

  const tile = textureTile(M, lanes, layout);
  const entry = layout === "tn" ? "columns" : "rows";
  const blocks = textureBlocks(N, lanes, layout);
  const pipeline = compile(kernels, entry, {
    TM: tile,
    NB: blocks,
    LANES: lanes,
    W_ROWS: layout === "nt",
    BF16: wKind === 2,
    ACCUMULATE: piece.accumulate,
  });
  const { K, y0, ldy, alpha } = piece;
  const [x0, ldx, ldw] = [piece.x0 / 4, piece.ldx / 4, piece.ldw / 4];
  const values: Record<string, number> = { M, N, K, x0, ldx, ldw, y0, ldy, alpha };
  const block = new ArrayBuffer(48);
  const view = new DataView(block);
  params.forEach(({ name, type }, i) => {
    if (type === "f32") view.setFloat32(4 * i, values[name]!, true);
    else view.setUint32(4 * i, values[name]!, true);
  });
  const uniforms = { buffer: stream.uniforms, size: block.byteLength };
  const y = { buffer: piece.y.buffer.raw, offset: piece.y.offset ?? 0, size: piece.y.bytes! };
  const resources = [uniforms, x.view, w.view, y, before.view];
  const bindGroup = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: resources.map((resource, binding) => ({ binding, resource })),
  });
  stream.launch({
    label: `matmul_texture.${entry}`,
    pipeline,
    bindGroup,
    uniformOffset: stream.uniformSlot(block),
    groups: [Math.ceil(N / (4 * lanes * blocks)), Math.ceil(M / tile), 1],
  });
}

function compile(
  kernels: TextureKernels,
  entry: string,
  consts: Record<string, number | boolean>,
): GPUComputePipeline {
  const key = `${entry} ${JSON.stringify(consts)}`;
  const known = kernels.pipelines.get(key);
  if (known) return known;
  const { device } = gpu();
  const bf16 = consts.BF16 === true;
  const code = specialize(source, { consts, types: { W: bf16 ? "texture_2d<u32>" : "texture_2d<f32>" } });
  const visibility = GPUShaderStage.COMPUTE;
  const float = { sampleType: "unfilterable-float" } as const;
  const layout = device.createBindGroupLayout({
    entries: [
      { binding: 0, visibility, buffer: { type: "uniform", hasDynamicOffset: true } },
      { binding: 1, visibility, texture: float },
      { binding: 2, visibility, texture: bf16 ? { sampleType: "uint" } : float },
      { binding: 3, visibility, buffer: { type: "storage" } },
      { binding: 4, visibility, texture: float },
    ],
  });
  const pipeline = device.createComputePipeline({
    label: `matmul_texture.${entry}`,
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module: device.createShaderModule({ label: "matmul_texture", code }), entryPoint: entry },
  });
  kernels.pipelines.set(key, pipeline);
  return pipeline;
}

/** Copies a range into the scratch texture of that operand and format, which grows as needed. */
function upload(
  { scratch }: TextureKernels,
  encoder: GPUCommandEncoder,
  operand: "x" | "w" | "y",
  range: Piece["x"],
  kind: 0 | 1 | 2,
  fresh: boolean,
): Scratch {
  const { device } = gpu();
  const texels = Math.ceil(range.bytes! / (kind === 0 ? 16 : 8));
  const rows = Math.ceil(texels / WIDTH);
  const key = `${operand}${kind}`;
  let target = scratch.get(key);
  if (!target || target.rows < rows) {
    target?.texture.destroy();
    const height = 2 ** Math.ceil(Math.log2(rows));
    const usage = GPUTextureUsage.COPY_DST | GPUTextureUsage.TEXTURE_BINDING;
    const texture = device.createTexture({ label: key, size: [WIDTH, height], format: FORMATS[kind], usage });
    scratch.set(key, target = { texture, view: texture.createView(), rows: height });
    fresh = true;
  }
  if (!fresh) return target;
  const bytesPerRow = WIDTH * (kind === 0 ? 16 : 8);
  const buffer = range.buffer.raw, offset = range.offset ?? 0, texture = target.texture;
  const whole = Math.floor(texels / WIDTH);
  if (whole > 0) encoder.copyBufferToTexture({ buffer, offset, bytesPerRow }, { texture }, [WIDTH, whole]);
  if (texels > whole * WIDTH) {
    const last = { buffer, offset: offset + whole * bytesPerRow };
    encoder.copyBufferToTexture(last, { texture, origin: [0, whole] }, [texels - whole * WIDTH, 1]);
  }
  return target;
}
