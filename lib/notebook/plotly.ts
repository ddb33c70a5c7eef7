/**
 * plotly.js inside the notebook, so that figures need no network: put there once, compressed, at the first figure.
 * @module
 */
import { display, jupyter } from "./kernel.ts";

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

/** What stands for the library in text; tools that keep outputs know it by this. */
export const LIBRARY_TEXT = "[plotly.js]";

let loaded: Promise<void> | undefined;

/** Puts the library into the notebook, at the first figure. It is read only then: other programs never fetch it. */
export function loadPlotly(): Promise<void> {
  return loaded ??= (async () => {
    const { default: source } = await import("plotly.js-dist/plotly.js", { with: { type: "text" } });
    const kernel = jupyter();
    if (kernel) {
      await display(kernel, { "text/html": await libraryHtml(source), "text/plain": LIBRARY_TEXT });
    }
  })();
}
