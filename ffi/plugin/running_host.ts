/**
 * One process of a plugin while it runs: commands and answers, its heartbeat, its output, and how it ends.
 */

import { labelled, printable } from "../../lib/log.ts";
import type { PluginOptions } from "../../lib/storage/plugin/types.ts";
import { endsWithin } from "../../lib/within.ts";
import { raiseEventfd } from "../linux/eventfd.ts";
import { HEADER_WORDS, WORD } from "./layout.ts";
import { type Command, Mailbox } from "./mailbox.ts";
import { PluginOutput } from "./output.ts";
import { type HostProcess, type SharedParts, spawnHost } from "./spawn.ts";

/** Between two looks at the heartbeat. */
const SHORTEST_BEAT_MS = 20;
const LONGEST_BEAT_MS = 5000;
/** How long the output of a dead process may take to arrive. */
const OUTPUT_MS = 1000;

/** A process. Disposing it kills it, and waits for its end. */
export class RunningHost implements AsyncDisposable {
  /** Resolves, never rejects, when it has ended, with the reason. */
  readonly ended: Promise<string>;
  readonly #options: PluginOptions;
  readonly #bellFd: number;
  readonly #mailbox: Mailbox;
  readonly #words: Int32Array;
  readonly #process: HostProcess;
  readonly #output: PluginOutput;
  readonly #reading: Promise<unknown>;
  #beat: ReturnType<typeof setInterval> | undefined;
  #pinged = 0;
  #pingedMs = performance.now();
  #killReason: string | undefined;
  #hasEnded = false;
  #answered: PromiseWithResolvers<void> | undefined;

  /**
   * Starts it, with the command `open`. `header` is the zeroed first part of the shared memory; `config`: see {@linkcode
   * spawnHost}.
   */
  constructor(options: PluginOptions, header: ArrayBufferLike, shared: SharedParts, config: readonly string[]) {
    this.#options = options;
    this.#bellFd = shared.bellFd;
    this.#words = new Int32Array(header, 0, HEADER_WORDS);
    this.#mailbox = new Mailbox(header);
    this.#mailbox.ask({ do: "open" });
    this.#process = spawnHost(options, shared, config);
    this.#output = new PluginOutput(labelled(options.log, options.name));
    this.#reading = Promise.all([
      this.#output.follow(this.#process.stdout),
      this.#output.follow(this.#process.stderr),
    ]);
    this.ended = this.#watch();
  }

  /** The disk is open: from now on the event loop must run. */
  beginBeat(): void {
    if (this.#hasEnded) return;
    const { requestTimeoutMs } = this.#options.settings;
    const beatMs = Math.max(SHORTEST_BEAT_MS, Math.min(LONGEST_BEAT_MS, requestTimeoutMs / 4));
    this.#beat = setInterval(() => this.#ping(), beatMs);
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Looks whether it has answered. */
  look(): void {
    if (this.#mailbox.isAnswered) this.#answered?.resolve();
  }

  /** The answer to `open`, or to the last command. Rejects with an Error if it ends before, or needs too long. */
  async answer(timeoutMs: number, signal?: AbortSignal): Promise<unknown> {
    signal?.throwIfAborted();
    const answered = this.#answered = Promise.withResolvers<void>();
    this.look();
    const ended = this.ended.then((reason) => {
      if (this.#mailbox.isAnswered) return; // its last words
      throw new Error(reason);
    });
    ended.catch(() => {}); // the answer was there first
    const aborted = (): void => answered.reject(signal?.reason);
    signal?.addEventListener("abort", aborted);
    try {
      if (!await endsWithin(Promise.race([answered.promise, ended]), timeoutMs)) {
        throw new Error(`it did not answer within ${timeoutMs / 1000} s`);
      }
      return this.#mailbox.answer;
    } finally {
      signal?.removeEventListener("abort", aborted);
    }
  }

  /** Has it carry out a command. Rejects with an Error if that fails, it ends, or needs too long. */
  async ask(command: Command, timeoutMs: number): Promise<object> {
    if (!this.#mailbox.isAnswered) throw new Error("it has not answered another command yet");
    this.#mailbox.ask(command);
    this.#wake();
    const answer = await this.answer(timeoutMs);
    if (typeof answer !== "object" || answer === null || !("ok" in answer)) throw new Error("it answers nonsense");
    if (answer.ok !== true) {
      const said = "message" in answer && typeof answer.message === "string" ? answer.message : "it gives no reason";
      throw new Error(printable(said));
    }
    return answer;
  }

  /**
   * Has it flush, close its disk and end. False: it has ended before. Rejects with an Error if the plugin's methods fail or
   * take too long.
   */
  async close(timeoutMs: number): Promise<boolean> {
    if (this.#hasEnded) return false;
    await this.ask({ do: "close" }, timeoutMs);
    await endsWithin(this.ended, timeoutMs);
    return true;
  }

  /** Ends it at once; `reason`: why, if no channel has said so. */
  kill(reason?: string): void {
    this.#killReason ??= reason;
    if (this.#hasEnded) return;
    try {
      this.#process.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound || error instanceof TypeError)) throw error; // it has just ended
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.ended;
  }

  async #watch(): Promise<string> {
    const status = await this.#process.status;
    this.#hasEnded = true;
    clearInterval(this.#beat);
    await endsWithin(this.#reading, OUTPUT_MS);
    return this.#killReason ?? this.#endText(status);
  }

  #endText({ code, signal }: Deno.CommandStatus): string {
    const { memoryBytes } = this.#options.settings;
    if (this.#output.hasNoMemory) {
      return `it needed more memory than its ${memoryBytes / 2 ** 20} MiB; allow more, or have the plugin use less`;
    }
    if (signal === null) return `it ended with status ${code}${this.#output.last}`;
    const sender = signal === "SIGKILL" ? " by hand, or by the kernel for lack of memory (see `dmesg`)" : "";
    return `it was ended with ${signal}${sender}${this.#output.last}`;
  }

  /** Asks whether its event loop runs, and ends it if that does not for too long. */
  #ping(): void {
    const { requestTimeoutMs } = this.#options.settings;
    const nowMs = performance.now();
    if (Atomics.load(this.#words, WORD.pong) === this.#pinged) {
      this.#pinged = this.#pinged + 1 | 0;
      this.#pingedMs = nowMs;
      Atomics.store(this.#words, WORD.ping, this.#pinged);
      this.#wake();
    } else if (nowMs - this.#pingedMs >= requestTimeoutMs) {
      this.kill(`it hangs: its event loop has not run for ${requestTimeoutMs / 1000} s`);
    }
  }

  #wake(): void {
    if (Atomics.exchange(this.#words, WORD.asleep, 0) !== 0) raiseEventfd(this.#bellFd);
  }
}
