/**
 * The metrics in a file, for node_exporter's textfile collector. Each text replaces the last as a whole, so that a reader
 * never sees half of one.
 */

import { errorText } from "../errors.ts";

/** How the text of metrics begins. */
const BEGINNING = "# HELP ";

/** A file of metrics. */
export class Textfile {
  readonly #path: string;
  readonly #warn: (line: string) => void;
  #failing = false;
  /** What is there was written here. */
  #isOurs = false;

  constructor(path: string, warn: (line: string) => void) {
    this.#path = path;
    this.#warn = warn;
  }

  /** Replaces the text. A failure is reported once, until a text is written again. */
  async write(text: Uint8Array): Promise<void> {
    // The collector reads names that end with .prom, so this one is left alone.
    const unfinished = `${this.#path}.${Deno.pid}`;
    try {
      if (!this.#isOurs) await refuseOther(this.#path);
      await Deno.writeFile(unfinished, text, { mode: 0o644 });
      await Deno.rename(unfinished, this.#path);
      [this.#failing, this.#isOurs] = [false, true];
    } catch (error) {
      if (!this.#failing) this.#warn(`cannot write the metrics into ${this.#path}: ${errorText(error)}; trying again`);
      this.#failing = true;
      await Deno.remove(unfinished).catch(() => {});
    }
  }

  /** Removes the file: what it says is over. */
  async remove(): Promise<void> {
    if (this.#isOurs) await Deno.remove(this.#path).catch(() => {});
  }
}

/** Throws if there is something that is not a file of metrics: a device, or an image that was named by mistake. */
async function refuseOther(path: string): Promise<void> {
  try {
    if (!(await Deno.lstat(path)).isFile) throw new Error("it is not a regular file");
    using file = await Deno.open(path);
    const begins = new Uint8Array(BEGINNING.length);
    const length = await file.read(begins) ?? 0;
    if (length === 0 || new TextDecoder().decode(begins.subarray(0, length)) === BEGINNING) return;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  throw new Error("it holds something else");
}
