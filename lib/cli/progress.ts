/**
 * A progress line on a terminal, rewritten in place.
 * If stderr is not a terminal, nothing is shown.
 */

import type { Output } from "./output.ts";

/** Least time between two updates. */
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

  /** Shows the line, unless one was shown less than 100 ms ago. */
  update(line: string): void {
    if (!this.#shown || this.#now() - this.#drawnAt < REDRAW_MS) return;
    this.#drawnAt = this.#now();
    this.#drawn = true;
    // Cut to the width: a wrapped line could not be rewritten.
    this.#output.raw(`\r${line.slice(0, this.#output.messageColumns - 1)}\x1b[K`);
  }

  /** Erases the line, so that something else can be written. */
  [Symbol.dispose](): void {
    if (this.#drawn) this.#output.raw("\r\x1b[K");
    this.#drawn = false;
  }
}
