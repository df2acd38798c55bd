/**
 * What a channel holds of its file: a descriptor of its own, which the control plane opened, so that nothing here waits
 * for the storage; its place in the count of the image's open channels; and an index among the ring's registered files.
 */

import { ImageDescriptors } from "../../lib/storage/image/descriptors.ts";
import type { UringAttachment } from "../../lib/storage/image/medium.ts";
import { joinChannels } from "../../lib/storage/open_channels.ts";
import { setDirect } from "../linux/image_descriptor.ts";
import { FIXED_FILE, type IoUring } from "./ring.ts";

/** A descriptor of the image's file, taken until disposed. Throws if another channel has it, or the disk is closed. */
export class ImageDescriptor implements Disposable {
  readonly fd: number;
  readonly #owned: DisposableStack;

  constructor({ image, routes, channels, descriptor }: UringAttachment, mayBeDirect: boolean) {
    using undo = new DisposableStack();
    undo.use(joinChannels(channels, `image ${image.path}`));
    const descriptors = new ImageDescriptors(image);
    this.fd = descriptors.take(descriptor);
    undo.defer(() => descriptors.release(descriptor));
    // The channel that had it before may have had another rule.
    if (routes.direct) setDirect(this.fd, mayBeDirect);
    this.#owned = undo.move();
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
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
