/**
 * A filter from outside the project, on its public face alone: shows a part of the disk behind it, and cuts every
 * transfer at sectors, for which the inner channel has a depth and vectors of its own.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel, IoVectors } from "../../../mod.ts";

/** Names the filter in front of a disk. */
export interface SplittingAttachment extends DiskAttachment {
  readonly options: { readonly startBytes: number };
  readonly inner: DiskAttachment;
}

const PIECE_BYTES = 512;
/** Pieces that an operation may have: those of 11 pages. */
const MOST_PIECES = 88;

/** Names what begins at `startBytes` of a disk. */
export function partOf(inner: DiskAttachment, startBytes: number): SplittingAttachment {
  return { module: import.meta.url, options: { startBytes }, inner };
}

/** See DiskModule. */
export function openChannel(
  { options: { startBytes }, inner }: SplittingAttachment,
  options: ChannelOptions,
  context: ChannelContext,
): IoChannel {
  const depth = options.depth * MOST_PIECES;
  const vectors = { addresses: new Float64Array(depth), lengths: new Uint32Array(depth).fill(PIECE_BYTES) };
  const channel = context.openChannel(inner, { ...options, depth, vectors });
  return new SplittingChannel(channel, vectors, startBytes, options);
}

/** Piece p of operation t is the inner operation t * MOST_PIECES + p. */
class SplittingChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  inFlight = 0;
  readonly #inner: IoChannel;
  readonly #pieces: IoVectors;
  readonly #startBytes: number;
  readonly #vectors: IoVectors;
  /** By tag: pieces under way, and the first error. */
  readonly #left: Uint32Array;
  readonly #status: Int32Array;

  constructor(inner: IoChannel, pieces: IoVectors, startBytes: number, { depth, vectors }: ChannelOptions) {
    this.#inner = inner;
    this.#pieces = pieces;
    this.#startBytes = startBytes;
    this.#vectors = vectors;
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#left = new Uint32Array(depth);
    this.#status = new Int32Array(depth);
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    const pieces = this.#cut(tag, first, count);
    for (let i = 0; i < pieces; i++) {
      this.#inner.read(tag * MOST_PIECES + i, this.#at(offsetBytes, i), tag * MOST_PIECES + i, 1);
    }
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    const pieces = this.#cut(tag, first, count);
    for (let i = 0; i < pieces; i++) {
      this.#inner.write(tag * MOST_PIECES + i, this.#at(offsetBytes, i), tag * MOST_PIECES + i, 1);
    }
  }

  flush(tag: number): void {
    this.#begin(tag, 1);
    this.#inner.flush(tag * MOST_PIECES);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#begin(tag, 1);
    this.#inner.discard(tag * MOST_PIECES, this.#at(offsetBytes, 0), lengthBytes, secure);
  }

  submit(): void {
    this.#inner.submit();
  }

  reap(): number {
    const arrived = this.#inner.reap();
    let count = 0;
    for (let i = 0; i < arrived; i++) {
      const tag = Math.floor(this.#inner.tags[i]! / MOST_PIECES);
      if (this.#status[tag] === 0) this.#status[tag] = this.#inner.results[i]!;
      if (--this.#left[tag]! > 0) continue;
      this.tags[count] = tag;
      this.results[count++] = this.#status[tag]!;
    }
    this.inFlight -= count;
    return count;
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }

  #at(offsetBytes: number, piece: number): number {
    return this.#startBytes + offsetBytes + piece * PIECE_BYTES;
  }

  #begin(tag: number, pieces: number): void {
    this.#left[tag] = pieces;
    this.#status[tag] = 0;
    this.inFlight++;
  }

  #cut(tag: number, first: number, count: number): number {
    let pieces = 0;
    for (let i = first; i < first + count; i++) {
      for (let at = 0; at < this.#vectors.lengths[i]!; at += PIECE_BYTES) {
        this.#pieces.addresses[tag * MOST_PIECES + pieces++] = this.#vectors.addresses[i]! + at;
      }
    }
    this.#begin(tag, pieces);
    return pieces;
  }
}
