/**
 * All names that a recipe may use: settings, their other names, and keys of the Python stack.
 * @module
 */
import { IGNORED_KEYS, isSetting, SETTINGS, UNBUILT_KEYS } from "../train/settings.ts";
import { ALIASES, PART_OF } from "./aliases.ts";
import { nearest } from "../nearest.ts";

/** Every name that a recipe or the command line may use. */
export function knownNames(): string[] {
  return [
    ...Object.keys(SETTINGS),
    ...ALIASES.keys(),
    ...PART_OF.keys(),
    ...IGNORED_KEYS.keys(),
    ...UNBUILT_KEYS.keys(),
  ];
}

/** The known name nearest to a misspelled one; settings come before names that are only read past. */
export function nearestName(name: string): string | undefined {
  return nearest(name, [...Object.keys(SETTINGS), ...ALIASES.keys()]) ?? nearest(name, knownNames());
}

/** Whether a name may stand in a recipe. */
export function isKnown(name: string): boolean {
  return isSetting(name) || ALIASES.has(name) || PART_OF.has(name) || IGNORED_KEYS.has(name) ||
    UNBUILT_KEYS.has(name);
}
