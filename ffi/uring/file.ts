/**
 * What a channel holds of its file: a descriptor of its own, which is counted among the image's open channels and
 * covered by the image's lock; and an index among the ring's registered files.
 */

import { joinFile, leaveFile } from "../../lib/storage/image/file.ts";
import type { UringAttachment } from "../../lib/storage/image/medium.ts";
import { openSameDescriptor } from "../linux/image_descriptor.ts";
import { NativeImageLocks } from "../linux/image_lock.ts";
import { FIXED_FILE, type IoUring } from "./ring.ts";
import { libc } from "../linux/libc.ts";

/** The image locks that this thread holds. */
const locks = new NativeImageLocks();

/** A descriptor of the image's file. Throws if the file cannot be opened, or another file has taken its place. */
export class ImageDescriptor implements Disposable {
  readonly fd: number;
  readonly #attachment: UringAttachment;

  constructor(attachment: UringAttachment, mayBeDirect: boolean) {
    this.#attachment = attachment;
    joinFile(attachment.image);
    try {
      this.fd = openSameDescriptor(attachment.image, attachment.routes.direct && mayBeDirect);
      locks.join(this.fd, attachment.image);
    } catch (error) {
      leaveFile(attachment.image);
      throw error;
    }
  }

  [Symbol.dispose](): void {
    libc().close(this.fd);
    leaveFile(this.#attachment.image);
  }
}

/**
 * A file registered with the ring, which saves the kernel a look-up per operation; or, without room, the descriptor.
 */
export class FileSlot implements Disposable {
  readonly index: number;
  readonly flag: number;
  readonly #ring: IoUring;

  constructor(ring: IoUring, fd: number) {
    this.#ring = ring;
    const index = ring.registerFile(fd);
    this.index = index ?? fd;
    this.flag = index === undefined ? 0 : FIXED_FILE;
  }

  [Symbol.dispose](): void {
    if (this.flag === FIXED_FILE) this.#ring.unregisterFile(this.index);
  }
}
