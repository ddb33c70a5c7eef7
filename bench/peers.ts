/**
 * nibble beside other libraries on the same machine, all timed in turns: how many times as fast nibble is.
 *
 *     deno run -A bench/peers.ts [--what=product,product4,lora,qlora,generate]
 *       [--peers=jax,tensorflow,onnxruntime,pytorch,transformers] [--models=SmolLM2] [--rows=32,512,2048]
 *       [--products=base,adapter] [--rounds=3] [--patience=10]
 *
 * jax-js, TensorFlow.js, onnxruntime-web and transformers.js run on the same WebGPU adapter. PyTorch with PEFT and
 * bitsandbytes runs on the processor itself: beside a software adapter that is what the same cores can do. Each peer has
 * a process of its own, and its values are held against sums in 64 bits before it is timed. Peers come from npm, and
 * PyTorch from the environment of `deno task test:interop`, when they are first asked for.
 *
 * `lora` is a step (loss, gradients of rank-16 adapters on every linear layer) of two layers of SmolLM2-135M with a
 * vocabulary of 2048 on 4 x 128 tokens; `qlora` the whole model in NF4, with AdamW. A peer that would take more than
 * `--patience` seconds for a product, by its rate so far, is left out (-).
 * @module
 */
import { fromFileUrl } from "@std/path";
import { writeShardedSafetensors, writeText } from "../lib/formats/mod.ts";
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { KNOWN_CONFIGS } from "../lib/model/known_configs.ts";
import { interopPython } from "../tools/interop.ts";
import { emptyFence, inTurns, type Timed } from "./interleave.ts";
import { nibbleGenerate, nibbleProduct, nibbleProduct4, nibbleStep } from "./peers/nibble.ts";
import { type Expected, expectedOf, expectedProduct, expectedProduct4, worst } from "./peers/oracle.ts";
import { Peer, PeerError } from "./peers/peer.ts";
import type { Work } from "./peers/serve.ts";
import { type StepTask, type Task, TOY, weightsOf } from "./peers/task.ts";
import { option, row } from "./report.ts";
import { gflop, modelProducts, modelsNamed, type Product } from "./shapes.ts";

const list = (name: string, fallback: string) => option(name, fallback).split(",");
const wanted = list("peers", "jax,tensorflow,onnxruntime,pytorch,transformers");
const rounds = Number(option("rounds", "3")), patience = Number(option("patience", "10"));

/** A peer's module in `peers/`, and what tables call it. */
const MODULES: Record<string, string> = {
  jax: "jax-js",
  tensorflow: "TensorFlow.js",
  onnxruntime: "onnxruntime-web",
  pytorch: "PyTorch (processor)",
  transformers: "transformers.js",
};
const here = (name: string) => fromFileUrl(new URL(`./peers/${name}`, import.meta.url));

/** The peers among `names` that are wanted. */
async function peersAmong(names: readonly string[]): Promise<Peer[]> {
  const found: Peer[] = [];
  for (const name of names.filter((name) => wanted.includes(name))) {
    const title = MODULES[name]!;
    // the lock file is for what nibble itself imports
    const deno = ["run", "-A", "--no-lock", "--no-check", here(`${name}.ts`)];
    try {
      const peer = name === "pytorch"
        ? new Peer(title, await interopPython(), [here("pytorch.py")])
        : new Peer(title, Deno.execPath(), deno);
      console.log(`- ${title}: ${await peer.about()}`);
      found.push(peer);
    } catch (error) {
      console.log(`- ${title} does not run: ${(error as Error).message.split("\n")[0]}`);
    }
  }
  return found;
}

/** Why a peer has no time somewhere: the same reason once, with the first place. */
const notes = new Map<string, string>();
function note(peer: Peer, place: string, reason: string): void {
  const text = `${peer.name}: ${reason}`;
  if (!notes.has(text)) notes.set(text, place);
}

/** What a peer's values are held against; throws a PeerError where they are wrong. */
type Check = (peer: Peer, found: readonly number[]) => void;

/**
 * Times nibble and then every peer that can do the task and does it right; undefined for the others. `own` is closed.
 */
