/**
 * A real qemu-storage-daemon with one image and its vhost-user-blk export, its QMP socket, and this thread as a reactor
 * with channels to it. No test is in here.
 */

import { assertEquals } from "@std/assert";
import "../libraries.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";
import { openChannel, openMemory } from "../../../ffi/vhost/channel.ts";
import type { VhostAttachment } from "../../../ffi/vhost/attachment.ts";
import { NativeVhostClient } from "../../../ffi/vhost/client.ts";
import type { VhostPatience } from "../../../ffi/vhost/session.ts";
import type { Parker } from "../../../lib/hypervisor.ts";
import type { ChannelPlace } from "../../../lib/storage/channel.ts";
import type { BufferOpener, ChannelOpener } from "../../../lib/storage/disk.ts";
import type { VhostDevice } from "../../../lib/storage/vhost.ts";
import { ChannelRig, eventually, Folder } from "../../storage/rig.ts";

const PROGRAM = "qemu-storage-daemon";

/** Whether this machine has the daemon and can make images. */
export const HAS_DAEMON: boolean = [PROGRAM, "qemu-img"].every((program) =>
  (Deno.env.get("PATH") ?? "").split(":").some((folder) => {
    try {
      return Deno.statSync(`${folder}/${program}`).isFile;
    } catch {
      return false;
    }
  })
);

/** What a daemon exports. */
export interface DaemonOptions {
  readonly format?: string;
  readonly sizeBytes?: number;
  readonly queues?: number;
  readonly writable?: boolean;
  readonly blockBytes?: number;
  /** Of a new image, as `qemu-img create -o` takes it. */
  readonly create?: string;
  /** An existing image in place of a new one. */
  readonly image?: string;
  /** Of the format's node, beside those it needs. */
  readonly node?: Readonly<Record<string, string>>;
  /** What the format's node reads in place of the image's file, as a block node with the name `file`. */
  readonly file?: string;
  /** Every flush of the image file fails with EIO. */
  readonly failingFlushes?: boolean;
  /** Every read of the image file fails with EIO. */
  readonly failingReads?: boolean;
}

/** A running daemon. */
export class StorageDaemon implements AsyncDisposable {
  readonly folder: Folder;
  readonly image: string;
  readonly socket: string;
  readonly #process: Deno.ChildProcess;
  readonly #ownsFolder: boolean;

  /** Resolves once the export can be connected to. `folder`: of an earlier daemon, in place of a new one. */
  static async start(options: DaemonOptions = {}, folder?: Folder): Promise<StorageDaemon> {
    const daemon = new StorageDaemon(options, folder);
    await eventually(() => exists(daemon.socket), "the daemon listens");
    return daemon;
  }

  private constructor(options: DaemonOptions, folder: Folder | undefined) {
    const { format = "qcow2", sizeBytes = 64 << 20, queues = 2, writable = true, blockBytes = 512 } = options;
    this.#ownsFolder = folder === undefined;
    this.folder = folder ?? new Folder();
    const { path } = this.folder;
    this.image = options.image ?? `${path}/disk.${format}`;
    this.socket = `${path}/export.sock`;
    for (const socket of [this.socket, `${path}/qmp.sock`]) if (exists(socket)) Deno.removeSync(socket);
    const create = options.create === undefined ? [] : ["-o", options.create];
    if (!exists(this.image)) run("qemu-img", ["create", "-q", "-f", format, ...create, this.image, `${sizeBytes}`]);
    const access = `read-only=${writable ? "off" : "on"}`;
    const node = Object.entries(options.node ?? {}).map(([name, value]) => `,${name}=${value}`).join("");
    const kind = options.failingFlushes === true ? "flush" : options.failingReads === true ? "read" : undefined;
    const faults = `inject-error.0.event=none,inject-error.0.iotype=${kind},inject-error.0.errno=5`;
    const [top, fault] = kind !== undefined
      ? ["debug", [["--blockdev", `blkdebug,node-name=debug,image=file,${faults}`]]]
      : ["file", []];
    const args = [
      ["--chardev", `socket,id=qmp,path=${path}/qmp.sock,server=on,wait=off`],
      ["--monitor", "chardev=qmp"],
      ["--blockdev", options.file ?? `file,node-name=file,filename=${this.image},discard=unmap,${access}`],
      ...fault,
      ["--blockdev", `${format},node-name=disk,file=${top},discard=unmap,${access}${node}`],
      [
        "--export",
        `vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${this.socket}` +
        `,num-queues=${queues},writable=${writable ? "on" : "off"},logical-block-size=${blockBytes}`,
      ],
    ];
    this.#process = new Deno.Command(PROGRAM, {
      args: args.flat(),
      stdin: "null",
      stdout: "null",
      stderr: Deno.env.has("XENBLK_TEST_STDERR") ? "inherit" : "null",
    }).spawn();
  }

  signal(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Kills it, unless it has ended, and resolves when it is gone. */
  async kill(): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#process.status;
  }

  /** One QMP command, with its result. */
  async command(execute: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    using connection = await Deno.connect({ transport: "unix", path: `${this.folder.path}/qmp.sock` });
    await replyTo(connection, { execute: "qmp_capabilities" });
    return await replyTo(connection, { execute, arguments: args });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    if (this.#ownsFolder) this.folder[Symbol.dispose]();
  }
}

