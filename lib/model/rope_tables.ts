/**
 * The tables of rotary positions that a model keeps, and those that depend on a sequence's length.
 * @module
 */
import { ropeTable } from "../tensor/ops/rope.ts";
import { keep, type Tensor } from "../tensor/tensor.ts";
import type { ModelConfig } from "./config.ts";

/** Tables of cosines and sines. */
export interface RopeTables {
  /** Bytes of those that are kept. */
  readonly bytes: number;
  /**
   * The table for a sequence of so many positions (`max(position_ids) + 1` in Transformers). A `dynamic` table beyond
   * `max_position_embeddings` is another for every length: it is made anew and belongs to the caller's scope.
   */
  forLength(length: number): Tensor;
  /** Whether keys rotated before a sequence grew to this length must be made anew: `longrope` changes tables there. */
  renews(length: number): boolean;
  dispose(): void;
}

/** How many positions a model of this config may be given at most. */
export function positionLimit(c: ModelConfig): number {
  const growth = c.rope_scaling?.rope_type === "dynamic" ? c.rope_scaling.factor ?? 1 : 1;
  return Math.floor(c.max_position_embeddings * growth);
}

/** Tables of `positions` positions; undefined for a model without rotary embedding. */
export function ropeTables(c: ModelConfig, positions: number): RopeTables | undefined {
  if (!c.layers.some((l) => l.rope)) return undefined;
  const { rope_scaling: scaling, max_position_embeddings: trained } = c;
  const make = (length: number) => ropeTable(c.rotary_dim, c.rope_theta, positions, scaling, length);
  const type = scaling?.rope_type;
  const original = type === "longrope" ? scaling!.original_max_position_embeddings! : trained;
  const short = keep(make(Math.min(positions, original)));
  const long = type === "longrope" && positions > original ? keep(make(positions)) : undefined;
  return {
    bytes: short.bytes + (long?.bytes ?? 0),
    forLength(length) {
      if (length <= original) return short;
      return long ?? (type === "dynamic" ? make(length) : short);
    },
    renews: (length) => long !== undefined && length === original + 1,
    dispose() {
      short.dispose();
      long?.dispose();
    },
  };
}
