/**
 * Watches one disk: what it may hold, the channels to it, and the requests that their operations belong to. Checks the
 * order in which operations start: a barrier waits for earlier requests and holds back later ones, and a refused or
 * answered request starts nothing. Checks that OKAY responses are true.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import { OP_FLUSH_DISKCACHE, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { History, type ReadRecord, type WriteRecord } from "./history.ts";
import type { Run } from "./run.ts";
import type { SimulatedDisk } from "./simulated_disk.ts";
import type { ChannelObserver, OrphanedWrite, SteppedChannel, UnderWay } from "./stepped_channel.ts";

/** A request that was sent, as far as the checks of the disk need it. */
export interface SentRequest {
  readonly operation: number;
  readonly id: number;
  readonly sequence: number;
  readonly published: number;
  readonly refused: boolean;
  readonly ring: RingOrder;
  readonly write: WriteRecord | undefined;
  readonly read: ReadRecord | undefined;
  /** When its write started on the disk, and when it was carried out with success; 0: not yet. */
  started: number;
  executed: number;
  /** Its write is in flight on the disk. */
  underWay: boolean;
}

/** The order of the requests of one ring. */
export interface RingOrder {
  /** Requests without a response, oldest first. */
  readonly unanswered: Iterable<SentRequest>;
  /** Its response is on the ring, whether the guest has taken it or not. */
  isAnswered(request: SentRequest): boolean;
  /** Writes that were sent before that one and answered OKAY; returns each of them once. */
  takeAnsweredWrites(sequence: number): WriteRecord[];
  /** When the ring's last write was carried out with success. */
  lastExecuted: number;
}

/** Offset of the write's id in a sector; see content.ts. */
const ID_WORD_OFFSET = 4;

/** Everything that is known of one disk. */
export class DiskWatch implements ChannelObserver {
  readonly history: History;
  readonly channels: SteppedChannel[] = [];
  /** Writes in flight of killed processes: the image is locked until they are over. */
  orphans: OrphanedWrite[] = [];
  /** A process holds the image's lock. */
  locked = false;
  /** When a process first learned of a failed flush; Infinity: not since the disk was attached. */
  latched = Infinity;
  /** A flush has failed since the disk was attached, whether the backend knows or not. */
  flushFailed = false;
  /** When the last successful flush started. */
  flushStarted = 0;
  /** Calls and operations until the disk hangs; 0: it hangs; Infinity: it does not. */
  #callsLeft = Infinity;
  readonly #run: Run;
  /** When the disk was attached. Channels from before that do not latch it. */
  #attached = 0;
  /** Channels that were open when a flush failed: their writes may be lost. */
  readonly #unreliable = new WeakSet<SteppedChannel>();
  /** When the last discard at an offset was carried out. */
  readonly #discarded = new Map<number, number>();
  /** When the last write of a channel was carried out. */
  readonly #lastExecuted = new WeakMap<SteppedChannel, number>();
  readonly #requests = new Map<number, SentRequest>();
  /** Rings that move to another reactor, by their number: one can begin to move again before its last move is noted. */
  readonly #moving = new Map<number, number>();
  readonly #rings = new WeakMap<SteppedChannel, number>();
  /** By ring: when the last write was carried out that the next channel of a ring that moves has to flush. */
  readonly #owed = new Map<number, number>();

  constructor(readonly disk: SimulatedDisk, run: Run) {
    this.#run = run;
    this.history = new History(disk.properties.sectors);
  }

  /** No call to the disk's storage returns, and no operation on it ends. */
  get hangs(): boolean {
    return this.#callsLeft === 0;
  }

  /** From now on so many calls and operations still begin; then the disk hangs. */
  hangAfter(calls: number): void {
    this.#callsLeft = calls;
    if (calls === 0) this.#hung();
  }

