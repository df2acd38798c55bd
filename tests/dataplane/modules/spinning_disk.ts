/**
 * A disk that keeps its reactor's thread busy for a time with each request, as a file in the page cache does; it holds no
 * data.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../../../mod.ts";

/** Names a disk with requests that take so long. */
export interface SpinningAttachment extends DiskAttachment {
  readonly requestMs: number;
}

/** Names a disk whose requests take so long. */
export function spinningAttachment(requestMs: number): SpinningAttachment {
  return { module: import.meta.url, requestMs };
}

/** See DiskModule. */
export function openChannel(
  { requestMs }: SpinningAttachment,
  { depth }: ChannelOptions,
  { platform }: ChannelContext,
): IoChannel {
  const tags = new Uint32Array(depth);
  const results = new Int32Array(depth);
  let inFlight = 0;
  const start = (tag: number): void => void (tags[inFlight++] = tag);
  return {
    tags,
    results,
    get inFlight() {
      return inFlight;
    },
    read: start,
    write: start,
    flush: start,
    discard: start,
    submit: () => {},
    reap: () => {
      const endMs = platform.now() + inFlight * requestMs;
      while (platform.now() < endMs);
      const count = inFlight;
      inFlight = 0;
      return count;
    },
    [Symbol.dispose]: () => {},
  };
}
