/**
 * The metrics in a file, for node_exporter's textfile collector. Each text replaces the last as a whole, so that a reader
 * never sees half of one.
 */

import { errorText } from "../errors.ts";

/** A file of metrics. */
export class Textfile {
  readonly #path: string;
  readonly #warn: (line: string) => void;
  #failing = false;

  constructor(path: string, warn: (line: string) => void) {
    this.#path = path;
    this.#warn = warn;
  }

  /** Replaces the text. A failure is reported once, until a text is written again. */
  async write(text: Uint8Array): Promise<void> {
    // The collector reads names that end with .prom, so this one is left alone.
    const unfinished = `${this.#path}.${Deno.pid}`;
    try {
      await Deno.writeFile(unfinished, text, { mode: 0o644 });
      await Deno.rename(unfinished, this.#path);
      this.#failing = false;
    } catch (error) {
      if (!this.#failing) this.#warn(`cannot write the metrics into ${this.#path}: ${errorText(error)}; trying again`);
      this.#failing = true;
      await Deno.remove(unfinished).catch(() => {});
    }
  }

  /** Removes the file: what it says is over. */
  async remove(): Promise<void> {
    await Deno.remove(this.#path).catch(() => {});
  }
}
