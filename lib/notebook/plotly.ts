/**
 * Plotly figures that need no network: the library is put into the notebook once, compressed.
 * @module
 */
import { display, jupyter, type MimeBundle } from "./kernel.ts";

/** A figure as plotly.js takes it (https://plotly.com/javascript/reference). */
export interface Figure {
  data: Record<string, unknown>[];
  layout?: Record<string, unknown>;
}

/** Whether something is a figure. */
export function isFigure(x: unknown): x is Figure {
  return typeof x === "object" && x !== null && "data" in x && Array.isArray(x.data) &&
    x.data.every((trace) => typeof trace === "object" && trace !== null && !Array.isArray(trace)) &&
    Object.keys(x).every((key) => ["data", "layout", "frames", "config"].includes(key));
}

/** Layout of every figure; a figure's own keys win. */
const LAYOUT = {
  height: 360,
  margin: { t: 48, r: 24, b: 48, l: 64 },
  colorway: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"], // Okabe and Ito
};

/**
 * A figure in every form: for notebooks that draw Plotly themselves, for those that run HTML, as a picture where
 * there is one, and as text.
 *
 * @param svg a picture of the same, for viewers that run no scripts
 */
export function figureBundle({ data, layout = {} }: Figure, svg?: string): MimeBundle {
  const figure = { data, layout: { ...LAYOUT, ...layout } };
  const id = `plot-${crypto.randomUUID()}`;
  const json = JSON.stringify(figure).replaceAll("<", "\\u003c");
  const draw = `(async () => {
  const place = document.getElementById(${JSON.stringify(id)}), figure = ${json};
  for (let i = 0; !window.nibblePlotly && i < 200; i++) await new Promise((k) => setTimeout(k, 50));
  await window.nibblePlotly;
  if (window.Plotly) Plotly.newPlot(place, figure.data, figure.layout, { responsive: true });
  else place.textContent = "Plotly is not in this page: run the notebook's cells.";
})();`;
  return {
    "application/vnd.plotly.v1+json": figure,
    "text/html":
      `<div id="${id}" style="min-height:${figure.layout.height}px"></div><script>${draw}</script>`,
    ...(svg ? { "image/svg+xml": svg } : {}),
    "text/plain": figureText(figure),
  };
}

/** `[figure "Loss": 2 traces, 40 points]` */
export function figureText({ data, layout = {} }: Figure): string {
  const title = layout.title as { text?: string } | string | undefined;
  const name = typeof title === "string" ? title : title?.text;
  const points = data.reduce((n, trace) => n + (Array.isArray(trace.y) ? trace.y.length : 0), 0);
  return `[figure${name ? ` "${name}"` : ""}: ${data.length} traces, ${points} points]`;
}

/**
 * HTML that puts plotly.js into a page: 10 MB, carried as 2.6 MB of gzip in base64. The script is run with AMD's
 * `define` hidden, since notebooks load require.js, under which the library would not become `window.Plotly`.
 */
export async function libraryHtml(source: string): Promise<string> {
  const packed = new Blob([source]).stream().pipeThrough(new CompressionStream("gzip"));
  const base64 = new Uint8Array(await new Response(packed).arrayBuffer()).toBase64();
  return `<script>window.nibblePlotly ??= (async () => {
  if (window.Plotly) return;
  const bytes = Uint8Array.from(atob("${base64}"), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = "(function () { var define, module, exports;" + text + "\\n}).call(window)";
  document.head.append(script);
})();</script>`;
}

let loaded: Promise<void> | undefined;

/** Puts the library into the notebook, at the first figure. It is read only then: other programs never fetch it. */
export function loadPlotly(): Promise<void> {
  return loaded ??= (async () => {
    const { default: source } = await import("plotly.js-dist/plotly.js", { with: { type: "text" } });
    const kernel = jupyter();
    if (kernel) {
      await display(kernel, { "text/html": await libraryHtml(source), "text/plain": "[plotly.js]" });
    }
  })();
}
