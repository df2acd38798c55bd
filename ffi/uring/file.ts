/**
 * A channel's hold on its file: its own descriptor, counted among the image's open channels and covered by the image's
 * lock, and its place among the ring's registered files. It must not know operations.
 */

import { joinFile, leaveFile } from "../../lib/storage/image/file.ts";
import type { UringAttachment } from "../../lib/storage/image/medium.ts";
import { openSameDescriptor } from "../linux/image_descriptor.ts";
import { NativeImageLocks } from "../linux/image_lock.ts";
import { FIXED_FILE, type IoUring } from "./ring.ts";
import { libc } from "../linux/libc.ts";

/** This thread's. */
const locks = new NativeImageLocks();

/** The image's file, counted among its open channels. */
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

/** A registered file, which the kernel finds without looking it up and counting it each time; or just the descriptor. */
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
