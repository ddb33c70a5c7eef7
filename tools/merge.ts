/**
 * `deno task merge --adapter DIR --output DIR`: an adapter and its base made into one model.
 * @module
 */
import { NibbleError } from "../lib/errors.ts";
import { STORED_TYPES } from "../lib/lora/merge.ts";
import { mergeFolder } from "../lib/merge_folder.ts";
import { badOption, flag, oneOf, readOptions, runCommand, text } from "./command.ts";

const HELP = `Usage: deno task merge --adapter DIR --output DIR [options]

Merges an adapter into its base and writes a plain Hugging Face folder. A base that was trained on in 4 bits is
dequantized first: dequantize(W) + s B A is the very function that was trained. What was written is loaded again, and
its distance from the adapter on its base is printed.

  --adapter DIR           folder of a trained adapter (PEFT's layout)
  --output DIR            where the merged model goes
  --model PATH            the base: folder, .gguf file or Hub id; default the one that the adapter names
  --dtype TYPE            bfloat16, float16 or float32; default float16 where the base is stored so, else bfloat16
  --max_shard_size SIZE   of one weights' file, such as 5GB or 500MB (5GB)
  --load_in_4bit          take the base in NF4 (default when the adapter was trained so; --no-load_in_4bit)
  --requantize TYPE       nf4 or fp4: quantize the merged weights again, for bitsandbytes; small updates may be lost,
                          and the loss before and after is printed
  --gguf TYPES            also write GGUF files for llama.cpp: f16, q8_0, or both with a comma
  --gguf_adapter FILE     write the adapter itself as GGUF (alone, or beside --output)
  --text FILE             text on which the distance is measured (a passage of nibble's own)
  --no-check              do not load and compare what was written`;

const GGUF_TYPES = { f16: "F16", q8_0: "Q8_0" } as const;
const QUANT_TYPES = { nf4: "nf4", fp4: "fp4" } as const;
const OPTIONS = {
  ...{ adapter: text, output: text, model: text, dtype: text, max_shard_size: text, requantize: text },
  ...{ gguf: text, gguf_adapter: text, text, load_in_4bit: flag, check: flag },
};

/** Bytes of `5GB`, `500MB`, `2GiB` or a plain number. */
function bytesOf(given: string): number {
  const parts = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?$/i.exec(given);
  const unit = parts ? "KMGT".indexOf(parts[2]!.toUpperCase()) + 1 : 0;
  const bytes = parts ? Math.floor(Number(parts[1]) * (parts[3] ? 1024 : 1000) ** (parts[2] ? unit : 0)) : 0;
  if (bytes > 0) return bytes;
  throw badOption("merge", `--max_shard_size is '${given}', not a size such as 5GB`);
}

/** A line that counts up, where there is a terminal to rewrite it on. */
function progress(): (done: number, total: number) => void {
  let shown = -1;
  return (done, total) => {
    const percent = Math.floor(100 * done / total);
    if (!Deno.stderr.isTerminal() || percent === shown) return;
    shown = percent;
    Deno.stderr.writeSync(new TextEncoder().encode(`\r${percent} %${percent === 100 ? "\r      \r" : ""}`));
  };
}

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (cause) {
    throw new NibbleError("merge/arguments", `Cannot read ${path}`, {
      remedy: "Give a text file with --text.",
      cause,
    });
  }
}

async function main(): Promise<number> {
  const args = readOptions("merge", OPTIONS);
  const choice = <T>(option: string, given: string | undefined, table: Readonly<Record<string, T>>) =>
    given === undefined ? undefined : oneOf("merge", option, given, table);
  if (args.help || !args.adapter) {
    (args.help ? console.log : console.error)(HELP);
    return args.help ? 0 : 2;
  }
  const { files, gguf } = await mergeFolder({
    adapter: args.adapter,
    output: args.output,
    model: args.model,
    dtype: choice("dtype", args.dtype, STORED_TYPES),
    maxShardBytes: args.max_shard_size === undefined ? undefined : bytesOf(args.max_shard_size),
    load_in_4bit: args.load_in_4bit,
    requantize: choice("requantize", args.requantize, QUANT_TYPES),
    gguf: args.gguf?.split(",").map((type) => oneOf("merge", "gguf", type, GGUF_TYPES)),
    ggufAdapter: args.gguf_adapter,
    check: args.check === false ? false : args.text === undefined ? undefined : readText(args.text),
    onNote: (note) => console.log(note),
    onProgress: progress(),
  });
  for (const path of [...files, ...gguf.map((g) => g.path)]) {
    console.log(`${path}: ${(Deno.statSync(path).size / 1e6).toFixed(1)} MB`);
  }
  return 0;
}

await runCommand(main);
