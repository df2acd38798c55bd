/**
 * One disk with all that is known of it: what it may hold, the channels to it, and the requests behind their
 * operations. Checks in which order operations are started: a barrier holds back what follows it and waits for what
 * precedes it, and a refused or answered request starts nothing. It must not know rings, nor how requests travel.
 */

import { OP_FLUSH_DISKCACHE, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { OPERATION } from "../../lib/storage/executor.ts";
import { History, type ReadRecord, type WriteRecord } from "./history.ts";
import type { Run } from "./run.ts";
import type { SimulatedDisk } from "./simulated_disk.ts";
import type { ChannelObserver, SteppedChannel, UnderWay } from "./stepped_channel.ts";

/** A request that was sent, as the disk's checks need it. */
export interface SentRequest {
  readonly operation: number;
  readonly id: number;
  readonly sequence: number;
  readonly published: number;
  readonly refused: boolean;
  readonly ring: RingOrder;
  readonly write: WriteRecord | undefined;
  readonly read: ReadRecord | undefined;
  /** When its write was started, and carried out with success, on the disk; 0: not yet. */
  started: number;
  executed: number;
  /** Its write is under way on the disk. */
  underWay: boolean;
}

/** The requests of a ring that have no answer yet. */
export interface RingOrder {
  /** Oldest first. */
  readonly unanswered: Iterable<SentRequest>;
  /** An answer is in the ring, whether the guest took it or not. */
  isAnswered(request: SentRequest): boolean;
  /** When the last write of this ring was carried out with success. */
  lastExecuted: number;
}

/** What the first words of a written sector say; see content.ts. */
const ID_WORD_OFFSET = 4;

/** See the file's first lines. */
export class DiskWatch implements ChannelObserver {
  readonly history: History;
  readonly channels: SteppedChannel[] = [];
  /** When the backend was told of a failed flush; Infinity: not since its process began. */
  latched = Infinity;
  /** A flush failed, whether the backend knows or not, since its process began. */
  flushFailed = false;
  /** When {@linkcode flushFailed} was reset last: what was sent before may have been refused for it. */
  forgotten = 0;
  /** When the flush was started that was the last to succeed. */
  flushStarted = 0;
  readonly #run: Run;
  #lastExecuted = 0;
  readonly #requests = new Map<number, SentRequest>();

  constructor(readonly disk: SimulatedDisk, run: Run) {
    this.#run = run;
    this.history = new History(disk.properties.sectors);
  }

  /** A request that writes is about to be sent. */
  sending(request: SentRequest): void {
    if (request.write !== undefined) this.#requests.set(request.write.id, request);
  }

  started(operation: UnderWay, data: Uint8Array): void {
    if (operation.operation !== OPERATION.write) return;
    const id = new DataView(data.buffer, data.byteOffset, data.byteLength).getInt32(ID_WORD_OFFSET, true);
    const request = this.#requests.get(id);
    const what = `${this.disk.name}: write ${id} at byte ${operation.offsetBytes}`;
    if (request === undefined) return this.#run.fail(`${what} was started, which no request asks for`);
    const { ring, refused } = request;
    this.#run.require(!refused, `${what} was started, whose request must be refused`);
    this.#run.require(request.started === 0, `${what} was started twice`);
    this.#run.require(!ring.isAnswered(request), `${what} was started after its request was answered`);
    request.started = operation.started;
    request.underWay = true;
    for (const earlier of ring.unanswered) {
      if (earlier.sequence >= request.sequence) break;
      this.#checkOrder(earlier, request, what);
    }
    if (request.operation !== OP_WRITE) this.#checkFlushBefore(request, what);
  }

  executed(operation: UnderWay, result: number): void {
    if (operation.operation === OPERATION.flush) {
      if (result === 0) this.flushStarted = Math.max(this.flushStarted, operation.started);
      else this.flushFailed = true;
    }
    if (operation.operation !== OPERATION.write) return;
    for (const request of this.#requests.values()) {
      if (request.started !== operation.started) continue;
      request.underWay = false;
      if (result === 0) request.executed = request.ring.lastExecuted = this.#lastExecuted = this.#run.now;
    }
  }

  toldFailure({ operation }: UnderWay): void {
    if (operation === OPERATION.flush) this.latched = Math.min(this.latched, this.#run.tick());
  }

  closed(channel: SteppedChannel): void {
    this.channels.splice(this.channels.indexOf(channel), 1);
    if (this.flushFailed || this.disk.properties.readOnly) return;
    const safe = this.flushStarted > this.#lastExecuted || this.#lastExecuted === 0;
    this.#run.require(safe, `a channel to ${this.disk.name} was closed before what was written was flushed`);
    this.history.flushed(this.#run.tick());
  }

  /** An answer OKAY was seen: what it promises must be true. */
  answeredOkay(request: SentRequest): void {
    const { operation, published, write, executed } = request;
    const what = `${this.disk.name}: request ${request.id}`;
    if (operation >= OP_WRITE && published > this.latched) {
      this.#run.fail(`${what} writes or flushes and was answered OKAY, after a flush of this disk had failed`);
    }
    if (write !== undefined) this.#run.require(executed > 0, `${what} was answered OKAY, but never written`);
    if (operation === OP_WRITE_BARRIER && write !== undefined) {
      this.#run.require(this.flushStarted > executed, `${what} is a barrier and was not flushed after it was written`);
      this.history.promise(write);
    }
    if (operation !== OP_WRITE_BARRIER && operation !== OP_FLUSH_DISKCACHE) return;
    this.#run.require(this.flushStarted > published, `${what} is a flush and nothing was flushed since it was sent`);
    this.history.flushed(published);
  }

  /** The request has no part in anything any more. */
  forget(request: SentRequest): void {
    if (request.write !== undefined) this.#requests.delete(request.write.id);
  }

  /**
   * The disk was attached anew, which is how an operator says that it is to be trusted again. A device that survived
   * that, because it never saw its removal, may go on refusing.
   */
  attachedAnew(): void {
    if (this.flushFailed) this.history.forgive();
    this.latched = Infinity;
  }

  /** The process that served the disk is gone, and with it what it knew. */
  processEnded(): void {
    if (this.flushFailed) {
      this.history.forgive();
      // Answered, perhaps, but not so that its guest has seen it.
      for (const { write } of this.#requests.values()) if (write !== undefined) write.forgiven = true;
      this.forgotten = this.#run.tick();
    }
    this.flushFailed = false;
    this.latched = Infinity;
    this.#lastExecuted = 0;
    for (const request of this.#requests.values()) {
      if (request.ring.isAnswered(request)) continue;
      request.started = 0;
      request.executed = 0;
      request.underWay = false;
    }
  }

  #checkOrder(earlier: SentRequest, request: SentRequest, what: string): void {
    if (earlier.operation === OP_WRITE_BARRIER && !earlier.refused) {
      this.#run.require(earlier.ring.isAnswered(earlier), `${what} was started before barrier ${earlier.id} was over`);
    }
    if (request.operation === OP_WRITE_BARRIER && earlier.underWay) {
      this.#run.fail(`${what} is a barrier's and was started while ${earlier.id} ahead of it was being written`);
    }
  }

  /** Between what is to be flushed before this write and the write there was a flush. */
  #checkFlushBefore(request: SentRequest, what: string): void {
    const since = request.operation === OP_WRITE_BARRIER ? request.ring.lastExecuted : request.published;
    this.#run.require(
      this.flushStarted > since || since === 0,
      `${what} was started before what precedes it was flushed`,
    );
  }
}
