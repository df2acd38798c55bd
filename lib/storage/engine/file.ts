/**
 * Engine `file`: an image's file served by Deno's file calls, which block. An I/O Worker opens an executor for it; where
 * there is no pool of them, in single-stepped tests and simulations, a channel makes the calls in its own thread.
 */

import type { CacheMode, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { type ImageFile, openSameFile } from "../image/file.ts";
import { joinChannels } from "../open_channels.ts";
import type { ExecutorDescriptor } from "../pool/executor_module.ts";
import { type BlockFile, type Executor, FileExecutor } from "./executor.ts";
import { ImmediateChannel } from "./immediate.ts";

/** Names an image for an I/O Worker. */
export interface FileDescriptor extends ExecutorDescriptor {
  readonly image: ImageFile;
}

/** Names an image for a channel that serves in its own thread. */
export interface InlineFileAttachment extends DiskAttachment {
  readonly image: ImageFile;
  /** The disk's open channels; see open_channels.ts. */
  readonly channels: SharedArrayBuffer;
}

/** Names an image's file, for {@linkcode openExecutor}. */
export function fileDescriptor(image: ImageFile): FileDescriptor {
  return { module: import.meta.url, image };
}

/** Names an image's file, for {@linkcode openChannel}. */
export function inlineFileAttachment(image: ImageFile, channels: SharedArrayBuffer): InlineFileAttachment {
  return { module: import.meta.url, image, channels };
}

/** See ExecutorModule. Throws if the file cannot be opened or is another one now. */
export function openExecutor({ image }: FileDescriptor): Executor {
  return new FileExecutor(openSameFile(image), image.cache);
}

/** See DiskModule. Throws if the file cannot be opened or is another one now, or the disk is closed. */
export function openChannel({ image, channels }: InlineFileAttachment, options: ChannelOptions): IoChannel {
  using undo = new DisposableStack();
  const counted = undo.use(joinChannels(channels, `image ${image.path}`));
  const channel = new ImmediateChannel(new InlineFileExecutor(openSameFile(image), image.cache, counted), options);
  undo.move();
  return channel;
}

/** A channel's own, counted among the disk's open channels. */
class InlineFileExecutor extends FileExecutor {
  readonly #counted: Disposable;

  constructor(file: BlockFile, cache: CacheMode, counted: Disposable) {
    super(file, cache);
    this.#counted = counted;
  }

  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    this.#counted[Symbol.dispose]();
  }
}
