/**
 * NBD servers on Unix sockets for tests: each keeps some of what it was given in its own memory until a flush, so that a
 * server that is killed loses what it had answered.
 */

import { assert } from "@std/assert";

/** Starts a server of an image file; `socket` does not exist yet. */
export type NbdProgram = (image: string, socket: string) => readonly [program: string, ...args: string[]];

/** Of a qcow2 it keeps where the data is. */
export const QEMU_NBD: NbdProgram = (image, socket) => [
  "qemu-nbd",
  "--persistent",
  "--cache=writeback",
  ...["-f", "qcow2", "-k", socket, "-x", "disk", image],
];

/** Keeps data in a file without a name; it has no FUA. */
export const NBDKIT: NbdProgram = (image, socket) => [
  "nbdkit",
  "--foreground",
  ...["--unix", socket, "--filter=fua", "--filter=cache", "file", image, "cache=writeback"],
];

/** One server at a time for an image. */
export class NbdServer implements AsyncDisposable {
  readonly #start: () => Deno.ChildProcess;
  readonly #socket: string;
  #process: Deno.ChildProcess | undefined;

  constructor(program: NbdProgram, image: string, socket: string) {
    this.#socket = socket;
    const [command, ...args] = program(image, socket);
    this.#start = () => new Deno.Command(command, { args, stdin: "null", stdout: "null", stderr: "inherit" }).spawn();
  }

  /** Resolves when it listens. */
  async start(): Promise<void> {
    await Deno.remove(this.#socket).catch(() => {});
    this.#process = this.#start();
    for (const end = performance.now() + 20_000; !await accepts(this.#socket);) {
      assert(performance.now() < end, "the server does not listen");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  signal(signal: Deno.Signal): void {
    this.#process?.kill(signal);
  }

  async end(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    this.#process?.kill(signal);
    await this.#process?.status;
    this.#process = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }
}

async function accepts(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch {
    return false;
  }
}
