import assert from "node:assert/strict";
import {
  lossCurveSvg,
  lossCurveText,
  type LossPoint,
  smooth,
  sparkline,
} from "../../lib/train/loss_curve.ts";

const line = (n: number, f: (i: number) => number): LossPoint[] =>
  Array.from({ length: n }, (_, i) => ({ step: i + 1, loss: f(i) }));

/** Tags of an XML text, checked for balance: an unclosed or crossed one throws. */
function elements(xml: string): { name: string; attributes: Record<string, string>; text: string }[] {
  const found: { name: string; attributes: Record<string, string>; text: string }[] = [];
  const open: typeof found = [];
  for (
    const [, text, close, name, inside, single] of xml.matchAll(/([^<]*)<(\/?)([\w]+)((?:\s[^<>]*?)?)(\/?)>/g)
  ) {
    assert.ok(!/&(?!#\d+;)/.test(text), `a bare ampersand in "${text}"`);
    if (open.length) open[open.length - 1].text += text;
    if (close) assert.equal(open.pop()?.name, name);
    else {
      const pairs = [...inside.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, key, value]) => [key, value]);
      const element = { name, attributes: Object.fromEntries(pairs), text: "" };
      found.push(element);
      if (!single) open.push(element);
    }
  }
  assert.equal(open.length, 0, "all elements are closed");
  return found;
}

/** Points of the one path of a class. */
function pathOf(svg: string, name: string): [x: number, y: number][] {
  const all = elements(svg).filter((e) =>
    e.name === "path" && e.attributes.class === name && e.attributes.d !== "M0 0H26"
  );
  assert.equal(all.length, 1, `one path of class ${name}`);
  return [...all[0].attributes.d.matchAll(/[ML]([\d.-]+) ([\d.-]+)/g)].map((
    [, x, y],
  ) => [Number(x), Number(y)]);
}

/** Reads a value back from a height, by the axis labels that were drawn. */
function valueAt(svg: string, y: number): number {
  const labels = elements(svg).filter((e) => e.attributes["text-anchor"] === "end")
    .map((e) => [Number(e.attributes.y), Number(e.text)]);
  const [[ya, va], [yb, vb]] = [labels[0], labels[labels.length - 1]];
  return va + (y - ya) / (yb - ya) * (vb - va);
}

Deno.test("points lie where the axis labels say", () => {
  const train = [{ step: 10, loss: 3.45 }, { step: 20, loss: 2.81 }, { step: 30, loss: 2.43 }];
  const svg = lossCurveSvg({ train, eval: [{ step: 0, loss: 3.6 }, { step: 30, loss: 2.5 }], title: "t" });
  const drawn = pathOf(svg, "train");
  assert.equal(drawn.length, 3);
  // Heights are rounded to a tenth of a unit; 294 units cover the axis, at most 2 wide here: 0.05 / 294 * 2.
  drawn.forEach(([, y], i) => assert.ok(Math.abs(valueAt(svg, y) - train[i].loss) < 4e-4 * 2));
  assert.ok(
    Math.abs((drawn[1][0] - drawn[0][0]) - (drawn[2][0] - drawn[1][0])) <= 0.11,
    "even steps, even widths",
  );
  assert.equal(pathOf(svg, "eval").length, 2);
  assert.equal(
    elements(svg).filter((e) => e.name === "circle" && e.text === "").length,
    3,
    "two rings and the legend's",
  );
});

Deno.test("axis labels are round, within the picture, and not crowded", () => {
  for (
    const [from, to, n] of [[4, 1, 40], [0.0012, 0.0011, 7], [12_000, 3, 90], [0.6931, 0.69, 25_000], [
      -3,
      5,
      12,
    ]]
  ) {
    const svg = lossCurveSvg({
      train: line(n, (i) => from + (to - from) * i / (n - 1)),
      eval: [],
      title: "",
    });
    const ys = elements(svg).filter((e) => e.attributes["text-anchor"] === "end");
    assert.ok(ys.length >= 3 && ys.length <= 9, `${ys.length} labels from ${from} to ${to}`);
    assert.equal(new Set(ys.map((e) => e.text)).size, ys.length, "no label twice");
    const values = ys.map((e) => Number(e.text));
    assert.ok(
      Math.min(...values) <= Math.min(from, to) && Math.max(...values) >= Math.max(from, to),
      "covers all",
    );
    for (const [x, y] of pathOf(svg, "train")) assert.ok(x >= 64 && x <= 736 && y >= 68 && y <= 362);
  }
});

