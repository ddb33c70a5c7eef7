/**
 * `deno task quantize --model PATH --output DIR`: a model's linear layers in bitsandbytes' 4 bits.
 * @module
 */
import { parseArgs } from "node:util";
import { NibbleError } from "../lib/errors.ts";
import { STORED_TYPES } from "../lib/lora/merge.ts";
import { quantizeFolder } from "../lib/quantize_folder.ts";
import { runCommand } from "./command.ts";

const HELP = `Usage: deno task quantize --model PATH --output DIR [options]

Writes a model whose linear layers are in 4 bits, in the form that Transformers with bitsandbytes saves and loads.
nibble trains on such a folder as it is.

  --model PATH                    folder, .gguf file or Hub id
  --output DIR                    where the model in 4 bits goes
  --bnb_4bit_quant_type TYPE      nf4 or fp4 (nf4)
  --bnb_4bit_blocksize N          numbers that share a scale: 32, 64 ... 4096 (64)
  --no-bnb_4bit_use_double_quant  keep the scales in 32 bits
  --llm_int8_skip_modules NAMES   modules to leave out, by the end of their path, with commas between
  --dtype TYPE                    of what is not in 4 bits: bfloat16, float16 or float32
                                  (float16 where the model is stored so, else bfloat16)`;

const DTYPES: Record<string, "F32" | "F16" | "BF16"> = STORED_TYPES;
const text = { type: "string" } as const;

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        ...{ model: text, output: text, bnb_4bit_quant_type: text, bnb_4bit_blocksize: text, dtype: text },
        ...{ llm_int8_skip_modules: text, bnb_4bit_use_double_quant: { type: "boolean" } },
        help: { type: "boolean", short: "h" },
      },
      allowNegative: true,
    });
    return values;
  } catch (error) {
    throw bad((error as Error).message);
  }
}

function bad(what: string): NibbleError {
  return new NibbleError("quantize/arguments", what, { remedy: "--help lists the options." });
}

async function main(): Promise<number> {
  const args = readArguments();
  if (args.help || !args.model || !args.output) {
    (args.help ? console.log : console.error)(HELP);
    return args.help ? 0 : 2;
  }
  const { dtype } = args;
  if (dtype !== undefined && !Object.hasOwn(DTYPES, dtype)) {
    throw bad(`--dtype is '${dtype}', not one of ${Object.keys(DTYPES).join(", ")}`);
  }
  const { bnb_4bit_quant_type: quantType = "nf4", bnb_4bit_blocksize: blocksize = "64" } = args;
  if (quantType !== "nf4" && quantType !== "fp4") {
    throw bad(`--bnb_4bit_quant_type is '${quantType}', not one of nf4, fp4`);
  }
  if (!/^\d+$/.test(blocksize)) throw bad(`--bnb_4bit_blocksize is '${blocksize}', not a number such as 64`);
  const files = await quantizeFolder({
    ...{ model: args.model, output: args.output, doubleQuant: args.bnb_4bit_use_double_quant ?? true },
    quantType,
    blocksize: Number(blocksize), // a wrong size is named by the quantizer
    skipModules: args.llm_int8_skip_modules?.split(",").map((name) => name.trim()) ?? [],
    dtype: dtype === undefined ? undefined : DTYPES[dtype],
    onNote: (note) => console.log(note),
  });
  for (const path of files) console.log(`${path}: ${(Deno.statSync(path).size / 1e6).toFixed(1)} MB`);
  return 0;
}

await runCommand(main);
