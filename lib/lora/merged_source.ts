/**
 * A model's files with an adapter merged in as they are read: what training goes on from where a recipe names an
 * adapter as its model.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  adapterHash,
  type AdapterTensor,
  MERGED_ADAPTERS,
  type MergedAdapter,
  type ModelFiles,
  parseAdapterKey,
  readAdapter,
  type TensorSource,
} from "../formats/mod.ts";
import { loraConfigOf } from "./config.ts";
import { rankAndScale } from "./targets.ts";

/** What an adapter does to one weight. */
interface Change {
  /** `[out, r]` and `[r, in]`, exchanged and transposed where the file holds `[in, out]`. */
  left: (row: number, k: number) => number;
  right: Float32Array[];
  scaling: number;
  /** DoRA's magnitude of each row. */
  magnitude: Float32Array | undefined;
}

/**
 * The files of `W + s B A`, computed in f32 from the stored W, piece by piece; a base in 4 bits is then quantized
 * once, from the sum. (PEFT merges into the 4-bit weight and quantizes it again, which rounds small updates away.)
 * `config` lists the adapter under {@link MERGED_ADAPTERS}, so that adapters trained on the result name their parent.
 *
 * @param folder of the adapter
 * @param name as it is known to the user
 * @throws NibbleError `lora/unsupported` for adapters that a plain weight cannot take in, `lora/shape`
 */
export function mergedFiles(files: ModelFiles, folder: string, name: string): ModelFiles {
  const { config: saved, tensors } = readAdapter(folder);
  const { source, config } = files;
  const refuse = (what: string) => {
    throw new NibbleError("lora/unsupported", `${what} cannot be merged while the base is read`, {
      where: folder,
      remedy: "Merge it into a model folder first (mergeAdapter), and name that folder.",
    });
  };
  if (/pissa|olora/i.test(String(saved.init_lora_weights))) {
    refuse(`An adapter with init_lora_weights: ${saved.init_lora_weights}`);
  }
  const lora = loraConfigOf(saved, []);
  const changes = new Map<string, Change>();
  const replaced = new Map<string, Float32Array>();
  for (const [key, tensor] of tensors) {
    const { module, part } = parseAdapterKey(key);
    if (part === "lora_B" || part === "lora_magnitude_vector") continue;
    const target = part === "full" ? module.replace(".base_layer.", ".") : `${module}.weight`;
    const info = source.tensors.get(target);
    if (!info || part.startsWith("lora_embedding")) return refuse(`'${key}'`);
    if (part === "full") {
      checkShape(folder, key, tensor.shape, info.shape);
      replaced.set(target, tensor.data);
      continue;
    }
    const b = tensors.get(key.replace("lora_A", "lora_B"))!;
    const { scaling } = rankAndScale({ ...lora, rank_pattern: {}, r: tensor.shape[0]! }, module);
    const change = changeOf(tensor, b, scaling, saved.fan_in_fan_out);
    checkShape(
      folder,
      key,
      saved.fan_in_fan_out ? [tensor.shape[1]!, b.shape[0]!] : [b.shape[0]!, tensor.shape[1]!],
      info.shape,
    );
    const magnitude = tensors.get(key.replace("lora_A.weight", "lora_magnitude_vector"))?.data;
    if (magnitude && saved.fan_in_fan_out) refuse("DoRA on transposed weights");
    changes.set(target, { ...change, magnitude });
  }
  const merged: MergedAdapter = {
    adapter: name,
    adapter_hash: adapterHash(folder),
    base: saved.base_model_name_or_path,
    base_revision: saved.revision,
    ...(saved.nibble?.base_hash ? { base_hash: saved.nibble.base_hash } : {}),
  };
  const parents = (config[MERGED_ADAPTERS] as MergedAdapter[] | undefined) ?? [];
  // a base that is stored in 4 bits is decoded: the sum is quantized anew, if at all
  const { quantization_config: _, ...plain } = config;
  return {
    ...files,
    config: { ...plain, [MERGED_ADAPTERS]: [...parents, merged] },
    source: mergedSource(source, changes, replaced),
  };
}

function changeOf(
  a: AdapterTensor,
  b: AdapterTensor,
  scaling: number,
  transposed: boolean,
): Omit<Change, "magnitude"> {
  const [r, into] = a.shape as [number, number], [out] = b.shape as [number];
  const rowsOf = (data: Float32Array, width: number) =>
    Array.from({ length: r }, (_, k) => data.subarray(k * width, (k + 1) * width));
  if (!transposed) return { left: (row, k) => b.data[row * r + k]!, right: rowsOf(a.data, into), scaling };
  const right = Array.from(
    { length: r },
    (_, k) => Float32Array.from({ length: out }, (_, o) => b.data[o * r + k]!),
  );
  return { left: (row, k) => a.data[k * into + row]!, right, scaling };
}

function checkShape(folder: string, key: string, got: readonly number[], wanted: readonly number[]): void {
  if (`${got}` === `${wanted}`) return;
  throw new NibbleError("lora/shape", `'${key}' is for a weight of [${got}], the base has [${wanted}]`, {
    where: folder,
    remedy: "The adapter belongs to a model of another size.",
  });
}

function mergedSource(
  base: TensorSource,
  changes: ReadonlyMap<string, Change>,
  replaced: ReadonlyMap<string, Float32Array>,
): TensorSource {
  return {
    path: base.path,
    tensors: new Map([...base.tensors].map(([name, { quantized: _, ...info }]) => [name, info])),
    readBytes: (name, start, end) => base.readBytes(name, start, end), // the base's: what fingerprints are made of
    readPlain: (name, into, start) =>
      replaced.has(name) || changes.has(name) ? undefined : base.readPlain?.(name, into, start),
    close: () => base.close(),
    readF32(name, start = 0, end) {
      const whole = replaced.get(name);
      if (whole) return whole.slice(start, end) as Float32Array<ArrayBuffer>;
      const change = changes.get(name);
      if (!change) return base.readF32(name, start, end);
      const columns = base.tensors.get(name)!.shape[1]!;
      const last = end ?? columns * base.tensors.get(name)!.shape[0]!;
      // whole rows, since DoRA norms them
      const from = Math.floor(start / columns), to = Math.ceil(last / columns);
      const values = base.readF32(name, from * columns, to * columns);
      for (let row = from; row < to; row++) {
        addTo(values.subarray((row - from) * columns, (row - from + 1) * columns), row, change);
      }
      return values.slice(start - from * columns, last - from * columns);
    },
  };
}

/** One row of W becomes that of the merged weight. */
function addTo(w: Float32Array, row: number, { left, right, scaling, magnitude }: Change): void {
  const sum = Float64Array.from(w);
  right.forEach((a, k) => {
    const factor = scaling * left(row, k);
    if (factor !== 0) { for (let c = 0; c < sum.length; c++) sum[c]! += factor * a[c]!; }
  });
  if (magnitude) {
    const scale = magnitude[row]! / Math.sqrt(sum.reduce((n, v) => n + v * v, 0));
    for (let c = 0; c < sum.length; c++) sum[c]! *= scale;
  }
  w.set(sum);
}
