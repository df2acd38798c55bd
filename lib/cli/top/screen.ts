/**
 * The terminal of `top`: the alternate screen without a cursor, and single keys. Everything is as before when it is
 * disposed, and also when the process exits otherwise.
 */

const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H";
const CLEAR_LINE = "\x1b[K";
const CLEAR_BELOW = "\x1b[J";

/** Size used if the terminal does not say. */
const FALLBACK = { columns: 80, rows: 24 };

/** Each key of a text: an escape sequence, or a character. */
// deno-lint-ignore no-control-regex
const KEYS = /\x1b[[O][A-Za-z]|[^]/g;
/** Names of keys that send more than one character, by the last of them. */
const ARROWS: Readonly<Record<string, string>> = { C: "right", D: "left" };

/** A terminal in raw mode; its signals stay. */
export class Screen implements Disposable {
  readonly #encoder = new TextEncoder();
  readonly #keys: ReadableStreamDefaultReader<Uint8Array>;
  readonly #restore = (): void => this.#leave();
  #entered = true;

  /** `key` gets each key; `resized` is called when the terminal has another size. */
  constructor(key: (name: string) => void, readonly resized: () => void) {
    Deno.stdin.setRaw(true, { cbreak: true });
    globalThis.addEventListener("unload", this.#restore);
    Deno.addSignalListener("SIGWINCH", resized);
    this.#write(ENTER);
    this.#keys = Deno.stdin.readable.getReader();
    void this.#read(key);
  }

  /** In characters. */
  get size(): { readonly columns: number; readonly rows: number } {
    try {
      return Deno.consoleSize();
    } catch {
      return FALLBACK;
    }
  }

  /** Shows the lines, those that fit. */
  draw(lines: readonly string[]): void {
    const shown = lines.slice(0, this.size.rows).map((line) => line + CLEAR_LINE);
    this.#write(HOME + shown.join("\r\n") + CLEAR_BELOW);
  }

  [Symbol.dispose](): void {
    Deno.removeSignalListener("SIGWINCH", this.resized);
    globalThis.removeEventListener("unload", this.#restore);
    this.#leave();
    void this.#keys.cancel().catch(() => {});
  }

  #leave(): void {
    if (!this.#entered) return;
    this.#entered = false;
    try {
      this.#write(LEAVE);
      Deno.stdin.setRaw(false);
    } catch { /* the terminal is gone */ }
  }

  async #read(key: (name: string) => void): Promise<void> {
    const decoder = new TextDecoder();
    try {
      for (;;) {
        const { value, done } = await this.#keys.read();
        if (done) break;
        const keys = decoder.decode(value, { stream: true }).match(KEYS) ?? [];
        for (const each of keys) key(each.length === 1 ? each : ARROWS[each.at(-1)!] ?? "");
      }
    } catch { /* disposed */ }
  }

  #write(text: string): void {
    const bytes = this.#encoder.encode(text);
    for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
  }
}