async function race(
  peers: readonly Peer[],
  place: string,
  own: Work,
  task: Task,
  at: readonly number[],
  check: Check,
): Promise<(Timed | undefined)[]> {
  check(new Peer("nibble", "", []), await own.values(at));
  const works: (Work | undefined)[] = [];
  for (const peer of peers) {
    try {
      const work = await peer.open(task);
      check(peer, await work.values(at));
      works.push(work);
    } catch (error) {
      if (!(error instanceof PeerError)) throw error;
      note(peer, place, error.message);
      works.push(undefined);
    }
  }
  const runners = [own, ...works.filter((work) => work !== undefined)];
  const timed = await inTurns(runners.map((work) => work.time), rounds);
  own.close();
  return [timed[0], ...works.map((work) => work && timed[runners.indexOf(work)])];
}

/** Largest error against sums in 64 bits in units of what f32 may be off; more than 1 is another product. */
function byOracle(expected: (peer: Peer) => Expected): Check {
  return (peer, found) => {
    const error = worst(expected(peer), found);
    if (!(error <= 1)) throw new PeerError(`wrong values${peer.complaint() ? ` (${peer.complaint()})` : ""}`);
  };
}

/** A table of products, and the least ratio of every peer under it. */
async function productTable(
  peers: readonly Peer[],
  chosen: (model: string, rows: number) => Product[],
  one: (product: Product, place: string, peers: readonly Peer[]) => Promise<(Timed | undefined)[]>,
): Promise<void> {
  const columns = peers.flatMap(({ name }) => [name, "nibble is"]);
  console.log("\n" + row("model", "product", "M", "N", "K", "nibble", ...columns));
  console.log(row("---", "---", "---:", "---:", "---:", "---:", ...columns.map(() => "---:")));
  // GFLOP/s
  const GUESS = 5, slowest = new Map<Peer, number>(), least = new Map<Peer, [ratio: number, place: string]>();
  for (const model of modelsNamed(list("models", "SmolLM2"))) {
    for (const rows of list("rows", "32,512,2048").map(Number)) {
      for (const product of chosen(model, rows)) {
        const { name, M, N, K } = product, work = gflop(product), place = `${model}, ${name}, ${rows} rows`;
        const able = peers.filter((peer) => work / (slowest.get(peer) ?? GUESS) <= patience);
        const [own, ...others] = await one(product, place, able);
        const cells = peers.flatMap((peer) => {
          const timed = others[able.indexOf(peer)];
          if (!timed) return ["-", ""];
          const rate = 1e3 * work / timed.ms;
          if (work > 0.1) slowest.set(peer, Math.min(rate, slowest.get(peer) ?? Infinity));
          if (!(timed.ratio >= (least.get(peer)?.[0] ?? Infinity))) least.set(peer, [timed.ratio, place]);
          return [rate.toFixed(1), `x ${timed.ratio.toFixed(2)}`];
        });
        console.log(row(model, name, M, N, K, (1e3 * work / own!.ms).toFixed(1), ...cells));
      }
    }
  }
  console.log("");
  for (const [peer, [ratio, place]] of least) {
    console.log(`least of nibble : ${peer.name}: ${ratio.toFixed(2)} (${place})`);
  }
}

async function denseProducts(idle: number): Promise<void> {
  const peers = await peersAmong(["jax", "tensorflow", "onnxruntime", "pytorch"]);
  console.log("\nProducts in f32, GFLOP/s");
  const kinds = list("products", "base,adapter");
  await productTable(peers, (model, rows) => modelProducts(model, rows, kinds), (product, place, able) => {
    const expected = expectedProduct(product);
    const own = nibbleProduct(product, idle);
    return race(able, place, own, { kind: "product", product }, expected.at, byOracle(() => expected));
  });
  peers.forEach((peer) => peer.stop());
}

async function fourBitProducts(idle: number): Promise<void> {
  const peers = await peersAmong(["onnxruntime", "pytorch"]);
  console.log("\nx Wᵀ with W in 4 bits (nibble and bitsandbytes NF4, onnxruntime MatMulNBits), GFLOP/s");
  const forward = (model: string, rows: number) =>
    modelProducts(model, rows, ["base"]).filter(({ layout }) => layout === "nt");
  await productTable(peers, forward, async (product, place, able) => {
    const own = await nibbleProduct4(product, idle);
    const nf4 = expectedOf(product, own.weight), whole = expectedProduct4(product);
    const check = byOracle((peer) => peer.name === MODULES.onnxruntime ? whole : nf4);
    return race(able, place, own, { kind: "product4", product }, nf4.at, check);
  });
  peers.forEach((peer) => peer.stop());
}

