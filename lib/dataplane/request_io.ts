/**
 * The middle of a request's way: what its operation asks of the disk (data, a discard, flushes before and after), step
 * by step until it is over, and what a failure means for it and for the device. When a request may start, and the ring,
 * are unknown here.
 */

import { SECTOR_BYTES } from "../units.ts";
import { EOPNOTSUPP } from "../errno.ts";
import {
  OP_DISCARD,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import type { RequestSlots } from "../blkif/request.ts";
import { isSecureDiscard, operationName } from "../blkif/validate.ts";
import { type IoChannel } from "../storage/disk.ts";
import { errnoText } from "../storage/errno.ts";
import type { Answers } from "./answers.ts";
import type { GrantStrategy } from "./grants.ts";
import type { QueueParts } from "./queue_parts.ts";
import { PHASE_DATA, PHASE_FLUSH_AFTER, PHASE_FLUSH_BEFORE, type SlotStates } from "./slot_states.ts";

/** See the file's first lines. One queue's. */
export class RequestIo {
  readonly #parts: QueueParts;
  readonly #slots: RequestSlots;
  readonly #grants: GrantStrategy;
  readonly #channel: IoChannel;
  readonly #answers: Answers;
  readonly #phase: Uint8Array;

  constructor(parts: QueueParts, states: SlotStates, answers: Answers) {
    this.#parts = parts;
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#channel = parts.channel;
    this.#answers = answers;
    this.#phase = states.phase;
  }

  /** Starts a request whose data, if it has any, is there. */
  start(slot: number): void {
    const operation = this.#slots.operation[slot]!;
    if (operation === OP_READ || operation === OP_WRITE) this.#startData(slot);
    else if (operation === OP_DISCARD) this.#startDiscard(slot);
    else this.#startFlush(slot, PHASE_FLUSH_BEFORE);
  }

  /** The engine is done with what the slot waited for: it goes on to its next phase, or is over. */
  advance(slot: number, result: number): void {
    const phase = this.#phase[slot]!;
    if (result < 0) {
      this.#failed(slot, phase, result);
    } else if (phase !== PHASE_DATA && this.#parts.latch.tripped) {
      // The kernel tells one flush of a failure: that another one succeeds since says nothing of the same data.
      this.#complainLatched(slot);
      this.#finish(slot, STATUS_ERROR);
    } else if (phase === PHASE_FLUSH_BEFORE && this.#slots.lengthBytes[slot] !== 0) {
      this.#startData(slot);
    } else if (phase === PHASE_DATA && this.#slots.operation[slot] === OP_WRITE_BARRIER) {
      this.#startFlush(slot, PHASE_FLUSH_AFTER);
    } else {
      this.#finish(slot, STATUS_OKAY);
    }
  }

  /** Answers a request that changes the disk, and that nothing was done for, because a flush failed before. */
  refuseLatched(slot: number): void {
    this.#complainLatched(slot);
    this.#answers.add(slot, STATUS_ERROR);
  }

  /** Answers a request whose grants could not be used. */
  failGrants(slot: number): void {
    this.#parts.complain(
      `${operationName(this.#slots.operation[slot]!)}: a grant reference is not usable (revoked, foreign or read-only)`,
    );
    if (this.#slots.lengthBytes[slot] !== 0) this.#grants.release(slot, false);
    this.#answers.add(slot, STATUS_ERROR);
  }

  #startData(slot: number): void {
    this.#phase[slot] = PHASE_DATA;
    const first = slot * this.#slots.maxSegments;
    const count = this.#grants.vectorCount[slot]!;
    const offsetBytes = this.#slots.offsetBytes[slot]!;
    if (this.#slots.operation[slot] === OP_READ) this.#channel.read(slot, offsetBytes, first, count);
    else this.#channel.write(slot, offsetBytes, first, count);
  }

  #startDiscard(slot: number): void {
    const lengthBytes = this.#slots.discardBytes[slot]!;
    if (lengthBytes === 0) return this.#finish(slot, STATUS_OKAY); // less than a granule
    this.#phase[slot] = PHASE_DATA;
    const secure = isSecureDiscard(this.#slots, slot, this.#parts.limits);
    this.#channel.discard(slot, this.#slots.offsetBytes[slot]!, lengthBytes, secure);
  }

  #startFlush(slot: number, phase: number): void {
    this.#phase[slot] = phase;
    this.#channel.flush(slot);
  }

  #failed(slot: number, phase: number, errno: number): void {
    if (phase !== PHASE_DATA) this.#parts.latch.trip();
    const sector = this.#slots.offsetBytes[slot]! / SECTOR_BYTES;
    const { image } = this.#parts;
    this.#parts.complain(
      `${operationName(this.#slots.operation[slot]!)} at sector ${sector}` +
        (image === undefined ? "" : ` of ${image}`) +
        `: ${phase === PHASE_DATA ? "I/O" : "flush"} failed: ${errnoText(errno)}` +
        (phase === PHASE_DATA ? "" : "; writes are refused from now on: check the image's storage, then reattach"),
    );
    this.#finish(slot, errno === -EOPNOTSUPP ? STATUS_EOPNOTSUPP : STATUS_ERROR);
  }

  #complainLatched(slot: number): void {
    this.#parts.complain(
      `${operationName(this.#slots.operation[slot]!)} refused: an earlier flush of this disk failed`,
    );
  }

  // I/O is over: the data goes back to the guest (with the next transfer), then the response.
  #finish(slot: number, status: number): void {
    if (this.#slots.lengthBytes[slot] !== 0) this.#grants.release(slot, status === STATUS_OKAY);
    this.#answers.add(slot, status);
  }
}
