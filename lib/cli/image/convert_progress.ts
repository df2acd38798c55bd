/**
 * How far a conversion is: a bar on a terminal, a line every tenth in a pipe, or events in JSON.
 */

import { Progress, timeLeft } from "../progress.ts";
import type { Context } from "../verb.ts";

/** Characters of the bar. */
const BAR = 30;
/** Between two lines in a pipe, in percent. */
const STEP = 10;

/** Shows the progress of one conversion; disposing it erases the bar. */
export class ConvertProgress implements Disposable {
  readonly #context: Pick<Context, "output" | "quiet">;
  readonly #json: boolean;
  readonly #line: Progress;
  readonly #now: () => number;
  readonly #startMs: number;
  #shown = 0;

  /** `json`: events on stdout in place of all else. `now` yields milliseconds. */
  constructor(
    context: Pick<Context, "output" | "quiet">,
    json: boolean,
    now: () => number = () => performance.now(),
  ) {
    this.#context = context;
    this.#json = json;
    this.#line = new Progress(context.output, context.quiet || json, now);
    this.#now = now;
    this.#startMs = now();
  }

  /** Takes the percentage that qemu-img prints: of the data, without what reads as zeroes. */
  update(percent: number): void {
    const { output, quiet } = this.#context;
    if (this.#json) {
      output.data(JSON.stringify({ event: "progress", percent }) + "\n");
      return;
    }
    this.#line.update(this.#bar(percent));
    if (quiet || output.messagesOnTerminal || percent < this.#shown + STEP || percent >= 100) return;
    this.#shown = percent - percent % STEP;
    output.message(`xenblk: ${Math.floor(percent)}% copied${this.#timeLeft(percent)}`);
  }

  /** Erases the bar. */
  [Symbol.dispose](): void {
    this.#line[Symbol.dispose]();
  }

  #bar(percent: number): string {
    const done = Math.floor(percent / 100 * BAR);
    const bar = "#".repeat(done) + ".".repeat(BAR - done);
    return `${String(Math.floor(percent)).padStart(3)}% [${bar}]${this.#timeLeft(percent)}`;
  }

  #timeLeft(percent: number): string {
    return timeLeft(percent / 100, this.#now() - this.#startMs);
  }
}
