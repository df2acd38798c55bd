/**
 * One channel to a disk for two users: the operations of a ring, and those of the write cache in front of the disk, which
 * has one at a time. A disk may give out each attachment to one channel only.
 */

import type { OwnedMemory } from "../hypervisor.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel, IoVectors } from "../storage/disk.ts";

/** Bytes that the cache writes at a time. */
export const CHUNK_BYTES: number = 64 << 10;

/** The ring's channel; the cache has methods of its own. */
export class SharedChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #inner: IoChannel;
  readonly #memory: OwnedMemory;
  readonly #theirs: IoVectors;
  /** A copy of the ring's vectors, and one more. */
  readonly #vectors: IoVectors;
  readonly #ownTag: number;
  #ownIsInFlight = false;
  #ownResult: number | undefined;
  #reaped = 0;

  /** Throws what the disk's module throws. */
  constructor(disk: DiskAttachment, options: ChannelOptions, { platform, openChannel }: ChannelContext) {
    using undo = new DisposableStack();
    const { depth, vectors } = options;
    const entries = vectors.lengths.length + 1;
    this.#ownTag = depth;
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#theirs = vectors;
    this.#vectors = { addresses: new Float64Array(entries), lengths: new Uint32Array(entries) };
    this.#memory = undo.use(platform.memory.allocate(CHUNK_BYTES));
    this.#inner = openChannel(disk, { ...options, depth: depth + 1, vectors: this.#vectors });
    undo.move();
  }

  get inFlight(): number {
    return this.#inner.inFlight - (this.#ownIsInFlight ? 1 : 0) + this.#reaped;
  }

  get dueMs(): number {
    return this.#inner.dueMs ?? Infinity;
  }

  get isResting(): boolean {
    return this.inFlight === 0 && (this.#inner.dueMs === undefined || this.#inner.isResting === true);
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#take(first, count);
    this.#inner.read(tag, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#take(first, count);
    this.#inner.write(tag, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.#inner.flush(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#inner.discard(tag, offsetBytes, lengthBytes, secure);
  }

  submit(): void {
    this.#inner.submit();
  }

  reap(): number {
    this.#gather();
    const count = this.#reaped;
    this.#reaped = 0;
    return count;
  }

  /** Starts a write of the cache's, of at most {@linkcode CHUNK_BYTES}. */
  writeOwn(offsetBytes: number, bytes: Uint8Array): void {
    const entry = this.#vectors.lengths.length - 1;
    this.#memory.view.set(bytes);
    this.#vectors.addresses[entry] = this.#memory.address;
    this.#vectors.lengths[entry] = bytes.length;
    this.#inner.write(this.#ownTag, offsetBytes, entry, 1);
    this.#startOwn();
  }

  /** Starts a flush of the cache's. */
  flushOwn(): void {
    this.#inner.flush(this.#ownTag);
    this.#startOwn();
  }

  /** The result of the cache's operation, once; undefined: it is not there yet. */
  takeOwn(): number | undefined {
    this.#gather();
    const result = this.#ownResult;
    this.#ownResult = undefined;
    return result;
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }

  #take(first: number, count: number): void {
    for (let i = first; i < first + count; i++) {
      this.#vectors.addresses[i] = this.#theirs.addresses[i]!;
      this.#vectors.lengths[i] = this.#theirs.lengths[i]!;
    }
  }

  #startOwn(): void {
    this.#ownIsInFlight = true;
    this.#inner.submit();
  }

  /** Keeps what was reaped for the one whose it is. */
  #gather(): void {
    const count = this.#inner.reap();
    const { tags, results } = this.#inner;
    for (let i = 0; i < count; i++) {
      if (tags[i] === this.#ownTag) {
        this.#ownIsInFlight = false;
        this.#ownResult = results[i]!;
      } else {
        this.tags[this.#reaped] = tags[i]!;
        this.results[this.#reaped++] = results[i]!;
      }
    }
  }
}
