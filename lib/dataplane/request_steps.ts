/**
 * The steps of one request, in their order: take it off the ring, decode and validate it, fetch indirect segments, get
 * room for its data, start its I/O, advance it with each completion, and answer it. The queue (queue.ts) decides when a
 * request makes its next step. Nothing is allocated per request.
 */

import {
  type AbiLayout,
  OP_DISCARD,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import type { BackRing } from "../blkif/back_ring.ts";
import { operationName, refusalReason } from "../blkif/refusal.ts";
import { decodeRequest, type DiskLimits, isSecureDiscard, validateRequest } from "../blkif/request.ts";
import { EOPNOTSUPP } from "../errno.ts";
import type { IoChannel } from "../storage/disk.ts";
import { errnoText } from "../storage/errno.ts";
import { SECTOR_BYTES } from "../units.ts";
import { grantFailureText, NO_GRANT_FAILURE } from "./grants/failure.ts";
import type { GrantStrategy } from "./grants/strategy.ts";
import type { IndirectPages } from "./indirect_pages.ts";
import type { Journal } from "./journal.ts";
import type { Latch } from "./latch.ts";
import type { Gate } from "./limiter.ts";
import type { RequestTimes } from "./request_times.ts";
import { PHASE_DATA, PHASE_FLUSH_AFTER, PHASE_FLUSH_BEFORE, type SlotTable } from "./slot_table.ts";
import { STAT } from "./stats.ts";

/** What a queue is made of. The queue owns grants, indirect, channel and times, and disposes them. */
export interface QueueParts {
  /** The image's path, for messages; absent without an image file. */
  readonly image?: string;
  readonly ring: BackRing;
  readonly abi: AbiLayout;
  readonly slots: SlotTable;
  readonly grants: GrantStrategy;
  /** Absent: the slots have no indirect segments. */
  readonly indirect?: IndirectPages;
  readonly channel: IoChannel;
  /** Absent: the disk has no limits. */
  readonly gate?: Gate | undefined;
  readonly limits: DiskLimits;
  /** Holds a private copy of each request in flight: nothing is ever decoded from the ring itself (XSA-155). */
  readonly journal: Journal;
  /** The memory of the counters; see stats.ts. */
  readonly stats: SharedArrayBuffer;
  /** Measures the requests. */
  readonly times: RequestTimes;
  /** Shared by all queues of the device. */
  readonly latch: Latch;
  /** Notifies the frontend of responses. */
  readonly notify: () => void;
  /** Logs what is wrong with a guest's request or its I/O; whoever passes it in limits the rate. */
  readonly complain: (line: string) => void;
}

/** The steps of a queue's requests. */
export class RequestSteps {
  readonly #parts: QueueParts;
  readonly #ring: BackRing;
  readonly #slots: SlotTable;
  readonly #grants: GrantStrategy;
  readonly #indirect: IndirectPages | undefined;
  /** Where operations go. */
  channel: IoChannel;
  readonly #journal: Journal;
  readonly #latch: Latch;
  readonly #stats: Float64Array;
  readonly #times: RequestTimes;
  #limits: DiskLimits;

  constructor(parts: QueueParts) {
    this.#parts = parts;
    this.#ring = parts.ring;
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#indirect = parts.indirect;
    this.channel = parts.channel;
    this.#journal = parts.journal;
    this.#latch = parts.latch;
    this.#stats = new Float64Array(parts.stats);
    this.#times = parts.times;
    this.#limits = parts.limits;
  }

  /** The disk has become larger. Requests that were validated before keep their verdict. */
  grow(sectors: number): void {
    this.#limits = { ...this.#limits, sectors };
  }

  /** Takes the next request off the ring into a free slot: copies it once, and decodes the copy. */
  take(): void {
    const slot = this.#slots.claim();
    const index = this.#ring.requestConsumer;
    this.#ring.take(this.#journal.snapshot.u32, this.#journal.requestAt(slot) >>> 2);
    this.#journal.taken(slot, index);
    this.admit(slot);
  }

  /** Decodes the slot's copy in the journal, and validates it. */
  admit(slot: number): void {
    decodeRequest(this.#journal.snapshot, this.#journal.requestAt(slot), this.#parts.abi, this.#slots, slot);
    this.#slots.take(slot);
    this.#validate(slot);
  }

  /** Indirect requests become reads and writes: one call fetches their segments; then they are validated again. */
  fetchSegments(): void {
    const indirect = this.#indirect;
    if (indirect === undefined || indirect.count === 0) return;
    indirect.fetch();
    for (let i = 0; i < indirect.count; i++) {
      const slot = indirect.slot(i);
      if (indirect.decode(i)) this.#validate(slot);
      else this.#refuseIndirect(slot);
    }
    indirect.clear();
  }

  #validate(slot: number): void {
    const slots = this.#slots;
    const status = validateRequest(slots, slot, this.#limits);
    if (status !== STATUS_OKAY) return this.#refuse(slot, status);
    const operation = slots.operation[slot]!;
    if (operation === OP_INDIRECT) return this.#indirect!.add(slot);
    this.#count(operation, status);
    if (operation === OP_READ) return;
    if (this.#latch.tripped) return this.#refuseLatched(slot);
    if (operation === OP_WRITE_BARRIER) slots.barrier = slot;
  }

  /** Gets room for the request's data, if it has any. False: there is none now. */
  acquire(slot: number): boolean {
    return this.#slots.lengthBytes[slot] === 0 || this.#grants.acquire(slot);
  }

  /** Starts a request once it has room and, for a write, its data. */
  start(slot: number): void {
    const operation = this.#slots.operation[slot]!;
    if (this.#slots.grantFailed[slot] !== NO_GRANT_FAILURE) this.#failGrants(slot);
    else if (operation === OP_READ || operation === OP_WRITE) this.#startData(slot);
    else if (operation === OP_DISCARD) this.#startDiscard(slot);
    else this.#startFlush(slot, PHASE_FLUSH_BEFORE);
  }

  /** The engine has completed what the slot waited for: it goes to its next phase, or is finished. */
  advance(slot: number, result: number): void {
    const slots = this.#slots;
    const phase = slots.phase[slot]!;
    if (result < 0) {
      this.#failIo(slot, phase, result);
    } else if (phase !== PHASE_DATA && this.#latch.tripped) {
      // The kernel reports a failed write-back to one flush only: the success of another one proves nothing.
      this.#complainLatched(slot);
      this.#finish(slot, STATUS_ERROR);
    } else if (phase === PHASE_FLUSH_BEFORE && slots.lengthBytes[slot] !== 0) {
      this.#startData(slot);
    } else if (phase === PHASE_DATA && slots.operation[slot] === OP_WRITE_BARRIER) {
      this.#startFlush(slot, PHASE_FLUSH_AFTER);
    } else {
      this.#finish(slot, STATUS_OKAY);
    }
  }

  /**
   * Puts the responses of all finished requests and pushes them, with at most one notification; on a broken ring
   * nothing is put. Storing rsp_prod commits them: after a crash before that store, the next process answers them all.
   */
  answer(broken: boolean): void {
    const count = this.#slots.finishedCount;
    if (count === 0) return;
    if (!broken) this.#times.answered(this.#slots, count);
    this.#journal.committing(this.#ring.responseProducer + count);
    for (let i = 0; i < count; i++) this.#respond(this.#slots.finished[i]!, broken);
    this.#slots.finishedCount = 0;
    if (broken) return;
    const wanted = this.#ring.push();
    this.#journal.committed(this.#ring.responseProducer);
    if (wanted) {
      this.#stats[STAT.notificationsSent]!++;
      this.#parts.notify();
    } else {
      this.#stats[STAT.notificationsSaved]!++;
    }
  }

  #startData(slot: number): void {
    const slots = this.#slots;
    slots.phase[slot] = PHASE_DATA;
    const first = slots.firstSegment[slot]!;
    const count = slots.vectorCount[slot]!;
    const offsetBytes = slots.offsetBytes[slot]!;
    if (slots.operation[slot] === OP_READ) this.channel.read(slot, offsetBytes, first, count);
    else this.channel.write(slot, offsetBytes, first, count);
  }

  #startDiscard(slot: number): void {
    const lengthBytes = this.#slots.discardBytes[slot]!;
    if (lengthBytes === 0) return this.#finish(slot, STATUS_OKAY); // less than a granule
    this.#slots.phase[slot] = PHASE_DATA;
    const secure = isSecureDiscard(this.#slots, slot, this.#limits);
    this.channel.discard(slot, this.#slots.offsetBytes[slot]!, lengthBytes, secure);
  }

  #startFlush(slot: number, phase: number): void {
    this.#slots.phase[slot] = phase;
    this.channel.flush(slot);
  }

  /** I/O is over. The next transfer gives the data of a read to the guest; the response follows. */
  #finish(slot: number, status: number): void {
    if (this.#slots.lengthBytes[slot] !== 0) this.#grants.release(slot, status === STATUS_OKAY);
    this.#slots.finish(slot, status);
  }

  #respond(slot: number, broken: boolean): void {
    const slots = this.#slots;
    let status = slots.status[slot]!;
    if (status === STATUS_OKAY && slots.grantFailed[slot] !== NO_GRANT_FAILURE) {
      this.#parts.complain(`${this.#nameOf(slot)}: ${grantFailureText(slots, slot)}`);
      status = STATUS_ERROR;
    }
    const operation = slots.responseOperation[slot]!;
    if (status === STATUS_ERROR) this.#countError(operation);
    else if (status === STATUS_OKAY) this.#countSectors(slot, operation);
    if (!broken) {
      this.#journal.answering(slot, this.#ring.responseProducer);
      this.#ring.putResponse(slots.idLow[slot]!, slots.idHigh[slot]!, operation, status);
    }
    slots.release(slot);
  }

  #refuse(slot: number, status: number): void {
    this.#count(this.#slots.responseOperation[slot]!, status);
    this.#parts.complain(refusalReason(this.#slots, slot, this.#limits));
    this.#slots.finish(slot, status);
  }

  #refuseIndirect(slot: number): void {
    this.#count(this.#slots.responseOperation[slot]!, STATUS_ERROR);
    this.#failGrants(slot);
  }

  /** Answers a request that changes the disk, without any I/O, because an earlier flush failed. */
  #refuseLatched(slot: number): void {
    this.#complainLatched(slot);
    this.#slots.finish(slot, STATUS_ERROR);
  }

  #failGrants(slot: number): void {
    this.#parts.complain(`${this.#nameOf(slot)}: ${grantFailureText(this.#slots, slot)}`);
    this.#finish(slot, STATUS_ERROR);
  }

  #failIo(slot: number, phase: number, errno: number): void {
    const flushing = phase !== PHASE_DATA;
    if (flushing) this.#latch.trip();
    const sector = this.#slots.offsetBytes[slot]! / SECTOR_BYTES;
    const { image } = this.#parts;
    this.#parts.complain(
      `${this.#nameOf(slot)} at sector ${sector}` +
        (image === undefined ? "" : ` of ${image}`) +
        `: ${flushing ? "flush" : "I/O"} failed: ${errnoText(errno)}` +
        (flushing ? "; writes are refused from now on: check the image's storage, then reattach" : ""),
    );
    const isOffered = errno !== -EOPNOTSUPP;
    if (!isOffered) this.#times.tellApart();
    this.#finish(slot, isOffered ? STATUS_ERROR : STATUS_EOPNOTSUPP);
  }

  #complainLatched(slot: number): void {
    this.#parts.complain(`${this.#nameOf(slot)} refused: an earlier flush of this disk failed`);
  }

  #nameOf(slot: number): string {
    return operationName(this.#slots.operation[slot]!);
  }

  /** Counts a request by what it asks for, once it is accepted or refused. */
  #count(operation: number, status: number): void {
    if (status === STATUS_EOPNOTSUPP) this.#stats[STAT.unsupported]!++;
    else this.#stats[operation === OP_DISCARD ? STAT.discards : operation]!++;
  }

  /** Counts a request that is answered ERROR. */
  #countError(operation: number): void {
    this.#stats[STAT.errors]!++;
    this.#stats[operation === OP_DISCARD ? STAT.discardErrors : STAT.readErrors + operation]!++;
  }

  /** Counts the sectors of a request that was carried out. */
  #countSectors(slot: number, operation: number): void {
    const { lengthBytes, discardBytes } = this.#slots;
    if (operation === OP_READ) this.#stats[STAT.sectorsRead]! += lengthBytes[slot]! / SECTOR_BYTES;
    else if (operation === OP_DISCARD) this.#stats[STAT.sectorsDiscarded]! += discardBytes[slot]! / SECTOR_BYTES;
    else this.#stats[STAT.sectorsWritten]! += lengthBytes[slot]! / SECTOR_BYTES;
  }
}
