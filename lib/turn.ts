/**
 * Giving the thread away.
 * @module
 */

/** Lets the event loop take a turn: signals such as Ctrl-C, timers and what was read arrive there, and only there. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
