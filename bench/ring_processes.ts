/**
 * Runs ring_process.ts, with its modules joined: orders go to it, and the answers come back.
 */

import { V8_FLAGS } from "../lib/cli/install/plan.ts"; // as the installed command has them

/** The program, a module of bench/. */
export const RING_PROGRAM = "ring_process.ts";

/** A command for ring_process.ts. */
export interface RingOrder {
  readonly segments: number;
  readonly requests: number;
  /** Queues of one device that run so many requests each at the same time, each on a thread of its own. */
  readonly queues: number;
  /** Collect garbage before and after, so that heap growth is due to the requests. */
  readonly watchMemory: boolean;
  /** Their device has limits that they never reach. */
  readonly limited: boolean;
}

/** An answer of ring_process.ts. */
export interface RingAnswer {
  readonly ns: number;
  readonly heapGrowthBytes: number;
  readonly residentGrowthBytes: number;
}

/** A running ring_process.ts. */
export class RingProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #answers: ReadableStreamDefaultReader<string>;
  readonly #trace: Promise<string>;
  #unread = "";
  #ended = false;

  /** `directory`: has the joined modules. */
  constructor(directory: string) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", `${V8_FLAGS},--trace-gc,--expose-gc`, `${directory}/${RING_PROGRAM}`],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#answers = this.#child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    this.#trace = new Response(this.#child.stdout).text();
  }

  async run(order: RingOrder): Promise<RingAnswer> {
    await this.#input.write(new TextEncoder().encode(`${JSON.stringify(order)}\n`));
    while (!this.#unread.includes("\n")) {
      const { value, done } = await this.#answers.read();
      if (done) throw new Error(`Cannot measure the ring: its process ended: ${this.#unread}`);
      this.#unread += value;
    }
    const [line, ...rest] = this.#unread.split("\n");
    this.#unread = rest.join("\n");
    if (!line!.startsWith("{")) throw new Error(`Cannot measure the ring: ${line}${this.#unread}`);
    return JSON.parse(line!);
  }

  /** Ends the process and returns V8's whole trace. */
  async end(): Promise<string> {
    this.#ended = true;
    await this.#input.close();
    await this.#child.status;
    await this.#answers.cancel();
    return await this.#trace;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) await this.end().catch(() => {});
  }
}
