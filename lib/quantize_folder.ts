/**
 * A model in 4 bits as a folder: what `deno task quantize` does.
 * @module
 */
import { join } from "@std/path";
import { loadModel, loadTokenizer } from "./api.ts";
import { makeOutputFolder, openModelSides, type QuantStorage, refuseOverwriting } from "./formats/mod.ts";
import { calibrate } from "./lora/calibrate.ts";
import { writeQuantizedModel } from "./lora/merge_4bit.ts";
import { storedDtype, writeGeneration } from "./merge_folder.ts";
import { describeLoad, type QuantizationConfig } from "./model/load.ts";
import type { Model } from "./model/model.ts";
import { calibrationBatches } from "./train/begin_corrected.ts";
import { openBase } from "./train/model_setup.ts";
import { trainingOrder } from "./train/prepare.ts";
import { prepareSides } from "./train/prepare_run.ts";
import type { TrainSettings } from "./train/settings.ts";
import { trainTask } from "./train/task.ts";

/** Options of {@link quantizeFolder}; what is not given is NF4 in blocks of 64 with double quantization. */
export interface QuantizeFolderOptions extends Partial<QuantizationConfig> {
  /** Folder, `.gguf` file or Hub id; an adapter stands for its base with it merged in. */
  model: string;
  /** Where the model in 4 bits goes. */
  output: string;
  /** Type of embeddings, norms and head, and to which bitsandbytes decodes the rest; default F16 where stored so, else BF16. */
  dtype?: "F32" | "F16" | "BF16" | undefined;
  /** As what type packed values are labelled in the file; default `U8`; for FSDP that of the rest. */
  quantStorage?: QuantStorage | undefined;
  maxShardBytes?: number | undefined;
  /** A recipe's settings: codes are chosen for the inputs that its training data gives each layer. */
  calibrate?: TrainSettings | undefined;
  /** Called after each layer whose codes were chosen. */
  onCalibrated?: ((done: number, total: number) => void) | undefined;
  onNote?: (note: string) => void;
  onProgress?: (done: number, total: number) => void;
}

/**
 * Writes a model whose linear layers are in 4 bits, as Transformers with bitsandbytes saves it and loads it again, an
 * eighth to a quarter of the size. nibble trains on it as it is, without quantizing again.
 *
 * @returns paths of the weights' files
 * @throws NibbleError for a model that cannot be read, `lora/int4` for `quantType: "int4"`
 */
export async function quantizeFolder(options: QuantizeFolderOptions): Promise<string[]> {
  const { model: name, output, maxShardBytes, onProgress } = options;
  const { quantType = "nf4", blocksize = 64, doubleQuant = true, skipModules = [] } = options;
  refuseOverwriting(output, [name]);
  const model = await loadModel(name, {
    quantization: { quantType, blocksize, doubleQuant, skipModules },
    torch_dtype: "auto",
    ...(onProgress ? { onProgress } : {}),
  });
  try {
    refuseOverwriting(output, [model.path]); // where a Hub id or an adapter led to
    options.onNote?.(describeLoad(model));
    if (options.calibrate) await calibrateOn(options.calibrate, model, options);
    makeOutputFolder(output);
    const files = await writeQuantizedModel(model, undefined, output, {
      dtype: options.dtype ?? storedDtype(model.path),
      quantStorage: options.quantStorage ?? "U8",
      ...(maxShardBytes ? { maxShardBytes } : {}),
    });
    if (hasTokenizer(model.path)) {
      const tokenizer = await loadTokenizer(name);
      tokenizer.save(output);
      writeGeneration(output, model.path, tokenizer);
    }
    return files.map((file) => join(output, file));
  } finally {
    model.dispose();
  }
}

/** Chooses the codes for the first tokens of a recipe's training data. */
async function calibrateOn(
  recipe: TrainSettings,
  model: Model,
  { model: name, onNote, onCalibrated }: QuantizeFolderOptions,
): Promise<void> {
  const s = { ...recipe, model_name_or_path: name, nibble_model_config: null, nibble_random_weights: false };
  const { files, tokenizer } = await openBase(s);
  try {
    const { train } = await prepareSides(s, trainTask(s), tokenizer, {});
    const { batches, tokens } = calibrationBatches(trainingOrder(train, s));
    const { layers, left } = await calibrate(model, files.source, batches, {
      ...(onCalibrated ? { onProgress: onCalibrated } : {}),
    });
    onNote?.(
      `calibrated  ${layers} layers on ${tokens} tokens: ${
        (100 * left).toFixed(0)
      } % of what the nearest codes ` +
        `do to their outputs (mean square) is left`,
    );
  } finally {
    files.source.close();
  }
}

function hasTokenizer(path: string): boolean {
  return openModelSides(path).tokenizerJson !== undefined;
}
