/**
 * A verb of the command as a process of the host, which begins at once when it is told to (see warm_verb.ts).
 */

import type { NativeXen } from "../../harness.ts";

const PROGRAM = new URL("./warm_verb.ts", import.meta.url).pathname;
/** A verb that has not ended by then hangs. */
const PATIENCE_MS = 90_000;

/** How a verb ended. */
export interface VerbEnd {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** One verb. */
export class VerbProcess implements AsyncDisposable {
  stdout = "";
  stderr = "";
  readonly #child: Deno.ChildProcess;
  readonly #read: Promise<unknown>;

  constructor(xen: NativeXen) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", PROGRAM],
      env: { NO_COLOR: "1", ...xen.env() },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const collect = async (stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) take(text);
    };
    this.#read = Promise.all([
      collect(this.#child.stdout, (text) => this.stdout += text),
      collect(this.#child.stderr, (text) => this.stderr += text),
    ]);
  }

  /** Begins, once it can. */
  async run(args: readonly string[]): Promise<void> {
    if (await this.line(/^ready\n/) === undefined) throw new Error(`the verb cannot begin: ${this.stderr}`);
    this.stdout = "";
    const writer = this.#child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(`${JSON.stringify(args)}\n`));
    await writer.close();
  }

  /** What matches in its output, once that is there. Undefined: it has ended without. */
  async line(pattern: RegExp): Promise<string | undefined> {
    let isOver = false;
    const ended = this.#child.status.then(() => isOver = true);
    for (;;) {
      const found = pattern.exec(this.stdout)?.[0];
      if (found !== undefined || isOver) return found;
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 5))]);
    }
  }

  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch { /* it has ended */ }
  }

  /** Rejects if it hangs. */
  async ended(): Promise<VerbEnd> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.kill("SIGKILL");
    }, PATIENCE_MS);
    const { code } = await this.#child.status;
    clearTimeout(timer);
    await this.#read;
    if (isLate) throw new Error(`the verb hangs; it has said: ${this.stdout}${this.stderr}`);
    return { status: code, stdout: this.stdout, stderr: this.stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGKILL");
    await this.#child.stdin.close().catch(() => {}); // it was told what to run
    await this.#child.status;
    await this.#read;
  }
}
