/**
 * Small programs that use the library, in processes of their own: outside the checkout where a test asks for that, and
 * over the native stand-ins. A program must end by itself.
 */

import type { NativeXen } from "../native/harness.ts";

/** What a program left behind. */
export interface ProgramOutcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A folder outside the checkout, with files by name; it goes when it is disposed. */
export class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "xenblk-program-" });

  constructor(files: Readonly<Record<string, string>>) {
    for (const [name, text] of Object.entries(files)) Deno.writeTextFileSync(`${this.path}/${name}`, text);
  }

  /** Runs deno in the folder to its end. */
  async deno(...args: string[]): Promise<ProgramOutcome> {
    const command = new Deno.Command(Deno.execPath(), { args, cwd: this.path, env: { NO_COLOR: "1" }, stdin: "null" });
    return outcomeOf(await command.output());
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Most time that a program may take to end once it has nothing to do. */
const PATIENCE_MS = 120_000;

/** A program that runs in domain 0 of a stand-in host. */
export class RunningProgram implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<ProgramOutcome>;
  #said = "";
  readonly #heard = new EventTarget();

  constructor(xen: NativeXen, program: string, args: readonly string[], cwd?: string) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", program, ...args],
      env: { ...xen.env(0), NO_COLOR: "1" },
      ...(cwd === undefined ? {} : { cwd }),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output = this.#collect();
  }

  /** Waits until it has written that to standard output. */
  async says(what: RegExp): Promise<void> {
    while (!what.test(this.#said)) {
      const heard = new Promise<"heard">((resolve) => {
        this.#heard.addEventListener("text", () => resolve("heard"), { once: true });
      });
      const event = await Promise.race([heard, this.#output]);
      if (event !== "heard" && !what.test(this.#said)) {
        throw new Error(`it ended without ${what}: ${JSON.stringify(event)}`);
      }
    }
  }

  /** Sends a signal. */
  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** What it left behind once it has ended by itself. */
  async ended(): Promise<ProgramOutcome> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), PATIENCE_MS);
    try {
      return await this.#output;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#output;
  }

  async #collect(): Promise<ProgramOutcome> {
    const errors = new Response(this.#child.stderr).text();
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      this.#said += text;
      this.#heard.dispatchEvent(new Event("text"));
    }
    return { status: (await this.#child.status).code, stdout: this.#said, stderr: await errors };
  }
}

function outcomeOf({ code, stdout, stderr }: Deno.CommandOutput): ProgramOutcome {
  const decoder = new TextDecoder();
  return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}
