/**
 * One disk with all that is known of it: what it may hold, the channels to it, and the requests behind their
 * operations. Checks in which order operations are started: a barrier holds back what follows it and waits for what
 * precedes it, and a refused or answered request starts nothing. It must not know rings, nor how requests travel.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import { OP_FLUSH_DISKCACHE, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { History, type ReadRecord, type WriteRecord } from "./history.ts";
import type { Run } from "./run.ts";
import type { SimulatedDisk } from "./simulated_disk.ts";
import type { ChannelObserver, OrphanedWrite, SteppedChannel, UnderWay } from "./stepped_channel.ts";

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
  /** Writes that were sent before that one and answered OKAY; each is told once. */
  takeAnsweredWrites(sequence: number): WriteRecord[];
  /** When the last write of this ring was carried out with success. */
  lastExecuted: number;
}

/** What the first words of a written sector say; see content.ts. */
const ID_WORD_OFFSET = 4;

/** See the file's first lines. */
export class DiskWatch implements ChannelObserver {
  readonly history: History;
  readonly channels: SteppedChannel[] = [];
  /** What processes that were killed had under way: the image is locked until it is over. */
  orphans: OrphanedWrite[] = [];
  /** A process has the image. */
  locked = false;
  /**
   * When the backend was told of a failed flush, whichever process it was; Infinity: not since the disk was attached.
   */
  latched = Infinity;
  /** A flush failed since the disk was attached, whether the backend knows or not. */
  flushFailed = false;
  /** When the flush was started that was the last to succeed. */
  flushStarted = 0;
  readonly #run: Run;
  /** When the disk was attached. What is still served from before that is of no account for its latch. */
  #attached = 0;
  /** Channels that were open when a flush failed: what they wrote may be lost. */
  readonly #unreliable = new WeakSet<SteppedChannel>();
  /** When the last discard that begins at a byte was carried out. */
  readonly #discarded = new Map<number, number>();
  /** When the last write of a channel was carried out. */
  readonly #lastExecuted = new WeakMap<SteppedChannel, number>();
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
    const { operation: kind, offsetBytes, started } = operation;
    if (this.orphans.length > 0) {
      this.#run.fail(`${this.disk.name}: I/O was started while writes of a process that was killed are under way`);
    }
    if (kind !== OPERATION.write && kind !== OPERATION.discard) return;
    const what = kind === OPERATION.write ? `write ${idOf(data)}` : "a discard";
    const matching = kind === OPERATION.write ? [this.#requests.get(idOf(data))] : this.#discardsOf(operation);
    if (matching.length > 1) return; // several discards of the same sectors: nobody can tell which one this is
    const [request] = matching;
    // Of a request that must be refused nothing is known here.
    const fault = request === undefined ? "which no request asks for" : this.#orderFault(request);
    if (fault !== undefined) this.#run.fail(`${this.disk.name}: ${what} at byte ${offsetBytes} was started, ${fault}`);
    request!.started = started;
    request!.underWay = true;
  }

