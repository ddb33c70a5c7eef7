import assert from "node:assert/strict";
import { liveTraining } from "../../lib/notebook/live.ts";
import { figureBundle, figureText, isFigure, libraryHtml } from "../../lib/notebook/plotly.ts";
import { bundleOf } from "../../lib/notebook/show.ts";
import { quantize } from "../../lib/quant/mod.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { sharedMap } from "../../lib/quant/quantized_tensor.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { gpuTest } from "../gpu_helper.ts";

// the map of double quantization is made once a device and stays: not a leak of the first test that needs it
await openGpu();
sharedMap();

const FIGURE = { data: [{ y: [3, 2, 1], name: "</script><b>" }], layout: { title: { text: "Loss" } } };

Deno.test("a figure comes as Plotly's MIME type, HTML and text, and its JSON cannot end the script", () => {
  assert.ok(isFigure(FIGURE) && isFigure({ data: [] }));
  for (const other of [{ data: [1] }, { data: "x" }, [], null, { data: [], x: 1 }]) {
    assert.ok(!isFigure(other));
  }
  const bundle = figureBundle(FIGURE, "<svg/>");
  assert.deepEqual(Object.keys(bundle).sort(), [
    "application/vnd.plotly.v1+json",
    "image/svg+xml",
    "text/html",
    "text/plain",
  ]);
  const html = bundle["text/html"] as string;
  assert.equal(html.match(/<\/script/g)!.length, 1);
  assert.equal(bundle["text/plain"], '[figure "Loss": 1 traces, 3 points]');
  assert.notEqual(figureBundle(FIGURE)["text/html"], html, "each place in the page has its own id");
  assert.equal(figureText({ data: [] }), "[figure: 0 traces, 0 points]");
});

Deno.test("the script of a figure waits for the library and draws what it was given", async () => {
  const html = figureBundle(FIGURE)["text/html"] as string;
  const script = /<script>([\s\S]*)<\/script>/.exec(html)![1]!;
  const id = /<div id="([^"]+)"/.exec(html)![1]!;
  const drawn: unknown[][] = [];
  const page = { nibblePlotly: undefined as unknown, Plotly: undefined as unknown };
  const document = { getElementById: (name: string) => ({ name }) };
  const plotly = { newPlot: (...args: unknown[]) => drawn.push(args) };
  const run = new Function("window", "document", "Plotly", `return ${script.trim().replace(/;$/, "")}`);
  const done = run(page, document, plotly) as Promise<void>;
  page.nibblePlotly = Promise.resolve().then(() => page.Plotly = plotly);
  await done;
  assert.equal(drawn.length, 1);
  assert.deepEqual(drawn[0]![0], { name: id });
  assert.deepEqual(drawn[0]![1], FIGURE.data);
});

Deno.test("the library's HTML puts back exactly the text that went in, with AMD hidden", async () => {
  const source = `window.Plotly = "it is here </script> é 😀";`;
  const html = await libraryHtml(source);
  assert.equal(html.match(/<\/script/g)!.length, 1);
  const body = /<script>([\s\S]*)<\/script>/.exec(html)![1]!;
  const added: { textContent?: string }[] = [];
  const document = {
    createElement: () => ({}),
    head: { append: (s: { textContent: string }) => added.push(s) },
  };
  const page: Record<string, unknown> = {};
  new Function("window", "document", body)(page, document);
  await page.nibblePlotly;
  assert.ok(added[0]!.textContent!.includes(source));
  const sees = { define: undefined as unknown };
  const js = added[0]!.textContent!.replace(source, "window.define = typeof define;");
  new Function("window", "define", js)(sees, () => {});
  assert.equal(sees.define, "undefined");
});

Deno.test("tables, escaped in HTML and one line a row in text", async () => {
  const bundle = await bundleOf([{ a: 1, b: "<i>\nx" }, { a: 0.123456, b: "" }]);
  assert.equal(bundle["text/plain"], "a       b\n1       <i> / x\n0.1235");
  assert.ok((bundle["text/html"] as string).includes("&lt;i&gt;\nx</td>"));
  assert.deepEqual(await bundleOf([{ a: 1 }, { b: 1 }]), { "text/plain": "[ { a: 1 }, { b: 1 } ]" });
  assert.deepEqual(Object.keys(await bundleOf("<svgx>")), ["text/plain"]);
  assert.deepEqual(Object.keys(await bundleOf("<svg width='1'></svg>")), ["image/svg+xml", "text/plain"]);
  const own = { [Symbol.for("Jupyter.display")]: () => ({ "text/plain": "mine" }) };
  assert.deepEqual(await bundleOf(own), { "text/plain": "mine" });
  assert.deepEqual(await bundleOf(null), { "text/plain": "null" });
});

gpuTest("tensors show shape, type and first numbers", async () => {
  const values = Float32Array.from({ length: 900 }, (_, i) => i / 4);
  using t = tensor(values, [9, 100]);
  const text = (await bundleOf(t))["text/plain"] as string;
  const lines = text.split("\n");
  assert.equal(lines[0], "Tensor f32 [9, 100]");
  assert.equal(lines[1]!.trim().replace(/ +/g, " "), "0 0.2500 0.5000 0.7500 1 1.250 1.500 1.750 ...");
  assert.equal(lines.length, 1 + 8 + 1);
  using q = quantize(t);
  assert.match((await bundleOf(q))["text/plain"] as string, /^QuantizedTensor nf4 \[9, 100\], blocks of 64/);
});

Deno.test("a live curve sorts logs into its two traces, and prints text outside Jupyter", async () => {
  const printed: unknown[] = [];
  const { log } = console;
  console.log = (...args) => printed.push(...args);
  try {
    const live = liveTraining({ title: "Run", notes: true });
    live.reporter.note("a note");
    const common = {
      epoch: 0,
      mean_token_accuracy: 0,
      num_tokens: 0,
      tokens_per_second: 0,
      skipped_steps: 0,
    };
    live.onLog({
      step: 0,
      epoch: 0,
      eval_loss: 4,
      eval_mean_token_accuracy: 0,
      eval_num_tokens: 1,
      eval_runtime: 0,
    });
    live.onLog({ ...common, step: 1, loss: 3, grad_norm: 1, learning_rate: 1 });
    live.onLog({ ...common, step: 2, loss: 2, grad_norm: 1, learning_rate: 1 });
    const [train, held] = live.figure().data;
    assert.deepEqual([train!.x, train!.y, held!.x, held!.y], [[1, 2], [3, 2], [0], [4]]);
    assert.equal(live.signal.aborted, false);
    await live.finish();
  } finally {
    console.log = log;
  }
  assert.deepEqual(printed, ["a note", '[figure "Run": 2 traces, 3 points]']);
});
