/**
 * One line on a terminal that says how far the work is, rewritten in place; nothing at all where no terminal is. It
 * must not know what the work is.
 */

import type { Output } from "../output.ts";

/** Least time between two drawings. */
const REDRAW_MS = 100;

/** A progress line; disposing erases it. */
export class Progress implements Disposable {
  readonly #output: Output;
  readonly #shown: boolean;
  readonly #now: () => number;
  #drawnAt = -Infinity;
  #drawn = false;

  /** `quiet` keeps it off even on a terminal; `now` yields milliseconds. */
  constructor(output: Output, quiet: boolean, now: () => number = () => performance.now()) {
    this.#output = output;
    this.#shown = !quiet && output.messagesOnTerminal;
    this.#now = now;
  }

  /** Shows the line, unless one was shown a moment ago. */
  update(line: string): void {
    if (!this.#shown || this.#now() - this.#drawnAt < REDRAW_MS) return;
    this.#drawnAt = this.#now();
    this.#drawn = true;
    // A line that went on in the next one could not be rewritten.
    this.#output.raw(`\r${line.slice(0, this.#output.columns - 1)}\x1b[K`);
  }

  /** Erases the line, so that something else can be written. */
  [Symbol.dispose](): void {
    if (this.#drawn) this.#output.raw("\r\x1b[K");
    this.#drawn = false;
  }
}
