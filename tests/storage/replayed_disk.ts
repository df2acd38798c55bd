/**
 * A memory disk that a test stops: while its word is 0 it completes everything at once, while it is 1 nothing, and once it
 * is 2 everything with -EIO, what waits too. No test is in here.
 */

import { EIO } from "../../lib/errno.ts";
import type { ChannelOptions, DiskAttachment, IoChannel } from "../../lib/storage/disk.ts";
import { memoryAttachment, openChannel as openMemoryChannel } from "../../lib/storage/engine/memory.ts";

/** Values of the word. */
export const STATE = { works: 0, hangs: 1, fails: 2 } as const;

interface StoppedAttachment extends DiskAttachment {
  readonly data: SharedArrayBuffer;
  readonly state: SharedArrayBuffer;
  /** Counts the channels that are open. */
  readonly open: SharedArrayBuffer;
}

/** Names the disk with these sectors, these words. */
export function stoppedAttachment(
  data: SharedArrayBuffer,
  state: SharedArrayBuffer,
  open: SharedArrayBuffer,
): StoppedAttachment {
  return { module: import.meta.url, data, state, open };
}

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions): IoChannel {
  const { data, state, open } = attachment as StoppedAttachment;
  const inner = openMemoryChannel(memoryAttachment(data, false), options);
  const word = new Int32Array(state);
  const opened = new Int32Array(open);
  Atomics.add(opened, 0, 1);
  return {
    get inFlight() {
      return inner.inFlight;
    },
    tags: inner.tags,
    results: inner.results,
    read: (...args) => inner.read(...args),
    write: (...args) => inner.write(...args),
    flush: (tag) => inner.flush(tag),
    discard: (...args) => inner.discard(...args),
    submit: () => inner.submit(),
    reap: () => {
      const now = Atomics.load(word, 0);
      if (now === STATE.hangs) return 0;
      const count = inner.reap();
      if (now === STATE.fails) inner.results.fill(-EIO, 0, count);
      return count;
    },
    [Symbol.dispose]: () => {
      Atomics.sub(opened, 0, 1);
      inner[Symbol.dispose]();
    },
  };
}