Deno.test("title and labels are escaped, in full for readers of the title", () => {
  const title = `a <b> & "c" ${"long ".repeat(30)}\u0007`;
  const all = elements(lossCurveSvg({ train: line(3, (i) => 3 - i), eval: [], title, axis: "<loss>" }));
  const decode = (s: string) => s.replace(/&#(\d+);/g, (_, n) => String.fromCharCode(n));
  assert.equal(decode(all.find((e) => e.name === "title")!.text), title.slice(0, -1));
  const shown = decode(all.find((e) => e.attributes.class === "title")!.text);
  assert.ok(shown.startsWith('a <b> & "c"') && shown.endsWith("…") && shown.length <= 70);
  assert.ok(all.some((e) => decode(e.text) === "<loss>"));
});

Deno.test("nothing, one point, equal points, NaN: still a picture, never NaN in it", () => {
  const cases: [LossPoint[], LossPoint[]][] = [
    [[], []],
    [[{ step: 5, loss: 2 }], []],
    [[], [{ step: 0, loss: 0 }]],
    [line(4, () => 2), []],
    [[{ step: 1, loss: NaN }, { step: 2, loss: 1 }, { step: 3, loss: Infinity }], []],
  ];
  for (const [train, evals] of cases) {
    const svg = lossCurveSvg({ train, eval: evals, title: "edge" });
    elements(svg);
    assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
    assert.doesNotMatch(lossCurveText({ train, eval: evals, title: "edge" }), /NaN|Infinity|undefined/);
  }
  assert.match(lossCurveSvg({ train: [], eval: [], title: "" }), /No loss was logged/);
  assert.match(lossCurveSvg({ train: cases[4][0], eval: [], title: "" }), /2 points that were not a number/);
});

Deno.test("a long run is thinned out and keeps its ends and extremes", () => {
  const train = line(50_000, (i) => i === 31_234 ? 9 : 3 + Math.sin(i));
  const svg = lossCurveSvg({ train, eval: [], title: "long", smoothing: 0 });
  const drawn = pathOf(svg, "train");
  assert.ok(drawn.length <= 1000 && svg.length < 40_000, `${drawn.length} points`);
  assert.deepEqual([drawn[0][0], drawn[drawn.length - 1][0]], [64, 736]);
  assert.ok(Math.abs(valueAt(svg, Math.min(...drawn.map((p) => p[1]))) - 9) < 0.01, "the spike is there");
});

Deno.test("a resumed run's repeated steps are drawn once, the last told", () => {
  const train = [{ step: 1, loss: 9 }, { step: 2, loss: 9 }, { step: 2, loss: 3 }, { step: 1, loss: 4 }];
  assert.match(
    lossCurveSvg({ train, eval: [], title: "" }),
    /from 4\.000 to 3\.000, steps 1 to 2 \(2 points\)/,
  );
});

Deno.test("smoothing is unbiased at the start and leaves a constant alone", () => {
  smooth(line(9, () => 5), 0.9).forEach((p) => assert.ok(Math.abs(p.loss - 5) < 1e-12));
  // By hand, weight 1/2: 4; (4/4 + 1/2) / (3/4) = 2 for 4, 1.
  assert.deepEqual(smooth(line(2, (i) => [4, 1][i]), 0.5).map((p) => p.loss), [4, 2]);
  const points = line(40, (i) => i % 7);
  assert.deepEqual(smooth(points, 0), points);
  const svg = lossCurveSvg({ train: points, eval: [], title: "" });
  assert.equal(pathOf(svg, "raw").length, 40, "the raw line stays behind the smoothed one");
});

Deno.test("as text: high at the top, every column in its place", () => {
  const text = lossCurveText({
    train: line(5, (i) => 5 - i),
    eval: [{ step: 3, loss: 5 }],
    title: "tiny",
  }, { width: 5, height: 5 });
  assert.equal(
    text,
    [
      "tiny   • train   o eval",
      "5.000 ┤• o",
      "      │ •",
      "3.000 ┤  •",
      "      │   •",
      "1.000 ┤    •",
      "      └─────",
      "       1   5",
    ].join("\n"),
  );
  assert.equal(lossCurveText({ train: [], eval: [], title: "none" }), "none: no loss was logged");
});

Deno.test("sparklines", () => {
  assert.equal(sparkline([]), "");
  assert.equal(sparkline([3, 3, 3]), "▄▄▄");
  assert.equal(sparkline([0, NaN, 7]), "▁█");
  assert.equal([...sparkline(Array.from({ length: 999 }, (_, i) => i), 10)].length, 10);
  assert.equal(sparkline([0, 0, 7, 7], 2), "▁█");
});
