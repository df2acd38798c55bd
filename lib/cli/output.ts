/**
 * Where a command writes: data to stdout, messages and progress to stderr. Texts are plain: colour is nowhere used.
 * A reader that goes away (`| head`) ends the output quietly, not the work. It must not know what is written.
 */

/** A stream that takes bytes at once, as Deno.stdout does. */
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
  #stdoutClosed = false;

  constructor(stdout: ByteSink = Deno.stdout, stderr: ByteSink = Deno.stderr, columns = terminalColumns) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#columns = columns;
  }

  /** True once the reader of stdout has gone: an endless writer should stop. */
  get stdoutClosed(): boolean {
    return this.#stdoutClosed;
  }

  /** True if a person watches stderr: only then is progress shown. */
  get messagesOnTerminal(): boolean {
    return this.#stderr.isTerminal();
  }

  /** Characters in a line of the terminal as wide as it is now; Infinity where none is. */
  get columns(): number {
    return this.#columns();
  }

  /** Data, as it is. */
  data(text: string): void {
    if (this.#stdoutClosed) return;
    this.#stdoutClosed = !writeAll(this.#stdout, this.#encoder.encode(text));
  }

  /** One JSON value, on lines of its own. */
  json(value: unknown): void {
    this.data(JSON.stringify(value, undefined, 2) + "\n");
  }

  /** One message line for a person. */
  message(line: string): void {
    this.raw(line + "\n");
  }

  /** Text to stderr as it is, for progress. */
  raw(text: string): void {
    writeAll(this.#stderr, this.#encoder.encode(text));
  }
}

/** Writes everything; false if the reader has gone. */
function writeAll(sink: ByteSink, bytes: Uint8Array): boolean {
  for (let done = 0; done < bytes.length;) {
    try {
      done += sink.writeSync(bytes.subarray(done));
    } catch (error) {
      if (error instanceof Deno.errors.BrokenPipe) return false;
      // A pipe that another process (npx, say) made non-blocking, and that is full for the moment.
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      pause(1);
    }
  }
  return true;
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
