import assert from "node:assert/strict";
import { barChart, type Chart, heatChart, histogramChart, lineChart } from "../../lib/notebook/chart.ts";
import { colour, COLOURS } from "../../lib/notebook/colours.ts";
import { chartBundle, figureBundle, figureOf, figureText, isFigure } from "../../lib/notebook/figure.ts";
import { libraryHtml } from "../../lib/notebook/plotly.ts";
import { svgOf } from "../../lib/notebook/svg.ts";

const FIGURE = { data: [{ y: [3, 2, 1], name: "</script><b>" }], layout: { title: { text: "Loss" } } };
const LINES = lineChart({ a: [3, 2, 1], b: { x: [0, 2], y: [4, 1] } }, {
  title: "Loss",
  x: "step",
  dashed: ["b"],
});

Deno.test("a figure comes as Plotly's MIME type, HTML and text, and its JSON cannot end the script", () => {
  assert.ok(isFigure(FIGURE) && isFigure({ data: [] }));
  for (const other of [{ data: [1] }, { data: "x" }, [], null, { data: [], x: 1 }]) {
    assert.ok(!isFigure(other));
  }
  const forms = ["application/vnd.plotly.v1+json", "image/svg+xml", "text/html", "text/plain"];
  const bundle = figureBundle(FIGURE, "<svg/>");
  assert.deepEqual(Object.keys(bundle).sort(), forms);
  const html = bundle["text/html"] as string;
  assert.equal(html.match(/<\/script/g)!.length, 1);
  assert.equal(bundle["text/plain"], '[figure "Loss": 1 traces, 3 points]');
  assert.notEqual(figureBundle(FIGURE)["text/html"], html, "each place in the page has its own id");
  assert.equal(figureText({ data: [] }), "[figure: 0 traces, 0 points]");
  assert.deepEqual(Object.keys(chartBundle([LINES])).sort(), forms);
});

/** Runs a figure's script in a page made of nothing; returns what Plotly was given. */
async function drawnIn(html: string, background: string, theme?: string): Promise<unknown[]> {
  const script = /<script>([\s\S]*)<\/script>/.exec(html)![1]!;
  const drawn: unknown[][] = [];
  const page = { nibblePlotly: undefined as unknown, Plotly: undefined as unknown };
  const document = {
    getElementById: (name: string) => ({ name }),
    body: { dataset: { jpThemeLight: theme } },
  };
  const plotly = { newPlot: (...args: unknown[]) => drawn.push(args) };
  const run = new Function(
    "window",
    "document",
    "Plotly",
    "getComputedStyle",
    `return ${script.trim().replace(/;$/, "")}`,
  );
  const done = run(page, document, plotly, () => ({ backgroundColor: background })) as Promise<void>;
  page.nibblePlotly = Promise.resolve().then(() => page.Plotly = plotly);
  await done;
  assert.equal(drawn.length, 1);
  return drawn[0]!;
}

Deno.test("the script waits for the library, draws what it was given, and takes the page's colours", async () => {
  const html = figureBundle(FIGURE)["text/html"] as string;
  const id = /<div id="([^"]+)"/.exec(html)![1]!;
  const [place, data, light] = await drawnIn(html, "rgb(255, 255, 255)") as [
    unknown,
    unknown,
    { font: { color: string } },
  ];
  assert.deepEqual(place, { name: id });
  assert.deepEqual(data, FIGURE.data);
  const colourOf = async (background: string, theme?: string) =>
    (await drawnIn(html, background, theme) as [unknown, unknown, { font: { color: string } }])[2].font.color;
  const dark = await colourOf("rgb(17, 17, 17)");
  assert.notEqual(dark, light.font.color);
  assert.equal(await colourOf("rgb(255, 255, 255)", "false"), dark, "JupyterLab says its theme itself");
  assert.equal(await colourOf("rgb(17, 17, 17)", "true"), light.font.color);
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

Deno.test("lines keep their places, names and styles, and say what they show", () => {
  const { data, layout } = figureOf([LINES]);
  assert.deepEqual(data.map((t) => [t.name, t.x, t.y]), [["a", [0, 1, 2], [3, 2, 1]], ["b", [0, 2], [4, 1]]]);
  assert.equal((data[1]!.line as { dash: string }).dash, "dash");
  assert.equal((layout!.xaxis as { title: { text: string } }).title.text, "step");
  assert.equal(
    figureText({ data, layout: layout! }),
    '[figure "Loss": Line chart. a: from 3 to 1 over step 0 to 2, between 1 and 3. b: from 4 to 1 over step 0 to 2, between 1 and 4.]',
  );
  assert.throws(() => lineChart({ a: [1, 2] }, { title: "x", at: [1] }), /2 values at 1 places/);
});