  /** The requests that discard this and have not begun. */
  #discardsOf({ offsetBytes, lengthBytes }: UnderWay): SentRequest[] {
    return [...this.#requests.values()].filter(({ write, started }) =>
      write?.zeroes === true && started === 0 && write.first * SECTOR_BYTES === offsetBytes &&
      write.count * SECTOR_BYTES === lengthBytes
    );
  }

  /** Why the request must not begin to write now, or undefined. */
  #orderFault(request: SentRequest): string | undefined {
    const { ring, operation, sequence, published } = request;
    if (request.started > 0) return "for the second time";
    if (ring.isAnswered(request)) return "though its request is answered";
    for (const earlier of ring.unanswered) {
      if (earlier.sequence >= sequence) break;
      const barrier = earlier.operation === OP_WRITE_BARRIER && !earlier.refused;
      if (barrier && !ring.isAnswered(earlier)) return `before barrier ${earlier.id} was over`;
      if (operation === OP_WRITE_BARRIER && earlier.underWay) {
        return `which is a barrier's, while ${earlier.id} ahead of it was being written`;
      }
    }
    if (operation !== OP_WRITE_BARRIER && operation !== OP_FLUSH_DISKCACHE) return undefined;
    const since = operation === OP_WRITE_BARRIER ? ring.lastExecuted : published;
    return this.flushStarted > since || since === 0 ? undefined : "before what precedes it was flushed";
  }

  executed(operation: UnderWay, result: number, channel: SteppedChannel): void {
    if (operation.operation === OPERATION.flush) {
      if (result === 0) this.flushStarted = Math.max(this.flushStarted, operation.started);
      else this.#distrust(channel);
    }
    if (operation.operation !== OPERATION.write && operation.operation !== OPERATION.discard) return;
    if (operation.operation === OPERATION.discard && result === 0) {
      this.#discarded.set(operation.offsetBytes, this.#run.now);
    }
    for (const request of this.#requests.values()) {
      if (request.started !== operation.started) continue;
      request.underWay = false;
      if (result !== 0) continue;
      request.executed = request.ring.lastExecuted = this.#run.now;
      this.#lastExecuted.set(channel, this.#run.now);
    }
  }

  /** One of a channel from before the disk was attached anew says nothing of what follows. */
  #distrust({ opened }: SteppedChannel): void {
    for (const each of this.channels) this.#unreliable.add(each);
    if (opened >= this.#attached) this.flushFailed = true;
    else this.history.forgive();
  }

  toldFailure({ operation }: UnderWay, { opened }: SteppedChannel): void {
    if (operation !== OPERATION.flush || opened < this.#attached) return;
    this.latched = Math.min(this.latched, this.#run.tick());
  }

  closed(channel: SteppedChannel): void {
    this.channels.splice(this.channels.indexOf(channel), 1);
    if (this.flushFailed || this.#unreliable.has(channel) || this.disk.properties.readOnly) return;
    const safe = this.flushStarted > (this.#lastExecuted.get(channel) ?? -1);
    this.#run.require(safe, `a channel to ${this.disk.name} was closed before what was written was flushed`);
    this.history.flushed(this.flushStarted);
  }

  /** An answer OKAY was seen: what it promises must be true. */
  answeredOkay(request: SentRequest): void {
    const { operation, published, write, executed, ring, sequence } = request;
    const what = `${this.disk.name}: request ${request.id}`;
    if (operation >= OP_WRITE && published > this.latched) {
      this.#run.fail(`${what} writes or flushes and was answered OKAY, after a flush of this disk had failed`);
    }
    const done = write?.zeroes === true ? this.#discarded.get(write.first * SECTOR_BYTES) ?? 0 : executed;
    if (write !== undefined && done < published) this.#run.fail(`${what} was answered OKAY, but never written`);
    if (operation === OP_WRITE_BARRIER && write !== undefined) {
      this.#run.require(this.flushStarted > executed, `${what} is a barrier and was not flushed after it was written`);
      this.history.promise(write);
      for (const earlier of ring.takeAnsweredWrites(sequence)) this.history.promise(earlier);
    }
    if (operation !== OP_WRITE_BARRIER && operation !== OP_FLUSH_DISKCACHE) return;
    this.#run.require(this.flushStarted > published, `${what} is a flush and nothing was flushed since it was sent`);
    this.history.flushed(published);
  }

  /** The request has no part in anything any more. */
  forget(request: SentRequest): void {
    if (request.write !== undefined) this.#requests.delete(request.write.id);
  }

  /** The disk was attached anew, which is how an operator says that it is to be trusted again. */
  attachedAnew(): void {
    if (this.flushFailed) this.history.forgive();
    this.flushFailed = false;
    this.latched = Infinity;
    this.#attached = this.#run.tick();
  }

  /** The process is killed. */
  orphanChannels(): void {
    for (const channel of this.channels.splice(0)) this.orphans.push(...channel.orphan());
  }

  /** The kernel ends one of the writes of a process that is gone: all of it, or what came first, or nothing. */
  endOrphan(): void {
    const { decisions } = this.#run;
    const [orphan] = this.orphans.splice(decisions.below(this.orphans.length), 1);
    const { offsetBytes, data } = orphan!;
    const whole = data.length / SECTOR_BYTES;
    const sectors = decisions.chance(200) ? decisions.below(whole) : whole;
    this.#run.note("orphan", offsetBytes, sectors);
    if (sectors > 0) this.disk.write(offsetBytes, data.subarray(0, sectors * SECTOR_BYTES));
  }

  /** The process that served the disk is gone. What it was told of failed flushes, the next one knows. */
  processEnded(): void {
    if (this.flushFailed && this.latched === Infinity) this.#forgetUntold();
    this.locked = false;
    for (const request of this.#requests.values()) {
      if (request.ring.isAnswered(request)) continue;
      request.started = 0;
      request.executed = 0;
      request.underWay = false;
    }
  }

  /**
   * The kernel had an answer for the process, that a flush failed, and the process died before it looked: nobody will
   * ever hear of it. That is the one failure that no backend can know of.
   */
  #forgetUntold(): void {
    this.#run.faults.count("flush error untold");
    this.#run.note("a failed flush was never told");
    this.history.forgive();
    // Answered, perhaps, but not so that its guest has seen it.
    for (const { write } of this.#requests.values()) if (write !== undefined) write.forgiven = true;
    this.flushFailed = false;
  }
}

/** What the first words of a sector say. */
function idOf(data: Uint8Array): number {
  return new DataView(data.buffer, data.byteOffset, data.byteLength).getInt32(ID_WORD_OFFSET, true);
}
