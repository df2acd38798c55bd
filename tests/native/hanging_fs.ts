/**
 * A FUSE file system that stops answering when a test says so, as a dead file server does: src/hanging_fs.c, in a
 * process of its own. Needs root and /dev/fuse. A test must not touch files below {@linkcode HangingFileSystem.path}
 * while operations hang, or it hangs too; the same files below {@linkcode HangingFileSystem.backing} never hang.
 *
 *     await using fuse = await HangingFileSystem.mount();
 *     const image = fuse.image("disk.img", 2 ** 26);
 *     await fuse.hang("read");
 *     await fuse.untilHeld("read");
 *     await fuse.resume();
 */

import { buildNative } from "./build.ts";

/** Operations that can hang. `lock` is taking, releasing and testing a lock; `flush` is what close(2) waits for. */
export const HANGING_OPERATIONS = [
  "lookup",
  "getattr",
  "open",
  "read",
  "write",
  "fsync",
  "flush",
  "release",
  "lock",
  "fallocate",
  "statfs",
  "setattr",
] as const;
export type HangingOperation = typeof HANGING_OPERATIONS[number];

/** CAP_SYS_ADMIN in the masks of /proc. */
const MAY_MOUNT = 1n << 21n;

/** Says why this machine cannot mount the file system. Undefined if it can. */
export function missingFuse(): string | undefined {
  const capabilities = /^CapEff:\s*(\w+)/m.exec(Deno.readTextFileSync("/proc/self/status"))?.[1] ?? "0";
  if ((BigInt(`0x${capabilities}`) & MAY_MOUNT) === 0n) return "mounting needs root";
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return undefined;
  } catch (error) {
    return `FUSE cannot be used: ${(error as Error).message}`;
  }
}

/** A mounted file system. Disposing it makes everything that hangs fail, and unmounts it. */
export class HangingFileSystem implements AsyncDisposable {
  /** Folder with the files that can hang. */
  readonly path: string;
  /** Folder with the same files, which never hang. */
  readonly backing: string;
  readonly #folder: string;
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #commands: Promise<unknown> = Promise.resolve();

  private constructor(program: string, parent: string | undefined) {
    this.#folder = Deno.makeTempDirSync({ prefix: "xenblk-fuse-", ...(parent === undefined ? {} : { dir: parent }) });
    this.path = `${this.#folder}/mount`;
    this.backing = `${this.#folder}/backing`;
    for (const folder of [this.path, this.backing]) Deno.mkdirSync(folder);
    this.#child = new Deno.Command(program, {
      args: [this.backing, this.path],
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Mounts it in a new folder below `parent`, by default below the temporary folder. */
  static async mount(parent?: string): Promise<HangingFileSystem> {
    const fuse = new HangingFileSystem(`${await buildNative()}/hanging_fs`, parent);
    try {
      await fuse.#reply("mount");
    } catch (error) {
      await fuse[Symbol.asyncDispose]();
      throw error;
    }
    return fuse;
  }

  /** Creates a sparse image of zeroes and returns its path in the mount. */
  image(name: string, sizeBytes: number): string {
    using file = Deno.openSync(`${this.backing}/${name}`, { write: true, create: true, truncate: true });
    file.truncateSync(sizeBytes);
    return `${this.path}/${name}`;
  }

  /**
   * From now on these operations hang, and no others; with `after=N` the first N of them pass. With `interrupts` a
   * process that waits in one of them can be killed; otherwise the kernel keeps it, as if the file server had taken the
   * request and died.
   */
  async hang(...operations: readonly (HangingOperation | "interrupts" | `after=${number}`)[]): Promise<void> {
    await this.#command(`hang ${operations.join(" ")}`);
  }

  /** Nothing hangs any more; what hung is carried out. */
  async resume(): Promise<void> {
    await this.#command("resume");
  }

  /** How many requests of each operation hang now. */
  async held(): Promise<Record<HangingOperation, number>> {
    return JSON.parse(await this.#command("held"));
  }

  /** Waits until a request of this operation hangs. */
  async untilHeld(operation: HangingOperation, timeoutMs = 60_000): Promise<void> {
    for (const end = performance.now() + timeoutMs; (await this.held())[operation] === 0;) {
      if (performance.now() > end) throw new Error(`no ${operation} hangs: ${JSON.stringify(await this.held())}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Ends its process. The kernel aborts the connection, so everything that hangs fails with ECONNABORTED. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#child.status;
    await Promise.all([this.#input.abort().catch(() => {}), this.#output.cancel().catch(() => {})]);
    await new Deno.Command("umount", { args: ["--lazy", this.path], stderr: "null" }).output();
    Deno.removeSync(this.#folder, { recursive: true });
  }

  /** Sends one line and returns the one line of its answer; one command at a time. */
  #command(line: string): Promise<string> {
    const answer = this.#commands.then(async () => {
      await this.#input.write(new TextEncoder().encode(`${line}\n`));
      return await this.#reply(line);
    });
    this.#commands = answer.catch(() => {});
    return answer;
  }

  async #reply(command: string): Promise<string> {
    const { value } = await this.#output.read();
    const text = value?.trim() ?? "its process ended";
    if (text !== "ok" && !text.startsWith("{")) throw new Error(`hanging_fs: ${command}: ${text}`);
    return text;
  }
}
