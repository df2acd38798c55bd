/**
 * What the process of a plugin writes to its standard output and error: log lines, limited in number and length, and the
 * last lines for the report of its end.
 */

import type { Logger } from "../../lib/log.ts";
import { LEVEL_MARK } from "./layout.ts";

/** Lines that are logged per minute, and of each line so many characters. */
const LINES_PER_MINUTE = 60;
const LINE_CHARACTERS = 1000;
const MINUTE_MS = 60_000;
/** After so many bytes comes a rest, and the plugin's writes wait: this thread has other things to do. */
const BYTES_IN_A_ROW = 64 << 10;
const REST_MS = 50;
/** Lines that a report quotes. */
const QUOTED_LINES = 3;
/** A line of a stack, or a mark below a line of code: the lines around it say more. */
const STACK = /^\s+(at |[\^~])/;
/** Said before V8's report of where its memory went. */
const OUT_OF_MEMORY = /out of memory|Array buffer allocation failed/i;

const LEVELS: Readonly<Record<string, keyof Logger>> = { d: "debug", i: "info", w: "warning", e: "error" };

/** The output of one process. */
export class PluginOutput {
  readonly #log: Logger;
  #last: string[] = [];
  #sinceMs = -MINUTE_MS;
  #logged = 0;
  #suppressed = 0;
  #hasNoMemory = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** The process said that it has no memory left. */
  get hasNoMemory(): boolean {
    return this.#hasNoMemory;
  }

  /** Its last words, after a colon; nothing if it was silent. */
  get last(): string {
    return this.#last.length === 0 ? "" : `: ${this.#last.join("; ")}`;
  }

  /** Takes lines until the stream ends. Never rejects. */
  async follow(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    let inARow = 0;
    try {
      for await (const bytes of stream) {
        const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
        rest = lines.pop()!.slice(0, LINE_CHARACTERS);
        for (const line of lines) this.#take(line);
        inARow += bytes.length;
        if (inARow < BYTES_IN_A_ROW) continue;
        inARow = 0;
        await new Promise((resolve) => setTimeout(resolve, REST_MS));
      }
    } catch {
      // The process has ended.
    }
    this.#take(rest);
    this.#reportSuppressed();
  }

  #take(line: string): void {
    if (line.trim() === "") return;
    const isLog = line.startsWith(LEVEL_MARK);
    const level = isLog ? LEVELS[line[1] ?? ""] ?? "warning" : "warning";
    const text = (isLog ? line.slice(2) : line).slice(0, LINE_CHARACTERS);
    if (OUT_OF_MEMORY.test(text)) this.#hasNoMemory = true;
    if (!isLog && !STACK.test(text)) this.#last = [...this.#last, text.trim()].slice(-QUOTED_LINES);
    const nowMs = performance.now();
    if (nowMs - this.#sinceMs >= MINUTE_MS) {
      this.#reportSuppressed();
      this.#sinceMs = nowMs;
      this.#logged = 0;
    }
    if (++this.#logged <= LINES_PER_MINUTE) this.#log[level](text);
    else this.#suppressed++;
  }

  #reportSuppressed(): void {
    if (this.#suppressed > 0) this.#log.warning(`suppressed ${this.#suppressed} lines of the plugin`);
    this.#suppressed = 0;
  }
}
