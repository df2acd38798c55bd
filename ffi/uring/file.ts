/**
 * What a channel holds of its file: a descriptor of its own, which is counted among the image's open channels and
 * covered by the image's lock; and an index among the ring's registered files.
 */

import type { UringAttachment } from "../../lib/storage/image/medium.ts";
import { joinChannels } from "../../lib/storage/open_channels.ts";
import { openSameDescriptor } from "../linux/image_descriptor.ts";
import { NativeImageLocks } from "../linux/image_lock.ts";
import { FIXED_FILE, type IoUring } from "./ring.ts";
import { libc } from "../linux/libc.ts";

/** The image locks that this thread holds. */
const locks = new NativeImageLocks();

/** A descriptor of the image's file. Throws if the file cannot be opened, or another file has taken its place. */
export class ImageDescriptor implements Disposable {
  readonly fd: number;
  readonly #counted: Disposable;

  constructor({ image, routes, channels }: UringAttachment, mayBeDirect: boolean) {
    using undo = new DisposableStack();
    this.#counted = undo.use(joinChannels(channels, `image ${image.path}`));
    this.fd = undo.adopt(openSameDescriptor(image, routes.direct && mayBeDirect), (fd) => libc().close(fd));
    locks.join(this.fd, image);
    undo.move();
  }

  [Symbol.dispose](): void {
    libc().close(this.fd);
    this.#counted[Symbol.dispose]();
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
