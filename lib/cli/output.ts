/**
 * The output of a command: data to stdout, messages and progress to stderr, without colours. A stream that cannot be
 * written (its reader closed the pipe, the disk is full) does not end the command, which may serve a disk; it makes the
 * exit status 1.
 */

import { errorText } from "../errors.ts";
import type { LogLevel } from "../log.ts";

/** How long a message waits for a reader that lets a non-blocking pipe fill up. */
const PATIENCE_MS = 1_000;

/** A stream that writes synchronously, as Deno.stdout does. */
export interface ByteSink {
  writeSync(bytes: Uint8Array): number;
  isTerminal(): boolean;
}

/** The two streams of a command. */
export class Output {
  readonly #stdout: ByteSink;
  readonly #stderr: ByteSink;
  readonly #encoder = new TextEncoder();
  readonly #columns: () => number;
  #dataFailed = false;
  /** Messages that could not be written since the last one that could. */
  #messagesLost = 0;
  #messagesFailed = false;
  /** A line of progress is on the terminal, without a line's end. */
  #showsProgress = false;

  /** How a message is written; unchanged, unless stderr goes to a log that knows levels. */
  dress: (message: string, level: LogLevel) => string = (message) => message;

  /** `columns` yields the width of the terminal. */
  constructor(stdout: ByteSink = Deno.stdout, stderr: ByteSink = Deno.stderr, columns = terminalColumns) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#columns = columns;
  }

  /** Something could not be written. */
  get failed(): boolean {
    return this.#dataFailed || this.#messagesFailed;
  }

  /** True if stderr is a terminal. Progress is shown only then. */
  get messagesOnTerminal(): boolean {
    return this.#stderr.isTerminal();
  }

  /** The present width for data, in characters: that of the terminal, or Infinity if stdout is none. */
  get columns(): number {
    return this.#stdout.isTerminal() ? this.#columns() : Infinity;
  }

  /** The same for messages, by stderr. */
  get messageColumns(): number {
    return this.#stderr.isTerminal() ? this.#columns() : Infinity;
  }

  /**
   * Writes data unchanged. After a failure further data is dropped. It is reported on stderr, unless the reader has closed
   * the pipe.
   */
  data(text: string): void {
    if (this.#dataFailed) return;
    this.endProgress();
    try {
      writeAll(this.#stdout, this.#encoder.encode(text), Infinity);
    } catch (error) {
      this.#dataFailed = true;
      // Its reader has seen enough, as in `xenblk list | head`: other programs die of SIGPIPE then, and say nothing.
      if (error instanceof Deno.errors.BrokenPipe) return;
      this.message(`xenblk: Cannot write to standard output: ${errorText(error)}`);
    }
  }

  /** Writes one JSON value, followed by a line break. */
  json(value: unknown): void {
    this.data(JSON.stringify(value, undefined, 2) + "\n");
  }

  /** Writes one line for a person to stderr. An error is one that ends the command. */
  message(line: string, level: LogLevel = "info"): void {
    this.raw(this.dress(line, level) + "\n");
  }

  /** Shows a line of progress in place of the last one. Only for a terminal; what is written next takes its place. */
  showProgress(line: string): void {
    this.#showsProgress = false; // it is written over
    // Cut to the width: a wrapped line could not be rewritten.
    this.raw(`\r${line.slice(0, this.messageColumns - 1)}\x1b[K`);
    this.#showsProgress = true;
  }

  /** Erases the line of progress, if one is shown. */
  endProgress(): void {
    if (!this.#showsProgress) return;
    this.#showsProgress = false;
    this.raw("\r\x1b[K");
  }

  /** Writes text to stderr unchanged. Text that cannot be written is dropped; the next text that can says so. */
  raw(text: string): void {
    this.endProgress();
    const lost = this.#messagesLost;
    const notice = lost === 0 ? "" : `xenblk: ${lost} message${lost === 1 ? "" : "s"} could not be written here\n`;
    try {
      writeAll(this.#stderr, this.#encoder.encode(notice + text), lost === 0 ? PATIENCE_MS : 0);
      this.#messagesLost = 0;
    } catch {
      this.#messagesFailed = true;
      this.#messagesLost++;
    }
  }
}

/** Writes everything. Throws if that fails, or if the stream takes nothing for `patienceMs`. */
function writeAll(sink: ByteSink, bytes: Uint8Array, patienceMs: number): void {
  let waitedMs = 0;
  for (let done = 0; done < bytes.length;) {
    try {
      done += sink.writeSync(bytes.subarray(done));
    } catch (error) {
      // The pipe is full, and another process, such as npx, made it non-blocking.
      if (!(error instanceof Deno.errors.WouldBlock) || waitedMs >= patienceMs) throw error;
      pause(1);
      waitedMs++;
    }
  }
}

function terminalColumns(): number {
  try {
    return Deno.consoleSize().columns;
  } catch {
    return Infinity;
  }
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