/** The base's weights in Transformers' files, for PyTorch. */
function writeModel(config: Record<string, unknown>): string {
  const folder = Deno.makeTempDirSync({ prefix: "nibble-peers-" }), source = weightsOf(config);
  writeShardedSafetensors(
    folder,
    [...source.tensors.values()].map(({ name, shape }) => ({
      ...{ name, shape, dtype: "F32" as const },
      data: () => source.readF32(name),
    })),
  );
  writeText(`${folder}/config.json`, JSON.stringify(config));
  return folder;
}

async function steps(idle: number, task: StepTask, names: readonly string[], title: string): Promise<void> {
  const peers = await peersAmong(names);
  if (wanted.includes("pytorch")) task.folder = writeModel(task.config);
  const own = await nibbleStep(task, idle);
  const [loss, norm] = await own.values([]) as [number, number];
  // what f32 may lose in the longest of its sums, over the vocabulary
  const bound = (task.config.vocab_size as number) * 2 ** -24;
  const check: Check = (peer, [l, n]) => {
    const off = Math.max(Math.abs(l! / loss - 1), Math.abs(n! / norm - 1));
    const text = `loss ${l!.toFixed(6)}, gradient norm ${n!.toFixed(6)}`;
    if (peer.name !== "nibble") {
      console.log(`- ${peer.name}: ${text}; nibble ${loss.toFixed(6)}, ${norm.toFixed(6)}`);
    }
    if (!(off <= bound)) throw new PeerError(`${text} is another step`);
  };
  const [mine, ...others] = await race(peers, title, own, task, [], check);
  if (task.folder) Deno.removeSync(task.folder, { recursive: true });
  console.log(`\n${title}\n`);
  console.log(row("", "seconds a step", "tokens/s", "nibble is"));
  console.log(row("---", "---:", "---:", "---:"));
  for (const [name, timed] of [["nibble", mine], ...peers.map(({ name }, i) => [name, others[i]])] as const) {
    if (!(typeof name === "string" && typeof timed === "object")) continue;
    const seconds = timed.ms / 1000, tokens = task.batch * task.time / seconds;
    console.log(
      row(
        name,
        seconds.toFixed(2),
        tokens.toFixed(0),
        name === "nibble" ? "" : `x ${timed.ratio.toFixed(2)}`,
      ),
    );
  }
  peers.forEach((peer) => peer.stop());
}

async function generation(): Promise<void> {
  const peers = await peersAmong(["transformers"]);
  const task = {
    ...{ kind: "generate", model: "HuggingFaceTB/SmolLM2-135M-Instruct", tokens: 64 } as const,
    prompt: "The ship left the harbour at dawn, and",
  };
  const own = await nibbleGenerate(task);
  const [mine, ...others] = await race(peers, task.model, own, task, [], () => {});
  console.log(`\n${task.model} in 4 bits, ${task.tokens} tokens after a short prompt\n`);
  console.log(row("", "tokens/s", "nibble is") + "\n" + row("---", "---:", "---:"));
  console.log(row("nibble", (1e3 * task.tokens / mine!.ms).toFixed(1), ""));
  for (const [i, timed] of others.entries()) {
    if (!timed) continue;
    console.log(
      row(peers[i]!.name, (1e3 * task.tokens / timed.ms).toFixed(1), `x ${timed.ratio.toFixed(2)}`),
    );
  }
  peers.forEach((peer) => peer.stop());
}

await openGpu();
const idle = await emptyFence();
const step = { kind: "step", batch: 4, time: 128 } as const;
const whole = KNOWN_CONFIGS["HuggingFaceTB/SmolLM2-135M"]!;
const sections: Record<string, () => Promise<void>> = {
  product: () => denseProducts(idle),
  product4: () => fourBitProducts(idle),
  lora: () =>
    steps(
      idle,
      { ...step, config: TOY, quantized: false, optimizer: false },
      ["jax", "pytorch"],
      "LoRA step, two layers of 576, 4 x 128 tokens, f32",
    ),
  qlora: () =>
    steps(
      idle,
      { ...step, config: whole, quantized: true, optimizer: true },
      ["pytorch"],
      "QLoRA step with AdamW, shape of SmolLM2-135M, 4 x 128 tokens, NF4",
    ),
  generate: generation,
};
console.log(`nibble: ${gpu().name}`);
for (const name of list("what", Object.keys(sections).join(","))) {
  const section = sections[name];
  if (!section) throw new Error(`--what knows ${Object.keys(sections).join(", ")}`);
  console.log("");
  await section();
}
if (notes.size) console.log("");
for (const [text, place] of notes) console.log(`not timed: ${text} (${place})`);
Deno.exit(0); // the device keeps the process alive
