/**
 * In the real kernel: nothing is lost, Stop stops and the next run goes on, errors are short. Needs Jupyter, which
 * `deno task notebooks:run` puts into .venv.
 */
import assert from "node:assert/strict";
import { fromFileUrl, join } from "@std/path";
import { hasJupyter, jupyterEnv, PYTHON, registerKernel, ROOT, RUN } from "../../tools/jupyter.ts";

const THERE = await hasJupyter(RUN);
if (THERE) registerKernel();

/** A message of the kernel. */
type Message = [type: string, content: {
  data?: Record<string, unknown>;
  text?: string;
  traceback?: string[];
  transient?: { display_id?: string };
}];

interface Step {
  code: string;
  stop_on?: string;
}

interface Reply {
  status: string;
  outputs: Message[];
  alive: boolean;
}

/** A test with Jupyter; its name says so where there is none. */
function jupyterTest(name: string, body: () => Promise<void>): void {
  Deno.test({ name: THERE ? name : `${name} (skipped: no Jupyter in .venv)`, ignore: !THERE, fn: body });
}

/** Runs cells in one kernel, one after the other. */
async function run(steps: Step[]): Promise<Reply[]> {
  const scratch = Deno.makeTempDirSync({ prefix: "nibble-jupyter-" });
  const script = fromFileUrl(new URL("drive.py", import.meta.url));
  const env = jupyterEnv(scratch);
  const child = new Deno.Command(PYTHON, {
    args: ["-W", "ignore", script],
    env,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(JSON.stringify({ cwd: join(ROOT, "notebooks"), steps })));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
  Deno.removeSync(scratch, { recursive: true });
  assert.ok(success, new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout));
}

const IMPORTS = `import * as nibble from "../mod.ts";
import { line, show, trainLive } from "../lib/notebook/mod.ts";`;
/** Everything that a cell showed as text. */
const textOf = ({ outputs }: Reply): string =>
  outputs.map(([, { text, data }]) => text ?? String(data?.["text/plain"] ?? "")).join("\n");

jupyterTest("a hundred cells lose no output: values, printed lines, displays", async () => {
  const kinds = [
    { code: (i: number) => `${i} + 1000`, says: (i: number) => [`${i + 1000}`] },
    {
      code: (i: number) => `console.log("first ${i}"); console.log("second ${i}"); "value ${i}"`,
      says: (i: number) => [`first ${i}`, `second ${i}`, `value ${i}`],
    },
    {
      code: (i: number) => `for (let k = 0; k < 10; k++) await show("shown ${i}." + k); ${i} + 0.5`,
      says: (i: number) => [...Array.from({ length: 10 }, (_, k) => `shown ${i}.${k}`), `${i + 0.5}`],
    },
    {
      code: (i: number) => `for (let k = 0; k < 300; k++) console.log("line ${i}." + k);`,
      says: (i: number) => Array.from({ length: 300 }, (_, k) => `line ${i}.${k}\n`),
    },
    {
      code: (i: number) => `await show("before ${i}"); throw new Error("after ${i}");`,
      says: (i: number) => [`before ${i}`],
    },
  ];
  const cells = Array.from({ length: 100 }, (_, i) => kinds[i % kinds.length]!);
  const [first, ...replies] = await run([
    { code: IMPORTS },
    ...cells.map(({ code }, i) => ({ code: code(i) })),
  ]);
  assert.equal(first!.status, "ok", textOf(first!));
  const lost = cells.flatMap(({ says }, i) => {
    const text = textOf(replies[i]!);
    return says(i).filter((said) => !text.includes(said));
  });
  assert.deepEqual(lost, [], `${lost.length} outputs lost`);
});

jupyterTest("the control: without nibble's hook the kernel does lose lines", async () => {
  const code = `for (let k = 0; k < 300; k++) console.log("line " + k);`;
  const replies = await run(Array.from({ length: 10 }, () => ({ code })));
  const counts = replies.map((reply) => textOf(reply).split("line ").length - 1);
  assert.ok(counts.some((n) => n < 300), "this Deno no longer needs keepOutputs: lib/notebook/kernel.ts");
});

