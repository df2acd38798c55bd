/**
 * A disk as the backend opens it (its chain found, a daemon that serves it, its write log kept), with this thread as the
 * reactor of one channel to it. For tests of what is in an image afterwards. No test is in here.
 */

import { libc } from "../../../ffi/linux/libc.ts";
import { JournalFiles } from "../../../ffi/linux/journal_files.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";
import { SYSTEM_CLOCK } from "../../../lib/clock.ts";
import { errnoText } from "../../../lib/storage/errno.ts";
import type { OwnedMemory, Parker } from "../../../lib/hypervisor.ts";
import { DiskModules } from "../../../lib/storage/channel.ts";
import { type DaemonServices, imageContext, openDaemonDisk } from "../../../lib/storage/daemon_disk.ts";
import type { BufferSpace, Disk, DiskAttachment, DiskRequest, IoChannel } from "../../../lib/storage/disk.ts";
import { activeImage } from "../../../lib/storage/image/overlay_note.ts";
import { imageName, parseImage } from "../../../lib/storage/image/spec.ts";
import { StorageDaemons } from "../../../lib/storage/qemu/daemons.ts";
import type { DaemonRecord } from "../../../lib/storage/qemu/record.ts";
import type { VhostClient } from "../../../lib/storage/vhost.ts";
import { runs } from "./rig.ts";

libc(); // it is never closed: a test must not be the first to open it

/** The guest that all disks belong to. */
const GUEST = 5;
/** A page of a guest: the pieces that the backend transfers. */
const PAGE_BYTES = 4096;
/** Buffers of a channel: tags below {@linkcode SMALL_TAGS} hold {@linkcode SMALL_BYTES}, the others the longest request. */
export const SMALL_TAGS = 24;
export const SMALL_BYTES = 64 << 10;
export const LARGE_TAGS = 6;
export const LARGE_BYTES = 1 << 20;
export const TAGS = SMALL_TAGS + LARGE_TAGS;
const PIECES = LARGE_BYTES / PAGE_BYTES;
/** How long a completion may take: a daemon may die and another take its place. */
const PATIENCE_MS = 60_000;
/** How long the thread is kept before promises are settled and timers fire. */
const TURN_MS = 1;

/** When the event loop has its next turn; one thread has all disks. */
let turnEndMs = 0;

/** Opens disks of one guest, in daemons of its own. */
export class EngineRig implements AsyncDisposable {
  readonly folder: string;
  readonly warnings: string[] = [];
  readonly #platform = openNativePlatform();
  readonly #token = this.#platform.createWakeToken();
  readonly #parker: Parker = this.#platform.openParker(this.#token);
  readonly #modules = new DiskModules({ platform: this.#platform, parker: this.#parker, token: this.#token });
  readonly #daemons: StorageDaemons;
  readonly #services: DaemonServices;
  #vdev = 0;

  /**
   * Its folder is made in that one, or where files for a short time are; `folder`: it is that of another process's rig.
   * `clientOf` may put a client before the real one.
   */
  constructor(under?: string, clientOf: (real: VhostClient) => VhostClient = (real) => real, folder?: string) {
    const dir = under === undefined ? {} : { dir: under };
    this.folder = folder ?? Deno.makeTempDirSync({ prefix: "xenblk-engine-", ...dir });
    const { descriptor } = this.#platform;
    const vhost = clientOf(this.#platform.vhost);
    const logs = new JournalFiles(`${this.folder}/run`);
    const warning = (line: string): void => void this.warnings.push(line);
    const logger = { debug: (): void => {}, info: (): void => {}, warning, error: warning };
    this.#daemons = new StorageDaemons({ directory: `${this.folder}/run/daemons`, locks: logs, vhost, logger });
    this.#services = {
      ...imageContext(),
      daemons: this.#daemons,
      vhost,
      platform: descriptor,
      logs,
      clock: SYSTEM_CLOCK,
      directory: `${this.folder}/run`,
    };
  }

