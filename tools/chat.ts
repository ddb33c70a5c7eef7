/**
 * `deno task chat --model ... [--adapter DIR]`: talk to a model, with the text as it is written.
 *
 * In a terminal it asks for one prompt after another and remembers the conversation; without one it reads prompts
 * line by line. Ctrl-C stops the answer, and leaves at the prompt.
 * @module
 */
import { generate, loadAdapter, loadModel, type LoadModelOptions, loadTokenizer } from "../lib/api.ts";
import { NibbleError } from "../lib/errors.ts";
import { isFile, readAdapter } from "../lib/formats/mod.ts";
import { baseOfAdapter } from "../lib/lora/chain.ts";
import { parseQuantization } from "../lib/lora/provenance.ts";
import { describeLoad } from "../lib/model/load.ts";
import type { Model } from "../lib/model/model.ts";
import { LIMITS as SAMPLING, WHOLE } from "../lib/model/sample.ts";
import { encodeChatPrompt, type Message, type Tokenizer } from "../lib/text/mod.ts";
import { tuneForCommand } from "../lib/tuning.ts";
import { badOption, flag, oneOf, readOptions, runCommand, text } from "./command.ts";

const HELP = `Usage: deno task chat --model MODEL [options]

  --model PATH            folder, .gguf file or Hub id; with --adapter, default the base that it names
  --adapter DIR           folder of a trained adapter
  --load_in_4bit          keep the model in NF4 (default when the adapter was trained so; --no-load_in_4bit)
  --torch_dtype TYPE      of the weights that are not in 4 bits: bfloat16, float16, float32, or auto, as the files
                          store them (float32)
  --prompt TEXT           answer this and end
  --system TEXT           system message
  --raw                   continue text as it is, without a chat template and without memory
  --max_new_tokens N      tokens of an answer at most (256)
  --max_positions N       prompt and answer together at most (2048, or what the model allows)
  --temperature X         0 takes the likeliest token each time (0)
  --top_k N --top_p X --min_p X --repetition_penalty X --seed N
  --verbose               tokens a second on stderr
  --tune                  measure again which kernels are fastest on this adapter

In the conversation: /reset forgets it, /exit or Ctrl-D leaves, Ctrl-C stops an answer.`;

const COUNT = ["a whole number of 1 or more", (v: number) => Number.isInteger(v) && v >= 1] as const;
/** Those of the library; an answer has a token, and a seed is typed without a sign. */
const LIMITS = { ...SAMPLING, max_new_tokens: COUNT, max_positions: COUNT, seed: WHOLE } as const;
type NumberName = keyof typeof LIMITS;
const NUMBERS = Object.keys(LIMITS) as NumberName[];
type Numbers = Partial<Record<NumberName, number>>;

const DTYPES = { auto: "auto", bfloat16: "bfloat16", float16: "float16", float32: "float32" } as const;
const OPTIONS = {
  ...{ model: text, adapter: text, prompt: text, system: text, torch_dtype: text },
  ...{ load_in_4bit: flag, raw: flag, verbose: flag, tune: flag },
  ...Object.fromEntries(NUMBERS.map((name) => [name, text])) as Record<NumberName, typeof text>,
};

function readArguments() {
  const values = readOptions("chat", OPTIONS);
  const numbers: Numbers = {};
  for (const name of NUMBERS) {
    const given = values[name];
    if (given === undefined) continue;
    const value = Number(given), [expected, fits] = LIMITS[name];
    if (!fits(value) || given === "") throw badOption("chat", `--${name} is '${given}', not ${expected}`);
    numbers[name] = value;
  }
  return { ...values, numbers };
}

const encoder = new TextEncoder();
function write(piece: string): void {
  const bytes = encoder.encode(piece);
  for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
}

/** Lines of standard input, the last one with or without its end. */
async function* inputLines(ask: () => void): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  ask();
  for await (const chunk of Deno.stdin.readable) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      yield line.replace(/\r$/, "");
      ask();
    }
  }
  if (rest) yield rest;
}

/** Drops the oldest turns, never the system message or the last turn, until prompt and answer fit. */
function fit(messages: Message[], tokenizer: Tokenizer, room: number): number {
  let dropped = 0;
  const first = messages[0]?.role === "system" ? 1 : 0;
  while (messages.length - first > 1 && encodeChatPrompt(tokenizer, messages).length > room) {
    dropped += messages.splice(first, Math.min(2, messages.length - first - 1)).length;
  }
  return dropped;
}