jupyterTest("figures come in every form after the library, tensors and models show themselves", async () => {
  const [, figure, again, tensor, device] = await run([
    { code: IMPORTS },
    { code: `await line({ a: [3, 2, 1] }, { title: "Loss" });` },
    { code: `await line({ a: [3, 2, 1] }, { title: "Loss" });` },
    { code: `const gpu = await nibble.device();\nnibble.tensor([1, 2, 3, 4], [2, 2]);` },
    { code: `gpu;` },
  ]);
  const forms = (reply: Reply) =>
    reply.outputs.map(([, { data }]) => Object.keys(data ?? {}).sort().join(" "));
  const all = "application/vnd.plotly.v1+json image/svg+xml text/html text/plain";
  assert.deepEqual(forms(figure!), ["text/html text/plain", all]);
  assert.deepEqual(forms(again!), [all], "the library comes once");
  assert.deepEqual(tensor!.outputs.map(([type]) => type), ["execute_result"]);
  assert.match(textOf(tensor!), /^Tensor f32 \[2, 2\], 16 B\n +1 +2\n +3 +4/);
  assert.match(String(tensor!.outputs[0]![1].data!["text/html"]), /<svg/);
  assert.match(textOf(device!), /subgroups/);
});

jupyterTest("an error is its message, its remedy and the cell's line", async () => {
  const [, recipe, own] = await run([
    { code: IMPORTS },
    { code: `const answer = 42;\nnibble.readRecipe("nowhere.yaml");` },
    { code: `const f = () => undefinedName;\nf();` },
  ]);
  const trace = ({ status, outputs }: Reply) => [status, ...(outputs.at(-1)![1].traceback ?? [])];
  assert.deepEqual(trace(recipe!), [
    "error",
    "NibbleError: There is no such recipe",
    "  where: nowhere.yaml",
    "  to do: Give the path of a YAML file; recipes/ has some to begin with.",
    "    at line 2 of the cell",
  ]);
  const [status, message, ...lines] = trace(own!);
  assert.deepEqual([status, message], ["error", "ReferenceError: undefinedName is not defined"]);
  assert.ok(
    lines.length > 0 && lines.every((text) => /^ {4}at line \d+ of the cell/.test(text!)),
    String(lines),
  );
});

jupyterTest("Stop ends training after the step, saves, and the same cell goes on", async () => {
  const output = Deno.makeTempDirSync({ prefix: "nibble-run-" });
  const recipe = {
    ...{ model_name_or_path: "../assets/models/tiny", dataset_name: "../assets/data/quickstart" },
    ...{ output_dir: output, use_peft: true, load_in_4bit: true, lora_r: 4, max_length: 64 },
    ...{ per_device_train_batch_size: 1, max_steps: 10_000, logging_steps: 1, save_strategy: "no" },
  };
  const code = `const r = await trainLive(${JSON.stringify(recipe)}, { interval: 0 });\n` +
    `await show(JSON.stringify({ steps: r.steps, stopped: r.stopped, first: r.logs[0].step }));`;
  const [, stopped, alive, resumed] = await run([
    { code: IMPORTS },
    { code: code, stop_on: "step     3/10000" },
    { code: `"the kernel " + "lives"` },
    { code: code.replace("const r", "const r2").replaceAll("r.", "r2."), stop_on: "<progress" },
  ]);
  Deno.removeSync(output, { recursive: true });
  const found = (reply: Reply): { steps: number; stopped: boolean; first: number } => {
    assert.equal(reply.status, "ok", JSON.stringify(reply.outputs.at(-1)).slice(0, 500));
    assert.ok(reply.alive);
    return JSON.parse(textOf(reply).split("\n").find((text) => text.startsWith('{"steps"'))!);
  };
  const before = found(stopped!), after = found(resumed!);
  assert.ok(before.stopped && before.steps >= 3 && before.steps < 100, JSON.stringify(before));
  assert.match(textOf(alive!), /the kernel lives/);
  assert.equal(after.first, before.steps + 1, "it went on with the next step");
  assert.ok(after.stopped && after.steps > before.steps);
  // one display, replaced in place; the last state says how to go on, and holds the steps of both runs
  const shown = stopped!.outputs.filter(([, { transient }]) =>
    transient?.display_id?.startsWith("training-")
  );
  assert.equal(shown[0]![0], "display_data");
  assert.ok(shown.length > 3 && shown.slice(1).every(([type]) => type === "update_display_data"));
  assert.equal(new Set(shown.map(([, { transient }]) => transient!.display_id)).size, 1);
  const last = (reply: Reply) =>
    reply.outputs.filter(([, { data }]) => data?.["application/vnd.plotly.v1+json"]).at(-1)![1].data!;
  assert.match(String(last(stopped!)["text/html"]), /Stopped after step \d+ of 10000 .* Run the cell again/);
  const figure = last(resumed!)["application/vnd.plotly.v1+json"] as {
    data: { name: string; x: number[] }[];
  };
  const steps = figure.data.find(({ name }) => name === "training")!.x;
  assert.deepEqual(steps, Array.from({ length: after.steps }, (_, i) => i + 1));
});
