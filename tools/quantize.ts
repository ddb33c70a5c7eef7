/**
 * `deno task quantize --model PATH --output DIR`: a model's linear layers in bitsandbytes' 4 bits.
 * @module
 */
import { QUANT_STORAGE } from "../lib/formats/mod.ts";
import { STORED_TYPES } from "../lib/lora/merge.ts";
import { quantizeFolder } from "../lib/quantize_folder.ts";
import { readRecipe } from "../lib/recipe/mod.ts";
import { createReporter } from "../lib/train/progress.ts";
import { badOption, flag, oneOf, readOptions, runCommand, text } from "./command.ts";

const HELP = `Usage: deno task quantize --model PATH --output DIR [options]

Writes a model whose linear layers are in 4 bits, in the form that Transformers with bitsandbytes saves and loads.
nibble trains on such a folder as it is.

  --model PATH                    folder, .gguf file or Hub id
  --output DIR                    where the model in 4 bits goes
  --bnb_4bit_quant_type TYPE      nf4 or fp4 (nf4)
  --bnb_4bit_blocksize N          numbers that share a scale: 32, 64 ... 4096 (64)
  --no-bnb_4bit_use_double_quant  keep the scales in 32 bits
  --bnb_4bit_quant_storage TYPE   type as which packed values are stored: uint8, float16, bfloat16 or float32 (uint8);
                                  for FSDP the model's own
  --llm_int8_skip_modules NAMES   modules to leave out, by the end of their path, with commas between
  --calibrate RECIPE              choose the codes such that the layers' outputs err least on this recipe's training
                                  data, instead of each weight's nearest; the scales stay
  --dtype TYPE                    of what is not in 4 bits: bfloat16, float16 or float32
                                  (float16 where the model is stored so, else bfloat16)`;

const QUANT_TYPES = { nf4: "nf4", fp4: "fp4" } as const;
const OPTIONS = {
  ...{ model: text, output: text, bnb_4bit_quant_type: text, bnb_4bit_blocksize: text, dtype: text },
  ...{ llm_int8_skip_modules: text, bnb_4bit_use_double_quant: flag, bnb_4bit_quant_storage: text },
  calibrate: text,
};

async function main(): Promise<number> {
  const args = readOptions("quantize", OPTIONS);
  if (args.help || !args.model || !args.output) {
    (args.help ? console.log : console.error)(HELP);
    return args.help ? 0 : 2;
  }
  const { bnb_4bit_quant_type = "nf4", bnb_4bit_blocksize: blocksize = "64" } = args;
  const { bnb_4bit_quant_storage: storage = "uint8" } = args;
  if (!/^\d+$/.test(blocksize)) {
    throw badOption("quantize", `--bnb_4bit_blocksize is '${blocksize}', not a number such as 64`);
  }
  const reporter = createReporter();
  const files = await quantizeFolder({
    ...{ model: args.model, output: args.output, doubleQuant: args.bnb_4bit_use_double_quant ?? true },
    quantType: oneOf("quantize", "bnb_4bit_quant_type", bnb_4bit_quant_type, QUANT_TYPES),
    blocksize: Number(blocksize), // a wrong size is named by the quantizer
    quantStorage: oneOf("quantize", "bnb_4bit_quant_storage", storage, QUANT_STORAGE),
    skipModules: args.llm_int8_skip_modules?.split(",").map((name) => name.trim()) ?? [],
    dtype: args.dtype === undefined ? undefined : oneOf("quantize", "dtype", args.dtype, STORED_TYPES),
    calibrate: args.calibrate === undefined ? undefined : readRecipe(args.calibrate).settings,
    onCalibrated: (done, total) => reporter.step({ step: done, maxSteps: total }),
    onNote: (note) => reporter.note(note),
  });
  reporter.done();
  for (const path of files) console.log(`${path}: ${(Deno.statSync(path).size / 1e6).toFixed(1)} MB`);
  return 0;
}

await runCommand(main);