Deno.test("a histogram counts every number once, the ends included", () => {
  const [trace] =
    histogramChart({ a: [0, 0.1, 0.5, 1, 1, 2, NaN] }, { title: "h", bins: 2, range: [0, 1] }).traces;
  assert.deepEqual([trace!.x, trace!.y], [[0.25, 0.75], [2, 3]]);
  const constant = histogramChart({ a: [5, 5] }, { title: "h", bins: 3 }).traces[0]!;
  assert.deepEqual(constant.y, [2, 0, 0]);
});

Deno.test("names of bars are categories even when they are figures", () => {
  const { layout } = figureOf([barChart({ error: [1, 2] }, { title: "t", at: [64, 256] })]);
  assert.equal((layout!.xaxis as { type: string }).type, "category");
});

Deno.test("a heat map puts 0 at white when it diverges, and refuses ragged rows", () => {
  const chart = heatChart([[1, -3], [0, 2]], { title: "h", diverging: true });
  assert.deepEqual(chart.range, [-3, 3]);
  assert.equal(colour(0.5, true), "#f7f7f7");
  assert.equal(figureOf([chart]).data[0]!.zmax, 3);
  assert.throws(() => heatChart([[1], [1, 2]], { title: "h" }), /rows of one length/);
});

Deno.test("several charts share a figure, the first large", () => {
  const rate = lineChart({ rate: [1, 2] }, { title: "rate" });
  const { data, layout } = figureOf([LINES, rate, rate]);
  assert.deepEqual(data.map((t) => t.xaxis), [undefined, undefined, "x2", "x3"]);
  const domain = (key: string) => (layout![key] as { domain: number[] }).domain;
  assert.ok(domain("yaxis")[0]! > domain("yaxis2")[1]!, "the small ones lie below");
  assert.ok(domain("xaxis2")[1]! < domain("xaxis3")[0]!, "and beside each other");
});

Deno.test("the picture has a title and a description, every series, and no number that is none", () => {
  const charts: Chart[][] = [
    [LINES],
    [lineChart({ a: [1, 10, 100] }, { title: "<log>", at: [1, 10, 100], log: "xy" })],
    [lineChart({ one: [2] }, { title: "a point" })],
    [lineChart({ none: [] }, { title: "nothing" })],
    [lineChart({ gap: [1, NaN, Infinity, 2] }, { title: "gap" })],
    [barChart({ a: [1, 2], b: [3, -4] }, { title: "bars", at: ["x", "y"] })],
    [histogramChart({ a: [1, 2, 2] }, { title: "bins", bins: 4 })],
    [heatChart([[1, NaN], [3, 4]], { title: "heat", rows: ["r", "s"], columns: ["c", "d"] })],
    [LINES, lineChart({ rate: [1, 2] }, { title: "rate" })],
  ];
  for (const panel of charts) {
    const svg = svgOf(panel);
    assert.match(svg, /^<svg [^>]*role="img"><title>[^<]+<\/title><desc>[^<]+<\/desc>/);
    assert.doesNotMatch(svg, /NaN|Infinity|undefined|<log>/, panel[0]!.title);
  }
  const svg = svgOf([LINES]);
  for (const i of [0, 1]) assert.ok(svg.includes(`stroke="${COLOURS[i]}"`));
  assert.ok(svg.includes("stroke-dasharray"));
});

Deno.test("many points are thinned out in the picture, and the last one stays", () => {
  const y = Array.from({ length: 10_000 }, (_, i) => i);
  const svg = svgOf([lineChart({ y }, { title: "long" })]);
  assert.ok(svg.length < 12_000, `${svg.length} characters`);
  const short = svgOf([lineChart({ y: [0, 9999] }, { title: "long" })]);
  const end = (text: string) => /L([\d.]+ [\d.]+)" fill="none"/.exec(text)![1];
  assert.equal(end(svg), end(short));
});

Deno.test("neighbouring series differ in lightness too, on white and on black", () => {
  // W3C's relative luminance and contrast (WCAG 2.1)
  const luminance = (hex: string) => {
    const [r, g, b] = [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16) / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4) as [number, number, number];
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a: string, b: string) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p) as [number, number];
    return (x + 0.05) / (y + 0.05);
  };
  for (const paint of COLOURS.slice(0, 3)) {
    assert.ok(contrast(paint, "#ffffff") >= 3 && contrast(paint, "#111111") >= 3, paint);
  }
});
