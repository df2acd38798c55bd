/**
 * The filter `cow`: writes go to an overlay in memory, and the image is only read. The overlay ends with the device, or
 * with the process. One ring serves the disk, so one thread at a time uses the overlay.
 */

import { EIO, ENOSPC, EOPNOTSUPP } from "../../errno.ts";
import type { Platform } from "../../hypervisor.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";
import { MemoryViews } from "../engine/views.ts";
import { TagLine } from "../tag_line.ts";
import type { FilterAttachment, FilterDefinition } from "./filter.ts";
import { HoldingChannel } from "./holding.ts";
import { LiveValues } from "./live.ts";
import { size } from "./options.ts";
import { BLOCK_BYTES, createOverlay, Overlay, type OverlayMemory } from "./overlay.ts";

/** Options of the filter `cow`. */
export interface CowOptions {
  /** Most bytes of written blocks of 4 KiB: a number, or a text such as `1G`. Default 256 MiB. */
  readonly size?: number | string;
}

const DEFAULT_BYTES = 2 ** 28;
const MOST_BYTES = 2 ** 36;
/** Blocks of a discard that one pass carries out. */
const PIECE_BLOCKS = 8192;

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "Keeps writes in memory; the image is only read",
  options: { size: size("Most memory for written blocks of 4 KiB", 16 * BLOCK_BYTES, MOST_BYTES, DEFAULT_BYTES) },
  readsOnly: true,
  keepsWrites: true,
  properties: (disk) => ({
    ...disk,
    readOnly: false,
    discard: { granularityBytes: BLOCK_BYTES, alignmentBytes: 0, secure: false },
    mostChannels: 1,
  }),
  createState: ({ sectors }, { size }): OverlayMemory => createOverlay(Number(size), sectors),
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const filtered = attachment as FilterAttachment;
  return new CowChannel(context.openChannel(filtered.inner, options), options, filtered, context.platform);
}

class CowChannel extends HoldingChannel {
  protected override readonly passes = false;
  readonly #platform: Platform;
  readonly #live: LiveValues;
  readonly #overlay: Overlay;
  readonly #views: MemoryViews;
  /** Reads and writes until they are submitted; then only discards wait. */
  readonly #line: TagLine;
  readonly #discards: TagLine;
  /** How far the first discard has come: the next block. */
  #discarded = 0;
  #nextMs = 0;
  /** By tag of a read: 1 if the overlay has parts of it. */
  readonly #isMixed: Uint8Array;
  readonly #isLost: boolean;

  constructor(inner: IoChannel, options: ChannelOptions, attachment: FilterAttachment, platform: Platform) {
    super(inner, options);
    this.#platform = platform;
    this.#live = new LiveValues(attachment.live);
    this.#overlay = new Overlay(attachment.state as OverlayMemory);
    this.#views = new MemoryViews(options.memory, options.buffers);
    this.#line = new TagLine(options.depth);
    this.#discards = new TagLine(options.depth);
    this.#isLost = attachment.lost;
    this.#isMixed = new Uint8Array(options.depth);
    this.refresh();
  }

  protected override refresh(): void {
    this.#live.refresh();
  }

