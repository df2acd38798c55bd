/**
 * A disk from outside the project that works only on memory of its own: it counts what is open in shared words, and
 * serves from a memory disk behind it.
 */

import type { BufferSpace, ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../../../mod.ts";

/** Names such a disk. */
export interface OwnMemoryAttachment extends DiskAttachment {
  readonly inner: DiskAttachment;
  /** Memory spaces that are open, bytes that were allocated in them, and operations on other memory. */
  readonly counters: SharedArrayBuffer;
}

/** Names the disk in front of another one. */
export function ownMemoryOf(inner: DiskAttachment, counters: SharedArrayBuffer): OwnMemoryAttachment {
  return { module: import.meta.url, inner, counters };
}

let begin = 0;
let end = 0;

/** See DiskModule. */
export function openMemory({ counters }: OwnMemoryAttachment, { platform }: ChannelContext): BufferSpace {
  const words = new Int32Array(counters);
  Atomics.add(words, 0, 1);
  return {
    allocate: (lengthBytes) => {
      Atomics.store(words, 1, lengthBytes);
      const memory = platform.memory.allocate(lengthBytes);
      begin = memory.address;
      end = begin + lengthBytes;
      return memory;
    },
    view: (address, lengthBytes) => platform.memory.view(address, lengthBytes),
    [Symbol.dispose]: () => void Atomics.sub(words, 0, 1),
  };
}

/** See DiskModule. */
export function openChannel(
  { inner, counters }: OwnMemoryAttachment,
  options: ChannelOptions,
  context: ChannelContext,
): IoChannel {
  const channel = context.openChannel(inner, options);
  const { addresses, lengths } = options.vectors;
  const check = (first: number, count: number): void => {
    for (let i = first; i < first + count; i++) {
      const isInside = addresses[i]! >= begin && addresses[i]! + lengths[i]! <= end;
      if (!isInside) Atomics.add(new Int32Array(counters), 2, 1);
    }
  };
  return {
    tags: channel.tags,
    results: channel.results,
    get inFlight(): number {
      return channel.inFlight;
    },
    read: (tag, offsetBytes, first, count) => {
      check(first, count);
      channel.read(tag, offsetBytes, first, count);
    },
    write: (tag, offsetBytes, first, count) => {
      check(first, count);
      channel.write(tag, offsetBytes, first, count);
    },
    flush: (tag) => channel.flush(tag),
    discard: (tag, offsetBytes, lengthBytes, secure) => channel.discard(tag, offsetBytes, lengthBytes, secure),
    submit: () => channel.submit(),
    reap: () => channel.reap(),
    [Symbol.dispose]: () => channel[Symbol.dispose](),
  };
}
