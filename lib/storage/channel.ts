/**
 * Opens the I/O channels of one thread. It first loads the modules that an attachment names, also those behind filters;
 * then it opens channels without waiting.
 */

import { XenblkError } from "../errors.ts";
import { Modules } from "../modules.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, DiskModule, IoChannel } from "./disk.ts";

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
    return modulesOf(attachment).every((module) => this.#modules.get(module) !== undefined);
  }

  /** Loads every module that the attachment names. Rejects with {@linkcode XenblkError} naming one that cannot be. */
  async load(attachment: DiskAttachment): Promise<void> {
    await Promise.all(modulesOf(attachment).map((module) => this.#modules.load(module)));
  }

  /** Opens a channel, to be used and disposed in this thread when nothing is in flight. Throws what its module throws. */
  openChannel(attachment: DiskAttachment, options: ChannelOptions): IoChannel {
    const module = this.#modules.get(attachment.module);
    if (module === undefined) throw new XenblkError(`Cannot open I/O channel: ${attachment.module} is not loaded`);
    return module.openChannel(attachment, options, this.#context);
  }
}

/** The modules of an attachment and of all that are behind it. Throws {@linkcode XenblkError} if it is behind itself. */
function modulesOf(attachment: DiskAttachment, before: readonly DiskAttachment[] = []): string[] {
  if (before.includes(attachment)) throw new XenblkError(`Cannot open disk ${attachment.module}: it is behind itself`);
  const { module, inner } = attachment;
  const behind = inner === undefined ? [] : "module" in inner ? [inner] : inner;
  return [module, ...behind.flatMap((each) => modulesOf(each, [...before, attachment]))];
}
