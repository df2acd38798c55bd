/**
 * A disk with one fault, in memory: what the contract's suite must find. No test is in here.
 */

import type { ChannelOptions, Disk, DiskAttachment, IoChannel, IoVectors } from "../../lib/storage/disk.ts";
import { memoryAttachment, openChannel as openMemoryChannel } from "../../lib/storage/engine/memory.ts";
import { openDisk } from "../../lib/storage/open.ts";

/** What a channel does wrong. */
export type ChannelFault =
  | "loses a write"
  | "tears a write"
  | "reads into its neighbour"
  | "answers twice"
  | "fails now and then"
  | "starts at once"
  | "takes any tag"
  | "closes while busy"
  | "is always due"
  | "has no end"
  | "writes although read-only"
  | "discards too much"
  | "keeps writes to itself";

interface BrokenAttachment extends DiskAttachment {
  readonly data: SharedArrayBuffer;
  readonly readOnly: boolean;
  readonly fault: ChannelFault | undefined;
}

/** A disk of zeroes; `changes` are faults of the disk itself. */
export async function brokenDisk(
  sizeBytes: number,
  options: { readonly fault?: ChannelFault; readonly readOnly?: boolean; readonly changes?: Partial<Disk> },
): Promise<Disk> {
  const { fault, readOnly = false, changes = {} } = options;
  const disk = await openDisk({ format: "memory", target: `${sizeBytes}`, readOnly, engine: "auto" });
  const data = new SharedArrayBuffer(sizeBytes);
  return {
    properties: disk.properties,
    description: disk.description,
    attachment: async (lane): Promise<BrokenAttachment> => {
      await disk.attachment(lane);
      return { module: import.meta.url, data, readOnly, fault };
    },
    [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
    ...changes,
  };
}

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions): IoChannel {
  const { data, readOnly, fault } = attachment as BrokenAttachment;
  const writable = readOnly && fault !== "writes although read-only";
  const sectors = fault === "keeps writes to itself" ? data.slice(0) : data;
  return new BrokenChannel(openMemoryChannel(memoryAttachment(sectors, writable), options), options.vectors, fault);
}

class BrokenChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #inner: IoChannel;
  readonly #vectors: IoVectors;
  readonly #fault: ChannelFault | undefined;
  #operations = 0;

  constructor(inner: IoChannel, vectors: IoVectors, fault: ChannelFault | undefined) {
    this.#inner = inner;
    this.#vectors = vectors;
    this.#fault = fault;
    this.tags = new Uint32Array(2 * inner.tags.length);
    this.results = new Int32Array(this.tags.length);
  }

  get inFlight(): number {
    return this.#inner.inFlight;
  }

  get dueMs(): number {
    return this.#fault === "is always due" ? 0 : Infinity;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    if (this.#is("reads into its neighbour")) this.#vectors.lengths[first]! += 512;
    const isBehind = offsetBytes > 0 && this.#fault === "has no end";
    this.#inner.read(tag, isBehind ? 0 : offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    if (this.#is("loses a write")) return this.#inner.flush(tag);
    this.#inner.write(tag, offsetBytes, first, this.#is("tears a write") && count > 1 ? count - 1 : count);
    if (this.#fault === "starts at once") this.#inner.submit();
  }

  flush(tag: number): void {
    try {
      this.#inner.flush(tag);
    } catch (error) {
      if (this.#fault !== "takes any tag") throw error;
    }
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    const more = this.#fault === "discards too much" && !secure ? 4096 : 0;
    this.#inner.discard(tag, offsetBytes, lengthBytes + more, secure);
  }

  submit(): void {
    this.#inner.submit();
  }

  reap(): number {
    const count = this.#inner.reap();
    this.tags.set(this.#inner.tags.subarray(0, count));
    this.results.set(this.#inner.results.subarray(0, count));
    if (count > 0 && this.#is("fails now and then")) this.results[0] = -5;
    if (count === 0 || !this.#is("answers twice")) return count;
    this.tags[count] = this.tags[0]!;
    return count + 1;
  }

  [Symbol.dispose](): void {
    if (this.#fault !== "closes while busy") this.#inner[Symbol.dispose]();
  }

  /** Whether this is one of the operations that go wrong by this fault. */
  #is(fault: ChannelFault): boolean {
    return this.#fault === fault && ++this.#operations % 7 === 0;
  }
}