/** Sends a command and resolves with what it returns; greetings and events are skipped. */
async function replyTo(connection: Deno.Conn, command: unknown): Promise<unknown> {
  await connection.write(new TextEncoder().encode(`${JSON.stringify(command)}\n`));
  const buffer = new Uint8Array(65536);
  for (let text = "";;) {
    const count = await connection.read(buffer);
    if (count === null) throw new Error("the daemon closed its QMP connection");
    text += new TextDecoder().decode(buffer.subarray(0, count));
    const lines = text.split("\n");
    text = lines.pop()!;
    for (const line of lines) {
      const message = JSON.parse(line);
      if ("return" in message) return message.return;
      if ("error" in message) throw new Error(JSON.stringify(message.error));
    }
  }
}

/** Runs a program to its end. */
export function run(program: string, args: readonly string[]): string {
  const { success, stdout, stderr } = new Deno.Command(program, { args: [...args] }).outputSync();
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

/** This thread as a reactor, and a client with little patience. */
export class VhostRig implements Disposable {
  readonly platform = openNativePlatform();
  readonly parker: Parker;
  readonly #token = this.platform.createWakeToken();
  readonly #client: NativeVhostClient;

  constructor({ withIo = false, patience = {} }: { withIo?: boolean; patience?: Partial<VhostPatience> } = {}) {
    this.parker = this.platform.openParker(this.#token, { withIo });
    this.#client = new NativeVhostClient(patience);
  }

  /** This thread. */
  get place(): ChannelPlace {
    return { platform: this.platform, parker: this.parker, token: this.#token };
  }

  connect(
    socket: string,
    options: {
      readonly queues?: number;
      readonly readOnly?: boolean;
      readonly writeThrough?: boolean;
      readonly errorsLose?: boolean;
      readonly signal?: AbortSignal;
    } = {},
  ): Promise<VhostDevice> {
    return this.#client.connect({ name: "image disk", socket, readOnly: false, queues: 2, ...options });
  }

  /** Opens channels; the memory of their buffers comes from {@linkcode openMemory}. */
  readonly channels: ChannelOpener = (attachment, options) =>
    openChannel(attachment as VhostAttachment, options, { parker: this.parker });

  /** See DiskModule. */
  readonly openMemory: BufferOpener = (attachment) => openMemory(attachment as VhostAttachment);

  /** Resolves with the promise. Meanwhile the thread looks at its channels, as a reactor does; nothing may complete. */
  async turningOver<T>(channels: readonly ChannelRig[], promise: Promise<T>): Promise<T> {
    let isOver = false;
    const over = promise.finally(() => isOver = true);
    while (!isOver) {
      this.parker.park(0);
      for (const { channel } of channels) assertEquals(channel.reap(), 0);
      await Promise.race([over.catch(() => {}), new Promise((resolve) => setTimeout(resolve, 1))]);
    }
    return await over;
  }

  /** A channel with buffers of its own. */
  async channel(
    device: VhostDevice,
    options: { readonly depth?: number; readonly bufferBytes?: number; readonly vectorsPerTag?: number } = {},
  ): Promise<ChannelRig> {
    return this.channelOn(await device.attachment(0) as VhostAttachment, options);
  }

  /** The same for an attachment. */
  channelOn(
    attachment: VhostAttachment,
    options: { readonly depth?: number; readonly bufferBytes?: number; readonly vectorsPerTag?: number } = {},
  ): ChannelRig {
    const { platform, parker, channels: open } = this;
    return new ChannelRig(attachment, { platform, parker, open, openMemory: this.openMemory, ...options });
  }

  [Symbol.dispose](): void {
    this.parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
  }
}
