/**
 * Opens the I/O channels of one thread. It first loads the modules that an attachment names, also those behind filters;
 * then it opens channels without waiting.
 */

import { XenblkError } from "../errors.ts";
import { Modules } from "../modules.ts";
import type { BufferSpace, ChannelContext, ChannelOptions, DiskAttachment, DiskModule, IoChannel } from "./disk.ts";

/** What the thread has of a {@linkcode ChannelContext}. */
export type ChannelPlace = Omit<ChannelContext, "openChannel">;

/** Opens the channels of one thread. */
export class DiskModules {
  readonly #modules = new Modules<DiskModule>("openChannel");
  readonly #context: ChannelContext;

  constructor(place: ChannelPlace) {
    this.#context = { ...place, openChannel: (attachment, options) => this.openChannel(attachment, options) };
  }

  /** Whether every module that the attachment names is there, so that {@linkcode openChannel} can be called. */
  has(attachment: DiskAttachment): boolean {
    return attachmentsOf(attachment).every(({ module }) => this.#modules.get(module) !== undefined);
  }

  /** Loads every module that the attachment names. Rejects with {@linkcode XenblkError} naming one that cannot be. */
  async load(attachment: DiskAttachment): Promise<void> {
    await Promise.all(attachmentsOf(attachment).map(({ module }) => this.#modules.load(module)));
  }

  /** Opens a channel, to be used and disposed in this thread when nothing is in flight. Throws what its module throws. */
  openChannel(attachment: DiskAttachment, options: ChannelOptions): IoChannel {
    return this.#loaded(attachment).openChannel(attachment, options, this.#context);
  }

  /**
   * Opens the memory that the disk requires for the buffers of a channel; undefined if neither it nor a disk behind it
   * requires any. Throws what its module throws, and {@linkcode XenblkError} if two disks require their own.
   */
  openMemory(attachment: DiskAttachment): BufferSpace | undefined {
    const owners = attachmentsOf(attachment).filter((each) => this.#loaded(each).openMemory !== undefined);
    const [owner] = owners;
    if (owner === undefined) return undefined;
    if (owners.length === 1) return this.#loaded(owner).openMemory!(owner, this.#context);
    const modules = owners.map(({ module }) => module).join(" and ");
    throw new XenblkError(`Cannot open disk ${attachment.module}: buffers cannot lie in the memory of both ${modules}`);
  }

  #loaded({ module }: DiskAttachment): DiskModule {
    const loaded = this.#modules.get(module);
    if (loaded === undefined) throw new XenblkError(`Cannot open I/O channel: ${module} is not loaded`);
    return loaded;
  }
}

/** An attachment and all that are behind it. Throws {@linkcode XenblkError} if it is behind itself. */
function attachmentsOf(attachment: DiskAttachment, before: readonly DiskAttachment[] = []): DiskAttachment[] {
  if (before.includes(attachment)) throw new XenblkError(`Cannot open disk ${attachment.module}: it is behind itself`);
  const { inner } = attachment;
  const behind = inner === undefined ? [] : "module" in inner ? [inner] : inner;
  return [attachment, ...behind.flatMap((each) => attachmentsOf(each, [...before, attachment]))];
}