async function main(): Promise<number> {
  const { numbers, ...args } = readArguments();
  if (args.help) {
    console.log(HELP);
    return 0;
  }
  const saved = args.adapter ? readAdapter(args.adapter).config : undefined;
  const base = args.model ? { name: args.model } : saved && await baseOfAdapter(saved);
  if (!base) {
    console.error(HELP);
    return 2;
  }
  const { name, ...version } = base;
  const trainedOn = saved?.nibble?.base_quantization;
  const fourBits = args.load_in_4bit ?? Boolean(trainedOn);
  await tuneForCommand(args.tune ?? false);
  const { max_new_tokens = 256, max_positions = 2048, ...sampling } = numbers;
  const model = await load(name, args.model === undefined, {
    maxPositions: max_positions,
    ...version,
    ...(args.torch_dtype ? { torch_dtype: oneOf("chat", "torch_dtype", args.torch_dtype, DTYPES) } : {}),
    ...(fourBits
      ? {
        quantization: {
          ...(parseQuantization(trainedOn) ?? { quantType: "nf4", doubleQuant: true }),
        },
      }
      : {}),
  });
  const tokenizer = args.adapter && isFile(`${args.adapter}/tokenizer.json`)
    ? await loadTokenizer(args.adapter)
    : await loadTokenizer(name, version);
  console.error(`${name}: ${describeLoad(model)}`);
  if (args.adapter) {
    const adapter = loadAdapter(model, args.adapter);
    console.error(`${args.adapter}: ${adapter.layers.size} layers adapted, r = ${adapter.config.r}`);
  }
  if (!args.raw && tokenizer.templateSource.startsWith("default")) {
    console.error("This model has no chat template; a usual one is used. --raw continues text instead.");
  }

  const system: Message[] = args.system ? [{ role: "system", content: args.system }] : [];
  let messages = [...system];
  let answering: AbortController | undefined;
  const onInterrupt = () => answering ? answering.abort() : Deno.exit(130);
  Deno.addSignalListener("SIGINT", onInterrupt);

  const answer = async (said: string): Promise<void> => {
    const positions = model.positions;
    const room = Math.max(1, positions - max_new_tokens);
    if (!args.raw) {
      messages.push({ role: "user", content: said });
      const dropped = fit(messages, tokenizer, room);
      if (dropped > 0) console.error(`(the oldest ${dropped} messages no longer fit and are forgotten)`);
    }
    answering = new AbortController();
    try {
      const result = await generate(model, tokenizer, args.raw ? said : messages, {
        ...sampling,
        max_new_tokens,
        signal: answering.signal,
        onText: write,
      });
      write("\n");
      if (!args.raw) messages.push({ role: "assistant", content: result.text });
      if (result.reason === "aborted") console.error("(stopped)");
      if (args.verbose) {
        const { promptTokens, prefillSeconds, decodeSeconds, ids } = result;
        const rate = (n: number, seconds: number) => (n / Math.max(seconds, 1e-9)).toFixed(1);
        console.error(
          `(prefill ${promptTokens} tokens, ${rate(promptTokens, prefillSeconds)} a second; ` +
            `decode ${ids.length} tokens, ${rate(Math.max(0, ids.length - 1), decodeSeconds)} a second)`,
        );
      }
    } catch (error) {
      if (!args.raw) messages.pop(); // the question that got no answer
      throw error;
    } finally {
      answering = undefined;
    }
  };

  if (args.prompt !== undefined) {
    await answer(args.prompt);
    return 0;
  }
  const terminal = Deno.stdin.isTerminal();
  if (terminal) console.error("/reset forgets the conversation, /exit leaves, Ctrl-C stops an answer.");
  for await (const line of inputLines(() => terminal && write("> "))) {
    const said = line.trim();
    if (said === "/exit" || said === "/quit") break;
    if (said === "/reset") {
      messages = [...system];
      console.error("(forgotten)");
    } else if (said) {
      try {
        await answer(said);
      } catch (error) {
        if (!(error instanceof NibbleError)) throw error;
        console.error(`error: ${error.message}`); // too long, say: the next prompt may be better
        if (!terminal) return 1;
      }
    }
  }
  return 0;
}

/** An adapter names its base as it was named in training, perhaps by a path from another folder. */
async function load(name: string, fromAdapter: boolean, options: LoadModelOptions): Promise<Model> {
  try {
    return await loadModel(name, options);
  } catch (error) {
    if (!fromAdapter || !(error instanceof NibbleError) || error.code !== "hub/not-found") throw error;
    throw new NibbleError("chat/base", `The base model that the adapter names is not here: ${name}`, {
      remedy: "Say where it is with --model.",
      cause: error,
    });
  }
}

await runCommand(main);