  /** What hangs goes on. */
  release(): void {
    if (this.#callsLeft === Infinity) return;
    this.#callsLeft = Infinity;
    this.#run.note(`${this.disk.name} goes on`);
  }

  /** A call to its storage, or an operation, begins. */
  called(): void {
    if (this.#callsLeft === 0 || this.#callsLeft === Infinity) return;
    if (--this.#callsLeft === 0) this.#hung();
  }

  #hung(): void {
    this.#run.faults.count("disk hung");
    this.#run.note(`${this.disk.name} hangs`);
  }

  /** A request is about to be sent. */
  sending(request: SentRequest): void {
    if (request.write !== undefined) this.#requests.set(request.write.id, request);
  }

  started(operation: UnderWay, data: Uint8Array): void {
    this.called();
    const { operation: kind, offsetBytes, started } = operation;
    if (this.orphans.length > 0) {
      this.#run.fail(`${this.disk.name}: I/O was started while writes of a process that was killed are in flight`);
    }
    if (kind !== OPERATION.write && kind !== OPERATION.discard) return;
    const what = kind === OPERATION.write ? `write ${idOf(data)}` : "a discard";
    const matching = kind === OPERATION.write ? [this.#requests.get(idOf(data))] : this.#discardsOf(operation);
    if (matching.length > 1) return; // several discards of the same sectors: it may be any of them
    const [request] = matching;
    // Requests that must be refused have no record here.
    const fault = request === undefined ? "which no request asks for" : this.#orderFault(request);
    if (fault !== undefined) this.#run.fail(`${this.disk.name}: ${what} at byte ${offsetBytes} was started, ${fault}`);
    request!.started = started;
    request!.underWay = true;
  }

  /** Discard requests of these sectors that have not started. */
  #discardsOf({ offsetBytes, lengthBytes }: UnderWay): SentRequest[] {
    return [...this.#requests.values()].filter(({ write, started }) =>
      write?.zeroes === true && started === 0 && write.first * SECTOR_BYTES === offsetBytes &&
      write.count * SECTOR_BYTES === lengthBytes
    );
  }

  /** Why the request must not start to write now, or undefined. */
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

  /** A flush failed. On a channel from before the disk was attached anew it does not latch. */
  #distrust({ opened }: SteppedChannel): void {
    for (const each of this.channels) this.#unreliable.add(each);
    this.#owed.clear();
    if (opened >= this.#attached) this.flushFailed = true;
    else this.history.forgive();
  }

  reapedFailure({ operation }: UnderWay, { opened }: SteppedChannel): void {
    if (operation !== OPERATION.flush || opened < this.#attached) return;
    this.latched = Math.min(this.latched, this.#run.tick());
  }

  /** A ring begins to move to another reactor. */
  moves(ring: number): void {
    this.#moving.set(ring, (this.#moving.get(ring) ?? 0) + 1);
  }

  /** It has moved, or stays. */
  moved(ring: number): void {
    this.#moving.set(ring, (this.#moving.get(ring) ?? 0) - 1);
  }

  /** A channel of that ring was opened. */
  opened(channel: SteppedChannel, ring: number): void {
    this.channels.push(channel);
    this.#rings.set(channel, ring);
    const owed = this.#owed.get(ring);
    this.#owed.delete(ring);
    if (owed !== undefined) this.#lastExecuted.set(channel, owed);
  }

  closed(channel: SteppedChannel): void {
    this.channels.splice(this.channels.indexOf(channel), 1);
    if (this.flushFailed || this.#unreliable.has(channel) || this.disk.properties.readOnly) return;
    const lastExecuted = this.#lastExecuted.get(channel) ?? -1;
    const ring = this.#rings.get(channel);
    if (ring !== undefined && (this.#moving.get(ring) ?? 0) > 0) return void this.#owed.set(ring, lastExecuted);
    const safe = this.flushStarted > lastExecuted;
    this.#run.require(safe, `a channel to ${this.disk.name} was closed before what was written was flushed`);
    this.history.flushed(this.flushStarted);
  }

  /** A response OKAY came: what it promises must be true. */
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

  /** The request has ended. */
  forget(request: SentRequest): void {
    if (request.write !== undefined) this.#requests.delete(request.write.id);
  }

  /** The disk was attached anew: by that an operator says that it can be trusted again. */
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

  /** The kernel ends a write of a killed process: completely, in part, or not at all. */
  endOrphan(): void {
    const { decisions } = this.#run;
    const [orphan] = this.orphans.splice(decisions.below(this.orphans.length), 1);
    const { offsetBytes, data } = orphan!;
    const whole = data.length / SECTOR_BYTES;
    const sectors = decisions.chance(200) ? decisions.below(whole) : whole;
    this.#run.note("orphan", offsetBytes, sectors);
    if (sectors > 0) this.disk.write(offsetBytes, data.subarray(0, sectors * SECTOR_BYTES));
  }

  /** The process that served the disk has ended. The next one inherits its latch. */
  processEnded(): void {
    this.#moving.clear();
    this.#owed.clear();
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
   * A flush failed, and the process was killed before it saw the result. The kernel reports it only once, so this is
   * the one failure that no backend can know of.
   */
  #forgetUntold(): void {
    this.#run.faults.count("flush error untold");
    this.#run.note("a failed flush was never told");
    this.history.forgive();
    // Also writes with a response that the guest has not seen.
    for (const { write } of this.#requests.values()) if (write !== undefined) write.forgiven = true;
    this.flushFailed = false;
  }
}

/** The id of the write, from the start of its first sector. */
function idOf(data: Uint8Array): number {
  return new DataView(data.buffer, data.byteOffset, data.byteLength).getInt32(ID_WORD_OFFSET, true);
}
