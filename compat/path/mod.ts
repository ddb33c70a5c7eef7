/**
 * Stand-in for `@std/path` where JSR is out of reach: the same names over Node's built-in module.
 * @module
 */
import { fileURLToPath, pathToFileURL } from "node:url";
export { basename, dirname, extname, isAbsolute, join, normalize, relative, resolve } from "node:path";

/** `file:` URL to path. */
export function fromFileUrl(url: string | URL): string {
  return fileURLToPath(url);
}

/** Absolute path to `file:` URL. */
export function toFileUrl(path: string): URL {
  return pathToFileURL(path);
}
