/**
 * A file served in the thread of its channel: the file engine's own code without I/O Workers, for single-stepped tests
 * and simulations. It blocks its caller on the disk.
 */

import type { DiskAttachment } from "../disk.ts";
import { FileExecutor } from "./executor.ts";
import { type ImageFile, joinFile, leaveFile, openSameFile } from "../image/file.ts";

/** What a thread needs to open the file by itself. */
export interface InlineFileAttachment extends DiskAttachment {
  readonly engine: "file-inline";
  readonly image: ImageFile;
}

/** Opens the image's file for one channel, which owns it. Throws if it cannot be opened or is another file now. */
export class InlineFileExecutor extends FileExecutor {
  readonly #image: ImageFile;

  constructor(image: ImageFile) {
    super(openSameFile(image), image.cache);
    this.#image = image;
    try {
      joinFile(image);
    } catch (error) {
      super[Symbol.dispose]();
      throw error;
    }
  }

  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    leaveFile(this.#image);
  }
}
