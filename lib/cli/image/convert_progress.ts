/**
 * How far a conversion is: a bar on a terminal, a line every tenth in a pipe, or events in JSON.
 */

import { formatSize } from "../../sizes.ts";
import { Progress } from "../progress.ts";
import type { Context } from "../verb.ts";

/** Characters of the bar. */
const BAR = 30;
/** Between two lines in a pipe, in percent. */
const STEP = 10;
/** Before that the rate says little about the end. */
const ESTIMATE_MS = 2_000;

/** Shows the progress of one conversion; disposing it erases the bar. */
export class ConvertProgress implements Disposable {
  readonly #context: Pick<Context, "output" | "quiet">;
  readonly #sizeBytes: number;
  readonly #json: boolean;
  readonly #line: Progress;
  readonly #now: () => number;
  readonly #startMs: number;
  #shown = 0;

  /** `json`: events on stdout in place of all else. `now` yields milliseconds. */
  constructor(
    context: Pick<Context, "output" | "quiet">,
    sizeBytes: number,
    json: boolean,
    now: () => number = () => performance.now(),
  ) {
    this.#context = context;
    this.#sizeBytes = sizeBytes;
    this.#json = json;
    this.#line = new Progress(context.output, context.quiet || json, now);
    this.#now = now;
    this.#startMs = now();
  }

  /** Takes the percentage that qemu-img prints. */
  update(percent: number): void {
    const { output, quiet } = this.#context;
    if (this.#json) {
      output.data(JSON.stringify({ event: "progress", percent }) + "\n");
      return;
    }
    this.#line.update(this.#bar(percent));
    if (quiet || output.messagesOnTerminal || percent < this.#shown + STEP || percent >= 100) return;
    this.#shown = percent - percent % STEP;
    output.message(`xenblk: ${Math.floor(percent)}%, ${this.#amounts(percent)}`);
  }

  /** Erases the bar. */
  [Symbol.dispose](): void {
    this.#line[Symbol.dispose]();
  }

  #bar(percent: number): string {
    const done = Math.floor(percent / 100 * BAR);
    const bar = "#".repeat(done) + ".".repeat(BAR - done);
    return `${String(Math.floor(percent)).padStart(3)}% [${bar}] ${this.#amounts(percent)}`;
  }

  /** `1.2 GiB of 4.0 GiB, 210.0 MiB/s, 14 s left`. Zeroes count as copied. */
  #amounts(percent: number): string {
    const done = this.#sizeBytes * percent / 100;
    const ms = this.#now() - this.#startMs;
    const amount = `${formatSize(Math.floor(done))} of ${formatSize(this.#sizeBytes)}`;
    if (ms < ESTIMATE_MS || percent === 0) return amount;
    const left = Math.ceil(ms * (100 - percent) / percent / 1000);
    return `${amount}, ${formatSize(Math.floor(done / ms * 1000))}/s, ${left} s left`;
  }
}
