/**
 * The reactor's side of the pool: hands operations to the I/O Workers as jobs and gathers their results. All channels of
 * one disk in one reactor share a queue. It never waits.
 */

import { XenblkError } from "../../errors.ts";
import type { ChannelOptions, IoChannel } from "../disk.ts";
import { OPERATION, type Operation } from "../engine/executor.ts";
import { OperationTable } from "../engine/operations.ts";
import { joinChannels } from "../open_channels.ts";
import type { PoolAttachment } from "./attachment.ts";
import { DiskLoad } from "./disk_load.ts";
import { Doorbell } from "./doorbell.ts";
import { JOB_SLOTS, JOB_VECTORS, JobQueue, QUEUE_CHANNELS } from "./job_queue.ts";

/** The queues that this thread has channels to, by their id. */
const lanes = new Map<string, JobLane>();

/** See DiskModule. Throws if the disk is closed, or the reactor has too many channels to it. */
export function openChannel(attachment: PoolAttachment, options: ChannelOptions): IoChannel {
  return new PoolChannel(lanes.get(attachment.id) ?? new JobLane(attachment), options);
}

/** This thread's end of one queue: its free slots, and the operation that each used slot carries. */
class JobLane {
  readonly jobs: JobQueue;
  readonly #attachment: PoolAttachment;
  readonly #doorbell: Doorbell;
  readonly #load: DiskLoad;
  readonly #free = Int32Array.from({ length: JOB_SLOTS }, (_, slot) => slot);
  #freeCount = JOB_SLOTS;
  readonly #tags = new Uint32Array(JOB_SLOTS);
  readonly #channels = new Array<PoolChannel | undefined>(QUEUE_CHANNELS).fill(undefined);
  readonly #counted = new Map<number, Disposable>();
  /** The channel that is served first by the next {@linkcode pump}, so that none takes all slots. */
  #turn = 0;

  constructor(attachment: PoolAttachment) {
    this.#attachment = attachment;
    this.jobs = new JobQueue(attachment.queue);
    this.#doorbell = new Doorbell(attachment.doorbell);
    this.#load = new DiskLoad(attachment.load);
  }

