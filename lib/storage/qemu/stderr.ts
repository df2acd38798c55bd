/**
 * What a daemon writes to its standard error, a file in its run directory: passed on to the log line by line, and the
 * last lines kept for the report of its death. A file, and no pipe, because the daemon outlives the process that started
 * it. What is in the file has not been logged yet.
 */

import type { Logger } from "../../log.ts";

/** Bytes of one look; what else is there is skipped. */
const LOOK_BYTES = 16 << 10;
/** Lines that a report quotes. */
const QUOTED_LINES = 3;

/** The standard error of one daemon. */
export class DaemonErrors {
  readonly #path: string;
  readonly #logger: Logger;
  #last: string[] = [];
  /** Bytes of the file that were looked at. */
  #seen = 0;
  #looking: Promise<void> = Promise.resolve();

  /** `logger` has the daemon's label and a limit of lines. */
  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
  }

  /** Logs what is new. Never rejects. */
  look(): Promise<void> {
    return this.#looking = this.#looking.then(() => this.#look()).catch(() => {}); // the directory is gone
  }

  /** Its last words, after a colon; nothing if it was silent. */
  get last(): string {
    return this.#last.length === 0 ? "" : `: ${this.#last.join("; ")}`;
  }

  async #look(): Promise<void> {
    using file = await Deno.open(this.#path, { read: true, write: true });
    const { size } = await file.stat();
    const unseen = size < this.#seen ? 0 : this.#seen;
    const start = Math.max(unseen, size - LOOK_BYTES);
    await file.seek(start, Deno.SeekMode.Start);
    const bytes = new Uint8Array(LOOK_BYTES);
    let length = 0;
    for (let read: number | null; (read = await file.read(bytes.subarray(length))) !== null && read > 0;) {
      length += read;
    }
    this.#seen = start + length;
    // It appends: to an empty file it writes at its start.
    if (this.#seen > 0 && (await file.stat()).size === this.#seen) {
      await file.truncate(0);
      this.#seen = 0;
    }
    const skipped = start - unseen;
    if (skipped > 0) this.#logger.warning(`skipped ${skipped} bytes of what it wrote to its standard error`);
    const lines = new TextDecoder().decode(bytes.subarray(0, length)).split("\n").filter((line) => line.trim() !== "");
    for (const line of lines) this.#logger.warning(line);
    this.#last = [...this.#last, ...lines].slice(-QUOTED_LINES);
  }
}
