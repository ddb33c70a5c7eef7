/**
 * Colours that all kinds of colour vision tell apart, on light ground and on dark.
 * @module
 */

/** Of series: Okabe and Ito's palette (2008, "Color Universal Design"), blue first. */
export const COLOURS: readonly string[] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/** Of numbers from small to large: five stations of viridis, which also grows lighter evenly. */
export const SEQUENTIAL: readonly string[] = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];

/** Of numbers on both sides of 0: blue, white, red; no green in it. */
export const DIVERGING: readonly string[] = ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"];

/** The colour at `share` of the way, 0 to 1. */
export function colour(share: number, diverging = false): string {
  const stops = diverging ? DIVERGING : SEQUENTIAL;
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(place)), t = place - i;
  const part = (hex: string, k: number) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mix = [0, 1, 2].map((k) => Math.round(part(stops[i]!, k) * (1 - t) + part(stops[i + 1]!, k) * t));
  return `#${mix.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
}

/** Plotly's form of a scale of colours. */
export function colorscale(diverging: boolean): [number, string][] {
  const stops = diverging ? DIVERGING : SEQUENTIAL;
  return stops.map((hex, i) => [i / (stops.length - 1), hex]);
}
