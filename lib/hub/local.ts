/**
 * Paths and ids: what a user's text may mean, and whether it lies on this disk.
 * @module
 */
import { isAbsolute, join, resolve } from "@std/path";
import { NibbleError } from "../errors.ts";
import { expand } from "./settings.ts";

/** A Hub id: one or two names of letters, digits, `-`, `_` and `.`, at most 96 characters. */
const HUB_ID = /^(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)?$/;

/** A place where something was looked for, and why it was not taken. */
export type Looked = string[];

/**
 * Looks for a path as it is, then against `base`. Notes each place in `looked`.
 *
 * @returns the path that exists, as the user would find it from the current folder
 */
export function findLocal(text: string, base: string | undefined, looked: Looked): string | undefined {
  const path = expand(text);
  const places = [path];
  if (base !== undefined && !isAbsolute(path)) places.push(join(base, path));
  for (const place of places) {
    try {
      Deno.statSync(place);
      return place;
    } catch (error) {
      if (error instanceof Deno.errors.PermissionDenied) {
        throw new NibbleError("hub/unreadable", `Not allowed to read ${text}`, {
          where: place,
          cause: error,
        });
      }
      const full = resolve(place);
      if (!looked.some((l) => l.startsWith(`${full}:`))) looked.push(`${full}: no such file or folder`);
    }
  }
  return undefined;
}

/** Could this text be a Hub id? */
export function isHubId(text: string): boolean {
  return text.length <= 96 && HUB_ID.test(text) && !/\.(gguf|git|jsonl?|parquet|safetensors)$/.test(text);
}

/** The error of something found nowhere, with every place that was looked at. */
export function notFound(
  what: string,
  id: string,
  looked: Looked,
  remedy: string,
  cause?: unknown,
): NibbleError {
  return new NibbleError("hub/not-found", `Cannot find the ${what} "${id}"`, {
    where: looked.map((place, i) => (i === 0 ? "" : "         ") + place).join("\n"),
    remedy,
    cause,
  });
}
