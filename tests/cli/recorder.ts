/**
 * A stream for a command's output in tests.
 */

import type { ByteSink } from "../../lib/cli/output.ts";

/** A stream that keeps what is written, and takes only a few bytes at a time. */
export class Recorder implements ByteSink {
  text = "";
  readonly #terminal: boolean;
  readonly #faults: Error[];
  constructor(terminal = false, faults: Error[] = []) {
    this.#terminal = terminal;
    this.#faults = faults;
  }
  writeSync(bytes: Uint8Array): number {
    const fault = this.#faults.shift();
    if (fault !== undefined) throw fault;
    const taken = bytes.subarray(0, 5);
    this.text += new TextDecoder().decode(taken);
    return taken.length;
  }
  isTerminal(): boolean {
    return this.#terminal;
  }
}
