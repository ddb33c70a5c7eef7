/**
 * The loss over the steps, as a picture for the output folder and as text for the terminal.
 * @module
 */
import { defaultSmoothing, inOrder, type LossCurve, type LossPoint, rangeOf, smooth } from "./loss_points.ts";

export { type LossCurve, type LossPoint, smooth } from "./loss_points.ts";
export { lossCurveText, sparkline } from "./loss_text.ts";

const WIDTH = 760;
const HEIGHT = 420;
const PLOT = { left: 64, top: 68, right: 736, bottom: 362 };
/** More points than this are thinned out: no screen shows them. */
const MOST_POINTS = 1000;

// Blue and vermilion of Okabe and Ito's palette, which all kinds of colour vision tell apart; their lighter
// kin on dark ground. Shape tells them apart too: a line for training, a dashed line with rings for evaluation.
const STYLE = `
  .ground { fill: #ffffff; stroke: #d0d7de }
  text { fill: #1f2328; font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
  .title { font-size: 16px; font-weight: 600 }
  .quiet { fill: #59636e; font-size: 12px }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .axis { stroke: #59636e; stroke-width: 1 }
  .train, .raw { stroke: #0072b2; fill: none; stroke-linejoin: round; stroke-linecap: round }
  .train { stroke-width: 2.25 }
  .raw { stroke-width: 1; opacity: .35 }
  .eval { stroke: #d55e00; stroke-width: 2; stroke-dasharray: 6 4; fill: none; stroke-linejoin: round }
  .ring { stroke: #d55e00; stroke-width: 2; fill: #ffffff }
  .dot { fill: #0072b2 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }
    text { fill: #f0f6fc }
    .quiet { fill: #9198a1 }
    .grid { stroke: #2a313c }
    .axis { stroke: #9198a1 }
    .train, .raw { stroke: #56b4e9 }
    .dot { fill: #56b4e9 }
    .eval, .ring { stroke: #e69f00 }
    .ring { fill: #0d1117 }
  }`;

/**
 * The curve as a self-contained SVG: axes with round numbers, legend, a title and description for screen readers,
 * light or dark as the reader's system asks.
 *
 * @example
 * ```ts
 * import { lossCurveSvg } from "./loss_curve.ts";
 * const svg = lossCurveSvg({
 *   train: [{ step: 1, loss: 3.4 }, { step: 20, loss: 2.9 }, { step: 40, loss: 2.7 }],
 *   eval: [{ step: 0, loss: 3.5 }, { step: 40, loss: 2.8 }],
 *   title: "SmolLM2-135M on the Devil's Dictionary",
 * });
 * if (!svg.startsWith("<svg") || !svg.includes("from 3.400 to 2.700")) throw new Error("the description");
 * ```
 */
export function lossCurveSvg(curve: LossCurve): string {
  const train = inOrder(curve.train);
  const evals = inOrder(curve.eval);
  const all = [...train, ...evals];
  const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" ` +
    `height="${HEIGHT}" role="img" aria-labelledby="curve-title curve-desc">\n` +
    `<title id="curve-title">${escapeXml(curve.title)}</title>\n` +
    `<desc id="curve-desc">${escapeXml(describe(curve, train, evals))}</desc>\n<style>${STYLE}\n</style>\n` +
    `<rect class="ground" x="0.5" y="0.5" width="${WIDTH - 1}" height="${HEIGHT - 1}" rx="8"/>\n` +
    `<text class="title" x="${PLOT.left}" y="28">${escapeXml(shorten(curve.title, 70))}</text>\n`;
  if (all.length === 0) {
    return `${head}<text x="${WIDTH / 2}" y="${
      HEIGHT / 2
    }" text-anchor="middle">No loss was logged.</text>\n</svg>\n`;
  }

  const xs = axisOf(all.map((p) => p.step), 7, 1);
  const ys = axisOf(all.map((p) => p.loss), 6, 0);
  const x = (step: number) => at(PLOT.left + (step - xs.from) / (xs.to - xs.from) * (PLOT.right - PLOT.left));
  const y = (loss: number) =>
    at(PLOT.bottom - (loss - ys.from) / (ys.to - ys.from) * (PLOT.bottom - PLOT.top));
  const path = (points: readonly LossPoint[]) =>
    points.map((p, i) => `${i ? "L" : "M"}${x(p.step)} ${y(p.loss)}`).join("");

  const parts = [head];
  for (const tick of ys.ticks) {
    parts.push(
      `<path class="grid" d="M${PLOT.left} ${y(tick)}H${PLOT.right}"/>` +
        `<text class="quiet" x="${PLOT.left - 8}" y="${y(tick)}" dy=".35em" text-anchor="end">${
          ys.label(tick)
        }</text>\n`,
    );
  }
  for (const tick of xs.ticks) {
    parts.push(
      `<path class="axis" d="M${x(tick)} ${PLOT.bottom}v5"/>` +
        `<text class="quiet" x="${x(tick)}" y="${PLOT.bottom + 20}" text-anchor="middle">${
          xs.label(tick)
        }</text>\n`,
    );
  }
  parts.push(`<path class="axis" d="M${PLOT.left} ${PLOT.bottom}H${PLOT.right}"/>\n`);
  const middle = (PLOT.top + PLOT.bottom) / 2;
  parts.push(
    `<text class="quiet" x="${(PLOT.left + PLOT.right) / 2}" y="${
      HEIGHT - 16
    }" text-anchor="middle">optimizer step</text>\n`,
    `<text class="quiet" transform="translate(18 ${middle}) rotate(-90)" text-anchor="middle">` +
      `${escapeXml(curve.axis ?? "loss (nats per token)")}</text>\n`,
  );

  const weight = curve.smoothing ?? defaultSmoothing(train.length);
  if (train.length === 1) {
    parts.push(`<circle class="dot" cx="${x(train[0].step)}" cy="${y(train[0].loss)}" r="4"/>\n`);
  }
  if (train.length > 1) {
    if (weight > 0) parts.push(`<path class="raw" d="${path(thinned(train))}"/>\n`);
    parts.push(`<path class="train" d="${path(thinned(smooth(train, weight)))}"/>\n`);
  }
  if (evals.length > 1) parts.push(`<path class="eval" d="${path(thinned(evals))}"/>\n`);
  if (evals.length <= 60) {
    for (const p of evals) {
      parts.push(
        `<circle class="ring" cx="${x(p.step)}" cy="${y(p.loss)}" r="4"><title>step ${p.step}: ` +
          `${p.loss.toFixed(4)}</title></circle>\n`,
      );
    }
  }
  parts.push(legend(train, evals, weight), "</svg>\n");
  return parts.join("");
}

