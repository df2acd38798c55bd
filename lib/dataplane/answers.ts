/**
 * The end of a request's way: the answers of a pass, put on the ring in one push with at most one notification. Which
 * status a request gets is decided elsewhere, but for data that could not be given back to the guest.
 */

import { SECTOR_BYTES } from "../units.ts";
import { OP_DISCARD, STATUS_ERROR, STATUS_OKAY } from "../blkif/abi.ts";
import type { BackRing } from "../blkif/back_ring.ts";
import type { RequestSlots } from "../blkif/request.ts";
import { operationName } from "../blkif/validate.ts";
import type { GrantStrategy } from "./grants.ts";
import type { Journal } from "./journal.ts";
import type { QueueParts } from "./queue_parts.ts";
import { PHASE_FINISHED, type SlotStates } from "./slot_states.ts";
import { countError, countSectors, STAT } from "./stats.ts";

/** See the file's first lines. One queue's. */
export class Answers {
  readonly #parts: QueueParts;
  readonly #ring: BackRing;
  readonly #slots: RequestSlots;
  readonly #grants: GrantStrategy;
  readonly #journal: Journal;
  readonly #states: SlotStates;
  readonly #stats: Float64Array;
  readonly #status: Int8Array;
  /** Slots to be answered in this pass. */
  readonly #finished: Uint16Array;
  #count = 0;

  constructor(parts: QueueParts, states: SlotStates, stats: Float64Array) {
    this.#parts = parts;
    this.#ring = parts.ring;
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#journal = parts.journal;
    this.#states = states;
    this.#stats = stats;
    this.#status = new Int8Array(parts.slots.slots);
    this.#finished = new Uint16Array(parts.slots.slots);
  }

  /** Answers that are not yet sent. */
  get count(): number {
    return this.#count;
  }

  /** The request is over; its slot becomes free when its answer is sent. */
  add(slot: number, status: number): void {
    this.#states.phase[slot] = PHASE_FINISHED;
    this.#status[slot] = status;
    this.#finished[this.#count++] = slot;
  }

  /**
   * Puts the answers and pushes them; onto a broken ring nothing is put. Storing rsp_prod commits them: a crash before it
   * takes them all back, for the next process to answer.
   */
  send(broken: boolean): void {
    const count = this.#count;
    if (count === 0) return;
    this.#journal.committing(this.#ring.responseProducer + count);
    for (let i = 0; i < count; i++) this.#put(this.#finished[i]!, broken);
    this.#count = 0;
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

  #put(slot: number, broken: boolean): void {
    const slots = this.#slots;
    let status = this.#status[slot]!;
    if (status === STATUS_OKAY && this.#grants.failed[slot] === 1) {
      this.#parts.complain(`${operationName(slots.operation[slot]!)}: the guest's pages could not be given back`);
      status = STATUS_ERROR;
    }
    const operation = slots.responseOperation[slot]!;
    if (status === STATUS_ERROR) countError(this.#stats, operation);
    else if (status === STATUS_OKAY) this.#countSectors(slot, operation);
    if (!broken) {
      this.#journal.answering(slot, this.#ring.responseProducer);
      this.#ring.putResponse(slots.idLow[slot]!, slots.idHigh[slot]!, operation, status);
    }
    this.#states.giveBack(slot);
  }

  #countSectors(slot: number, operation: number): void {
    const bytes = operation === OP_DISCARD ? this.#slots.discardBytes[slot]! : this.#slots.lengthBytes[slot]!;
    countSectors(this.#stats, operation, bytes / SECTOR_BYTES);
  }
}
