/**
 * The output of a command: data to stdout, messages and progress to stderr, without colours. If the reader of stdout
 * closes the pipe (`| head`), data is dropped and the command continues.
 */

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
  #stdoutClosed = false;

  constructor(stdout: ByteSink = Deno.stdout, stderr: ByteSink = Deno.stderr, columns = terminalColumns) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#columns = columns;
  }

  /** True once the reader of stdout has closed the pipe. */
  get stdoutClosed(): boolean {
    return this.#stdoutClosed;
  }

  /** True if stderr is a terminal. Progress is shown only then. */
  get messagesOnTerminal(): boolean {
    return this.#stderr.isTerminal();
  }

  /** The present width of the terminal in characters; Infinity if there is none. */
  get columns(): number {
    return this.#columns();
  }

  /** Writes data unchanged. */
  data(text: string): void {
    if (this.#stdoutClosed) return;
    this.#stdoutClosed = !writeAll(this.#stdout, this.#encoder.encode(text));
  }

  /** Writes one JSON value, followed by a line break. */
  json(value: unknown): void {
    this.data(JSON.stringify(value, undefined, 2) + "\n");
  }

  /** Writes one line for a person to stderr. */
  message(line: string): void {
    this.raw(line + "\n");
  }

  /** Writes text to stderr unchanged. */
  raw(text: string): void {
    writeAll(this.#stderr, this.#encoder.encode(text));
  }
}

/** Writes everything; false if the reader has closed the pipe. */
function writeAll(sink: ByteSink, bytes: Uint8Array): boolean {
  for (let done = 0; done < bytes.length;) {
    try {
      done += sink.writeSync(bytes.subarray(done));
    } catch (error) {
      if (error instanceof Deno.errors.BrokenPipe) return false;
      // The pipe is full, and another process, such as npx, made it non-blocking.
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