/** At most {@link MOST_POINTS} of many points, first and last among them; of each stretch the lowest and highest. */
function thinned(points: readonly LossPoint[]): readonly LossPoint[] {
  if (points.length <= MOST_POINTS) return points;
  const stretches = MOST_POINTS / 2 - 1;
  const kept = new Set<LossPoint>([points[0]]);
  for (let i = 0; i < stretches; i++) {
    const part = points.slice(
      Math.floor(i * points.length / stretches),
      Math.floor((i + 1) * points.length / stretches),
    );
    const low = part.reduce((a, b) => b.loss < a.loss ? b : a);
    const high = part.reduce((a, b) => b.loss > a.loss ? b : a);
    for (const p of [low, high].sort((a, b) => a.step - b.step)) kept.add(p);
  }
  return [...kept.add(points[points.length - 1])];
}

interface Axis {
  from: number;
  to: number;
  ticks: number[];
  label(value: number): string;
}

/**
 * An axis with round numbers, 1, 2 or 5 times a power of ten apart, that covers all values.
 * @param least smallest distance of two ticks: 1 for steps, which have no halves
 */
function axisOf(values: readonly number[], most: number, least: number): Axis {
  let [low, high] = rangeOf(values);
  if (low === high) {
    const margin = least || Math.max(Math.abs(low) * 0.1, 0.1);
    [low, high] = [low - (low > 0 || !least ? margin : 0), high + margin];
  }
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const apart = Math.max(least, power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999)!);
  // Steps end where the run ends; the loss gets whole ticks so that the curve does not touch the frame.
  const from = least ? low : Math.floor(low / apart + 1e-9) * apart;
  const to = least ? high : Math.ceil(high / apart - 1e-9) * apart;
  const ticks = [];
  for (let i = Math.ceil(from / apart - 1e-9); i * apart <= to + apart * 1e-6; i++) ticks.push(i * apart);
  const digits = Math.max(0, -Math.floor(Math.log10(apart) + 1e-9));
  return {
    from,
    to,
    ticks,
    label: (v) => least && v >= 10_000 ? `${+(v / 1000).toFixed(1)}k` : v.toFixed(digits),
  };
}

function legend(train: LossPoint[], evals: LossPoint[], weight: number): string {
  const entries: string[] = [];
  const entry = (sample: string, label: string) => {
    const left = PLOT.left + entries.length * 290;
    entries.push(`<g transform="translate(${left} 48)">${sample}<text x="34" y="4">${label}</text></g>\n`);
  };
  if (train.length) {
    // What the line shows: its own end, and not that of the raw one behind it.
    const end = smooth(train, weight)[train.length - 1].loss.toFixed(3);
    entry('<path class="train" d="M0 0H26"/>', `train${weight > 0 ? " (smoothed)" : ""} ${end} at the end`);
  }
  if (evals.length) {
    entry(
      '<path class="eval" d="M0 0H26"/><circle class="ring" cx="13" cy="0" r="4"/>',
      `eval ${evals[evals.length - 1].loss.toFixed(3)} at the end`,
    );
  }
  return entries.join("");
}

/** What someone who cannot see the picture should know. */
function describe(curve: LossCurve, train: LossPoint[], evals: LossPoint[]): string {
  const say = (name: string, points: LossPoint[]) => {
    if (points.length === 0) return "";
    const first = points[0];
    const last = points[points.length - 1];
    return `${name} loss from ${first.loss.toFixed(3)} to ${last.loss.toFixed(3)}, ` +
      `steps ${first.step} to ${last.step} (${points.length} point${points.length === 1 ? "" : "s"}).`;
  };
  const lost = [...curve.train, ...curve.eval].filter((p) => !Number.isFinite(p.loss)).length;
  const left = lost ? `${lost} point${lost === 1 ? "" : "s"} that were not a number are left out.` : "";
  return ["Line chart.", say("Training", train), say("Evaluation", evals), left].filter(Boolean).join(" ");
}

function at(value: number): string {
  return String(Math.round(value * 10) / 10);
}

function shorten(text: string, most: number): string {
  const letters = [...text];
  return letters.length <= most ? text : `${letters.slice(0, most - 1).join("").trimEnd()}…`;
}

function escapeXml(text: string): string {
  return text
    // deno-lint-ignore no-control-regex -- XML 1.0 has no way to write these at all
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "")
    .replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