  protected override take(tag: number): void {
    if (this.#isLost) return this.answer(tag, -EIO);
    // The image is not written, and the overlay is in memory.
    if (this.operation[tag] === OPERATION.flush) return this.answer(tag, 0);
    const isRefused = this.operation[tag] === OPERATION.discard && this.secure[tag] === 1;
    if (isRefused) return this.answer(tag, -EOPNOTSUPP);
    this.#line.add(tag);
    this.held++;
  }

  protected override release(): void {
    for (let tag = this.#line.shift(); tag >= 0; tag = this.#line.shift()) {
      if (this.#isBeyond(tag)) this.#complete(tag, this.operation[tag] === OPERATION.read ? -EIO : -ENOSPC);
      else if (this.operation[tag] === OPERATION.read) this.#read(tag);
      else if (this.operation[tag] === OPERATION.write) this.#complete(tag, this.#write(tag));
      else this.#addDiscard(tag);
    }
    if (this.#discards.count > 0) this.#discardPiece();
  }

  /** A discard that is not complete goes on at the next pass. */
  protected override nextMs(): number {
    return this.#nextMs;
  }

  protected override finish(tag: number, result: number): number {
    if (result === 0 && this.#isMixed[tag] === 1) this.#copy(tag, false);
    this.#isMixed[tag] = 0;
    return result;
  }

  #complete(tag: number, result: number): void {
    this.held--;
    this.answer(tag, result);
  }

  /** The disk behind knows the end for reads only. */
  #isBeyond(tag: number): boolean {
    return this.offsetBytes[tag]! + this.lengthOf(tag) > this.#live.sectors * SECTOR_BYTES;
  }

  #read(tag: number): void {
    const end = this.offsetBytes[tag]! + this.lengthOf(tag);
    let isAll = true;
    let isNone = true;
    for (let at = this.offsetBytes[tag]!; at < end; at = endOfBlock(at)) {
      const covers = this.#overlay.covers(at, Math.min(end, endOfBlock(at)) - at);
      isAll &&= covers === "all";
      isNone &&= covers === "none";
    }
    if (isAll) {
      this.#copy(tag, false);
      return this.#complete(tag, 0);
    }
    this.#isMixed[tag] = isNone ? 0 : 1;
    this.held--;
    this.start(tag);
  }

  /** All of it or nothing. */
  #write(tag: number): number {
    const end = this.offsetBytes[tag]! + this.lengthOf(tag);
    let needed = 0;
    for (let at = this.offsetBytes[tag]!; at < end; at = endOfBlock(at)) {
      if (!this.#overlay.has(Math.floor(at / BLOCK_BYTES))) needed++;
    }
    if (needed > this.#overlay.freeSlots) return -ENOSPC;
    this.#copy(tag, true);
    return 0;
  }

  /** Between the overlay and the operation's memory, piece by piece: a piece is in one vector and in one block. */
  #copy(tag: number, isWrite: boolean): void {
    const { addresses, lengths } = this.vectors;
    const end = this.first[tag]! + this.count[tag]!;
    let at = this.offsetBytes[tag]!;
    for (let i = this.first[tag]!; i < end; i++) {
      for (let done = 0; done < lengths[i]!;) {
        const pieceBytes = Math.min(lengths[i]! - done, endOfBlock(at) - at);
        const bytes = this.#views.view(addresses[i]! + done, pieceBytes);
        if (isWrite) this.#overlay.write(at, bytes);
        else this.#overlay.read(at, bytes);
        done += pieceBytes;
        at += pieceBytes;
      }
    }
  }

  #addDiscard(tag: number): void {
    this.#discards.add(tag);
    if (this.#discards.count === 1) this.#beginDiscard();
  }

  /** Parts of blocks at both ends stay as they are. */
  #beginDiscard(): void {
    const tag = this.#discards.first;
    if (tag >= 0) this.#discarded = Math.ceil(this.offsetBytes[tag]! / BLOCK_BYTES);
  }

  #discardPiece(): void {
    const tag = this.#discards.first;
    const end = Math.floor((this.offsetBytes[tag]! + this.discardBytes[tag]!) / BLOCK_BYTES);
    const pieceEnd = Math.min(end, this.#discarded + PIECE_BLOCKS);
    this.#overlay.discard(this.#discarded, pieceEnd);
    this.#discarded = pieceEnd;
    this.#nextMs = this.#platform.now();
    if (pieceEnd < end) return;
    this.#discards.shift();
    this.#complete(tag, 0);
    this.#beginDiscard();
  }
}

function endOfBlock(offsetBytes: number): number {
  return (Math.floor(offsetBytes / BLOCK_BYTES) + 1) * BLOCK_BYTES;
}
