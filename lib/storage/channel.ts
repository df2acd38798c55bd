/**
 * Opens the way from a ring to its disk, in the thread that serves the ring: picks the engine that an attachment names.
 * The only place of this room that a reactor knows.
 */

import type { ChannelOptions, DiskAttachment, IoChannel } from "./disk.ts";
import { openFileChannel } from "./pool/channel.ts";
import { ImmediateChannel } from "./engine/immediate.ts";
import { type InlineFileAttachment, InlineFileExecutor } from "./engine/inline_file.ts";
import type { PoolAttachment } from "./pool/pool.ts";
import { MemoryExecutor } from "./engine/memory.ts";
import { NullExecutor } from "./engine/null.ts";

/** What the memory engine needs. */
export interface MemoryAttachment extends DiskAttachment {
  readonly engine: "memory";
  readonly data: SharedArrayBuffer;
  readonly readOnly: boolean;
}

/** What the null engine needs. */
export interface NullAttachment extends DiskAttachment {
  readonly engine: "null";
  readonly readOnly: boolean;
}

/** The attachments that {@linkcode openChannel} knows, told apart by `engine`. */
export type KnownAttachment = PoolAttachment | InlineFileAttachment | MemoryAttachment | NullAttachment;

/**
 * Opens a channel in this thread; it must be used and disposed here, when nothing is in flight. Throws if the image
 * cannot be opened (`file-inline`), the disk is closed, or no engine is called so.
 */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions): IoChannel {
  const known = attachment as KnownAttachment;
  switch (known.engine) {
    case "file":
      return openFileChannel(known, options);
    case "file-inline":
      return new ImmediateChannel(new InlineFileExecutor(known.image), options);
    case "memory":
      return new ImmediateChannel(new MemoryExecutor(known.data, known.readOnly), options);
    case "null":
      return new ImmediateChannel(new NullExecutor(known.readOnly), options);
  }
  throw new Error(`Cannot open I/O channel: no engine is called ${attachment.engine}`);
}
