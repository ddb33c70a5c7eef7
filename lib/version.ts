/**
 * nibble's version, as `deno.json` has it.
 * @module
 */
import config from "../deno.json" with { type: "json" };

/** Version written into model cards, and part of what a tuning holds for. */
export const VERSION: string = config.version;