  /** Opens an image by the name that a person gives it. `vdev` tells the guest's disks apart. */
  async open(image: string, more: Partial<DiskRequest> = {}, vdev = ++this.#vdev): Promise<EngineDisk> {
    const owner = { guest: GUEST, uuid: "11111111-2222-3333-4444-555555555555", device: `vbd3/${GUEST}/${vdev}` };
    const name = await activeImage(imageName(await parseImage(image)), more.readOnly !== true);
    const request = { ...name, readOnly: false, engine: "auto", owner, ...more } as const;
    const disk = await openDaemonDisk(request, this.#services, (line) => this.warnings.push(line));
    try {
      const attachment = await disk.attachment(0);
      await this.#modules.load(attachment);
      return new EngineDisk(disk, attachment, this.#modules, this.#parker);
    } catch (error) {
      await disk[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The process number of the guest's daemon. */
  get daemon(): number {
    const record: DaemonRecord = JSON.parse(Deno.readTextFileSync(`${this.folder}/run/daemons/${GUEST}/record.json`));
    return record.process.pid;
  }

  /** Kills it, and waits for its end. False: it was dead already, and no other has its place yet. */
  async killDaemon(): Promise<boolean> {
    const pid = this.daemon;
    if (!runs(pid)) return false;
    Deno.kill(pid, "SIGKILL");
    while (runs(pid)) await tick();
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemons[Symbol.asyncDispose]();
    this.#parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
    Deno.removeSync(this.folder, { recursive: true });
  }
}

/** Lets promises be settled, and timers fire. */
export function tick(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** An open disk with one channel. A method that ends in an errno throws, unless its name says otherwise. */
export class EngineDisk implements AsyncDisposable {
  readonly sizeBytes: number;
  readonly #disk: Disk;
  readonly #space: BufferSpace;
  readonly #memory: OwnedMemory;
  readonly #channel: IoChannel;
  readonly #parker: Parker;
  readonly #vectors = { addresses: new Float64Array(TAGS * PIECES), lengths: new Uint32Array(TAGS * PIECES) };

  constructor(disk: Disk, attachment: DiskAttachment, modules: DiskModules, parker: Parker) {
    this.#disk = disk;
    this.sizeBytes = disk.properties.sectors * 512;
    this.#parker = parker;
    using undo = new DisposableStack();
    this.#space = undo.use(modules.openMemory(attachment)!);
    this.#memory = undo.use(this.#space.allocate(SMALL_TAGS * SMALL_BYTES + LARGE_TAGS * LARGE_BYTES));
    this.#channel = modules.openChannel(attachment, {
      depth: TAGS,
      vectors: this.#vectors,
      memory: this.#space,
      buffers: this.#memory,
    });
    undo.move();
  }

  get disk(): Disk {
    return this.#disk;
  }

  /** A tag's buffer. */
  buffer(tag: number): Uint8Array {
    const begin = offsetOf(tag);
    return this.#memory.view.subarray(begin, begin + (tag < SMALL_TAGS ? SMALL_BYTES : LARGE_BYTES));
  }

  startRead(tag: number, offsetBytes: number, lengthBytes: number): void {
    this.#channel.read(tag, offsetBytes, tag * PIECES, this.#cut(tag, lengthBytes));
  }

  startWrite(tag: number, offsetBytes: number, lengthBytes: number): void {
    this.#channel.write(tag, offsetBytes, tag * PIECES, this.#cut(tag, lengthBytes));
  }

  startDiscard(tag: number, offsetBytes: number, lengthBytes: number): void {
    this.#channel.discard(tag, offsetBytes, lengthBytes, false);
  }

  startFlush(tag: number): void {
    this.#channel.flush(tag);
  }

  get inFlight(): number {
    return this.#channel.inFlight;
  }

  /** Submits, and calls `done` for what has completed; waits until there is something. */
  async reap(done: (tag: number, result: number) => void): Promise<void> {
    const channel = this.#channel;
    channel.submit();
    for (const end = performance.now() + PATIENCE_MS;;) {
      if (performance.now() > turnEndMs) { // also when each answer comes at once
        await tick();
        turnEndMs = performance.now() + TURN_MS;
      }
      const count = channel.reap();
      for (let i = 0; i < count; i++) done(channel.tags[i]!, channel.results[i]!);
      if (count > 0) return;
      if (performance.now() > end) throw new Error(`no completion within ${PATIENCE_MS / 1000} s`);
      this.#parker.park((channel.dueMs ?? Infinity) <= 0 ? 0 : TURN_MS);
    }
  }

  /** Carries out one operation that was started; its result. */
  async finish(): Promise<number> {
    let result = 0;
    while (this.inFlight > 0) await this.reap((_, got) => result = got);
    return result;
  }

  /** Any length, in as many requests as it takes; the first result that is an error, or 0. */
  async tryWrite(offsetBytes: number, data: Uint8Array): Promise<number> {
    for (let done = 0; done < data.length; done += LARGE_BYTES) {
      const piece = data.subarray(done, done + LARGE_BYTES);
      this.buffer(SMALL_TAGS).set(piece);
      this.startWrite(SMALL_TAGS, offsetBytes + done, piece.length);
      const result = await this.finish();
      if (result !== 0) return result;
    }
    return 0;
  }

  async write(offsetBytes: number, data: Uint8Array): Promise<void> {
    succeed(await this.tryWrite(offsetBytes, data), `write of ${data.length} bytes at ${offsetBytes}`);
  }

  async tryRead(offsetBytes: number, into: Uint8Array): Promise<number> {
    for (let done = 0; done < into.length; done += LARGE_BYTES) {
      const piece = into.subarray(done, done + LARGE_BYTES);
      this.startRead(SMALL_TAGS, offsetBytes + done, piece.length);
      const result = await this.finish();
      if (result !== 0) return result;
      piece.set(this.buffer(SMALL_TAGS).subarray(0, piece.length));
    }
    return 0;
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const into = new Uint8Array(lengthBytes);
    succeed(await this.tryRead(offsetBytes, into), `read of ${lengthBytes} bytes at ${offsetBytes}`);
    return into;
  }

  async discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.startDiscard(0, offsetBytes, lengthBytes);
    succeed(await this.finish(), `discard of ${lengthBytes} bytes at ${offsetBytes}`);
  }

  async tryFlush(): Promise<number> {
    this.startFlush(0);
    return await this.finish();
  }

  async flush(): Promise<void> {
    succeed(await this.tryFlush(), "flush");
  }

  /** Flushes, as a guest does before its disk is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.finish();
    if (!this.#disk.properties.readOnly) await this.tryFlush();
    this.#channel[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
    this.#space[Symbol.dispose]();
    await this.#disk[Symbol.asyncDispose]();
  }

  /** Vectors of a tag's buffer, of a page each; how many. */
  #cut(tag: number, lengthBytes: number): number {
    const address = this.#memory.address + offsetOf(tag);
    let count = 0;
    for (let done = 0; done < lengthBytes; done += PAGE_BYTES) {
      this.#vectors.addresses[tag * PIECES + count] = address + done;
      this.#vectors.lengths[tag * PIECES + count++] = Math.min(PAGE_BYTES, lengthBytes - done);
    }
    return count;
  }
}

function offsetOf(tag: number): number {
  return tag < SMALL_TAGS ? tag * SMALL_BYTES : SMALL_TAGS * SMALL_BYTES + (tag - SMALL_TAGS) * LARGE_BYTES;
}

function succeed(result: number, what: string): void {
  if (result !== 0) throw new Error(`${what}: ${errnoText(result)}`);
}
