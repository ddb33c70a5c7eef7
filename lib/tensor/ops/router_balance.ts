/**
 * The load-balancing loss of a mixture of experts, beside the main loss.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/router_balance.wgsl" with { type: "text" };
import { grid1d, rowLanes } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor, zeros } from "../tensor.ts";

const kernel = defineKernel("router_balance", source);

/** The loss over one forward pass. */
export interface RouterBalance {
  /** Counts the router logits of a layer, `[rows, E]`, and returns them; their gradient takes the loss's share. */
  apply(layer: number, logits: Tensor): Tensor;
  /** Adds the weighted loss to the first element of `stats`, after the last layer. */
  addTo(stats: Tensor): void;
}

/**
 * `weight * E * sum over experts e of F_e P_e`: F_e is how often a row took expert `e` among its `k`, P_e its mean
 * probability, both over the rows of all layers without padding (Fedus et al. 2021, arXiv 2101.03961, equations 4 to
 * 6, with Transformers' sum over layers and choices).
 *
 * The loss joins all layers, so its gradient waits for the last of them: every layer's sums stay on the device, and
 * the backward pass, which begins after that, reads them. A layer that runs again under checkpointing writes the same
 * sums again.
 *
 * @param segments u32 `[rows]`, 0 for padding
 */
export function routerBalance(
  { layers, experts, k, weight }: { layers: number; experts: number; k: number; weight: number },
  segments: Tensor,
): RouterBalance {
  const sums = zeros([layers, 2 * experts + 1]); // made here: a block's own scope would end too early
  const launch = (
    entry: string,
    layer: number,
    bind: Record<string, Tensor>,
    groups: readonly [number, number?],
    row = 0,
  ) =>
    gpu().kernels.launch(kernel, {
      entry,
      ...(entry === "count" ? { consts: { LANES: rowLanes(segments.size * (3 * experts + 1)) } } : {}),
      params: { rows: segments.size, experts, k, layer, layers, row, weight },
      bind: Object.fromEntries(Object.entries({ ...bind, sums }).map(([name, t]) => [name, t.range])),
      groups,
    });
  return {
    apply(layer, logits) {
      if (logits.rows !== segments.size || logits.columns !== experts) {
        throw shapeError(
          "routerBalance",
          `logits [${logits.shape}] of ${segments.size} rows, ${experts} experts`,
        );
      }
      launch("count", layer, { x: logits, segments }, [experts]);
      return record("routerBalance", logits.view(logits.shape), [logits], (dy) => {
        const dx = empty(logits.shape);
        const { groups, row } = grid1d(Math.ceil(logits.rows / 64), 64);
        launch("backward", layer, { x: logits, segments, dy, dx }, groups, row);
        return [dx];
      });
    },
    addTo: (stats) => launch("value", 0, { stats }, [1]),
  };
}
