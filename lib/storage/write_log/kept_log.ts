/**
 * The write log of one disk as the control plane has it: its memory by name, which disk it belongs to, and which channel
 * has which part. A part takes memory once a channel has used it: a log with one ring takes 4.3 MiB, not 16.3.
 */

import { XenblkError } from "../../errors.ts";
import type { JournalStore, KeptMemory } from "../../hypervisor.ts";
import { newNonce, parseNonce } from "../../nonce.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { DiskProperties } from "../disk.ts";
import { dataOffset, DiskLog, logBytes, type LogContent, type LogPlace } from "./log.ts";
import { LogParts, type PartLease } from "./parts.ts";

/** Most channels of a disk: each has a part of the log. One thread of the daemon serves them all. */
export const MOST_PARTS = 4;
/** Bytes of data in each part: four times the longest request, so that a flush begins before writes have to wait for it. */
const PART_BYTES = 4 << 20;

/** The write log of one disk. Disposing it keeps it for the next process, unless there is nothing in it. */
export class KeptLog implements Disposable {
  readonly place: LogPlace;
  readonly #store: Pick<JournalStore, "open" | "remove">;
  readonly #name: string;
  readonly #memory: KeptMemory;
  readonly #log: DiskLog;
  readonly #parts = new LogParts(MOST_PARTS);

  /** Throws {@linkcode XenblkError} if it cannot be kept. */
  constructor(store: Pick<JournalStore, "open" | "remove">, name: string) {
    this.#store = store;
    this.#name = name;
    const lengthBytes = logBytes(MOST_PARTS, PART_BYTES);
    this.#memory = store.open(name, lengthBytes, dataOffset(MOST_PARTS, PART_BYTES, 0));
    this.place = { address: this.#memory.address, lengthBytes };
    this.#log = new DiskLog(this.#memory.view);
  }

  /** It is the log of the disk with this tag and size, and can be replayed. */
  isOf(tag: string | undefined, { sectors }: Pick<DiskProperties, "sectors">): boolean {
    const nonce = parseNonce(tag);
    return nonce !== undefined && this.#log.belongsTo(nonce) && this.#log.isSound(sectors * SECTOR_BYTES);
  }

  /** What the disk with this tag would lose without it; undefined if it is not that disk's. */
  contentFor(tag: string | undefined): LogContent | undefined {
    return this.#log.contentFor(tag);
  }

  /** The negative errno of a flush that failed, or 0. */
  get failure(): number {
    return this.#log.failure;
  }

  /** Nothing that was answered waits for a flush. */
  get isEmpty(): boolean {
    return this.#log.failure === 0 && this.#log.isFlushed;
  }

  /** Empties it, for the disk with this tag. No channel may have a part. */
  begin(tag: string | undefined): void {
    const nonce = parseNonce(tag) ?? newNonce();
    if (this.#log.belongsTo(nonce)) this.#log.empty();
    else this.#log.begin(nonce, MOST_PARTS, PART_BYTES);
    const dataAt = dataOffset(MOST_PARTS, PART_BYTES, 0);
    this.#memory.release(dataAt, this.place.lengthBytes - dataAt);
  }

  /** A part for one more channel. Throws {@linkcode XenblkError} if all are used, or there is no memory for one. */
  givePart(): PartLease {
    const lease = this.#parts.give();
    if (lease === undefined) {
      throw new XenblkError(`Cannot log the writes of another ring: all ${MOST_PARTS} parts of the log are used`, {
        remedy: "attach the disk with at most so many queues",
      });
    }
    this.#memory.reserve(dataOffset(MOST_PARTS, PART_BYTES, lease.part), PART_BYTES);
    return lease;
  }

  [Symbol.dispose](): void {
    const { isEmpty } = this;
    this.#memory[Symbol.dispose]();
    if (isEmpty) this.#store.remove(this.#name);
  }
}