  /** The channel's place in the queue. */
  join(channel: PoolChannel, options: ChannelOptions): number {
    const place = this.#channels.indexOf(undefined);
    if (place < 0) {
      throw new XenblkError(`Cannot open I/O channel: the disk has ${QUEUE_CHANNELS} channels on this reactor already`);
    }
    this.#counted.set(place, joinChannels(this.#attachment.channels, this.#attachment.name));
    this.#channels[place] = channel;
    lanes.set(this.#attachment.id, this);
    this.jobs.buffersAddress[place] = options.buffers?.address ?? 0;
    this.jobs.buffersLength[place] = options.buffers?.view.byteLength ?? 0;
    this.jobs.generation[place]!++;
    return place;
  }

  leave(place: number): void {
    this.#channels[place] = undefined;
    this.#counted.get(place)![Symbol.dispose]();
    this.#counted.delete(place);
    if (this.#counted.size === 0) lanes.delete(this.#attachment.id);
  }

  /** Turns waiting operations into jobs as far as there are slots, fairly among the channels. */
  pump(): void {
    let submitted = false;
    for (let left = QUEUE_CHANNELS; left > 0 && this.#freeCount > 0; left--) {
      const place = this.#turn;
      this.#turn = (place + 1) % QUEUE_CHANNELS;
      const channel = this.#channels[place];
      while (this.#freeCount > 0 && channel !== undefined && channel.waiting) {
        const slot = this.#free[--this.#freeCount]!;
        this.jobs.channel[slot] = place;
        this.#tags[slot] = channel.fill(slot);
        this.jobs.submit(slot);
        submitted = true;
      }
    }
    if (submitted) this.#ring();
  }

  /** A disk whose calls return at once is best served by the one I/O Worker that is busy with it already. */
  #ring(): void {
    this.#doorbell.ring();
    if (!this.#load.busy || this.#load.slow) this.#doorbell.rouse();
  }

  /** Gives every result that is there to its channel, and the slots to operations that wait for one. */
  collect(): void {
    let collected = false;
    for (let slot = this.jobs.reap(); slot >= 0; slot = this.jobs.reap()) {
      this.#channels[this.jobs.channel[slot]!]!.partDone(this.#tags[slot]!, this.jobs.resultOf(slot));
      this.#free[this.#freeCount++] = slot;
      collected = true;
    }
    if (collected) this.pump();
  }
}

class PoolChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #lane: JobLane;
  readonly #place: number;
  readonly #options: ChannelOptions;
  readonly #table: OperationTable;
  /** By tag: jobs under way, and the first error. */
  readonly #parts: Uint32Array;
  readonly #status: Int32Array;
  /** Operations that may be started: those queued before the last submit(). */
  #submitted = 0;

  constructor(lane: JobLane, options: ChannelOptions) {
    this.#lane = lane;
    this.#options = options;
    this.#table = new OperationTable(options.depth);
    this.tags = this.#table.tags;
    this.results = this.#table.results;
    this.#parts = new Uint32Array(options.depth);
    this.#status = new Int32Array(options.depth);
    this.#place = lane.join(this, options);
  }

  get inFlight(): number {
    return this.#table.inFlight;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#queue(tag, OPERATION.read, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#queue(tag, OPERATION.write, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.#queue(tag, OPERATION.flush, 0, 0, 0);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#table.addDiscard(tag, offsetBytes, lengthBytes, secure);
    this.#parts[tag] = 0;
    this.#status[tag] = 0;
  }

  submit(): void {
    this.#submitted = this.#table.waitingCount;
    if (this.#submitted > 0) this.#lane.pump();
  }

  reap(): number {
    if (this.#table.inFlight === 0) return 0;
    this.#lane.collect();
    return this.#table.reap();
  }

  /** Throws if operations are in flight. */
  [Symbol.dispose](): void {
    this.#table.checkIdle();
    this.#lane.leave(this.#place);
  }

  /** For the lane: whether {@linkcode fill} has something to put into a slot. */
  get waiting(): boolean {
    return this.#submitted > 0;
  }

  /** For the lane: puts the next waiting operation, or as much of it as fits, into a slot; returns its tag. */
  fill(slot: number): number {
    const table = this.#table;
    const tag = table.next;
    const { jobs } = this.#lane;
    const count = Math.min(table.count[tag]!, JOB_VECTORS);
    const { addresses, lengths } = this.#options.vectors;
    let first = table.first[tag]!;
    let at = slot * JOB_VECTORS;
    let lengthBytes = 0;
    for (const end = first + count; first < end; first++, at++) {
      jobs.vectors.addresses[at] = addresses[first]!;
      jobs.vectors.lengths[at] = lengths[first]!;
      lengthBytes += lengths[first]!;
    }
    jobs.operation[slot] = table.operation[tag]!;
    jobs.offsetBytes[slot] = table.offsetBytes[tag]!;
    jobs.lengthBytes[slot] = table.lengthBytes[tag]!;
    jobs.secure[slot] = table.secure[tag]!;
    jobs.vectorCount[slot] = count;
    table.first[tag] = first;
    table.offsetBytes[tag]! += lengthBytes;
    table.count[tag]! -= count;
    this.#parts[tag]!++;
    if (table.count[tag] === 0) {
      table.shift();
      this.#submitted--;
    }
    return tag;
  }

  /** For the lane: a job of this channel is done. */
  partDone(tag: number, result: number): void {
    if (this.#status[tag] === 0) this.#status[tag] = result;
    this.#parts[tag]!--;
    if (this.#parts[tag] === 0 && this.#table.count[tag] === 0) this.#table.complete(tag, this.#status[tag]!);
  }

  #queue(tag: number, operation: Operation, offsetBytes: number, first: number, count: number): void {
    this.#table.add(tag, operation, offsetBytes, first, count);
    this.#parts[tag] = 0;
    this.#status[tag] = 0;
  }
}
