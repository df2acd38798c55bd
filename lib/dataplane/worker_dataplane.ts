/**
 * The data plane over Workers, as the control plane uses it: starts reactors when they are needed, spreads queues over
 * them, and moves queues from reactors that are full to those that are not. Rings and data stay in the Workers.
 */

import { unlessAborted } from "../abort.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { WakeToken } from "../hypervisor.ts";
import type { Disk } from "../storage/disk.ts";
import { endsWithin } from "../within.ts";
import { memoryRule } from "./grants/memory_rule.ts";
import { type MoveResult, type Place, PlacedQueue } from "./placed_queue.ts";
import { isFull, Placement, type ReactorView, workOf } from "./placement.ts";
import { CLOSED, ReactorThread, type ReactorThreadOptions } from "./reactor_thread.ts";
import type { DataPlane, QueueHandle, QueueSpec } from "./types.ts";

/** What a data plane is started with. */
export interface WorkerDataPlaneOptions extends ReactorThreadOptions {
  /** Most reactors, that is Workers, for disks that wait for the same storage or for none; they start as queues come, or the first one with {@linkcode WorkerDataPlane.start}. */
  readonly workers: number;
  /** Called before a reactor opens its first queue: it registers the reactor with engines that have their own threads. */
  readonly addLane: (lane: number, token: WakeToken) => Promise<void>;
}

/** A reactor in the list, with the promise that resolves when it can be used. */
interface Lane {
  /** Never used again for another reactor. */
  readonly number: number;
  readonly reactor: ReactorThread;
  readonly usable: Promise<void>;
  /** Each queue that is served here or is being opened. One that moves is in the lists of both reactors. */
  readonly rings: LaneRing[];
}

/** A queue as its lane knows it. */
interface LaneRing {
  readonly disk: Disk;
  /** See {@linkcode Disk.waitsFor}. All queues of a lane have the same, as far as there can be lanes enough. */
  readonly storage: string | undefined;
  /** Absent: it is not open yet. */
  queue?: PlacedQueue;
  /** What it had cost at the last look. */
  work: number;
}

/** Reactors beyond the given number, for disks whose calls may wait: each Worker costs 8 MiB. */
const MOST_SEPARATE_LANES = 16;

/** The reactors of a process, each in a Worker of its own. */
export class WorkerDataPlane implements DataPlane {
  readonly #options: WorkerDataPlaneOptions;
  /** Those that serve, or are starting. */
  #lanes: Lane[] = [];
  /** Those that died. I/O Workers may still wake them, so their tokens stay open. */
  readonly #dead: Lane[] = [];
  #lastLane = -1;
  #closed = false;
  readonly #placement = new Placement();
  /** The move that is under way: there is one at a time. */
  #moving: Promise<MoveResult> | undefined;

  /** Starts nothing yet. */
  constructor(options: WorkerDataPlaneOptions) {
    this.#options = options;
  }

  /**
   * Starts the first reactor, if none is, so that the first queue need not wait for it: that takes seconds on a slow
   * machine. Rejects with {@linkcode XenblkError} if it cannot serve.
   */
  async start(): Promise<void> {
    await (this.#lanes[0] ?? this.#startLane()).usable;
  }

  now(): number {
    return this.#options.platform.now();
  }

  async openQueue(spec: QueueSpec, signal?: AbortSignal): Promise<QueueHandle> {
    const { disk } = spec;
    const storage = disk.waitsFor?.(memoryRule(spec.grants, spec.directIoSafe ?? false));
    const ring: LaneRing = { disk, storage, work: 0 };
    const { lane, place } = await this.#enterLane(ring, signal);
    try {
      const attachment = await unlessAborted(lane.reactor.attachmentTo(disk), signal);
      const queue = new PlacedQueue(spec, place, attachment, () => this.now());
      await queue.open(signal);
      ring.work = workOf(queue.stats);
      return ring.queue = queue;
    } catch (error) {
      place.leave();
      throw error;
    }
  }

  /**
   * Has that reactor serve the queue from now on, if it can. The guest sees at most a pause. Resolves once it is done, or
   * with the reason why the queue stays where it is.
   */
  async move(queue: QueueHandle, to: number): Promise<MoveResult> {
    await this.#moving;
    const lane = this.#lanes.find(({ number }) => number === to);
    const ring = this.#lanes.flatMap(({ rings }) => rings).find((ring) => ring.queue === queue);
    if (this.#closed || this.#moving !== undefined || lane === undefined || ring?.queue === undefined) {
      return { moved: false, reason: "there is no such queue or reactor" };
    }
    if (!this.#canMove(ring, lane)) return { moved: false, reason: "its reactor and the other one are not alike" };
    const moving = ring.queue.move(enter(lane, ring)).finally(() => this.#moving = undefined);
    return await (this.#moving = moving);
  }

  /**
   * Looks how busy the reactors are, and moves at most one queue from a full one to one with room. To be called once a
   * second. Resolves with the queue's label, its reactors and what came of it, if one was to move.
   */
  async balance(): Promise<
    { readonly label: string; readonly from: number; readonly to: number } & MoveResult | undefined
  > {
    if (this.#closed || this.#moving !== undefined || this.#options.workers < 2 || this.#lanes.length < 2) {
      return undefined;
    }
    const nowMs = this.now();
    const choice = this.#placement.look(this.#lanes.map((lane) => this.#viewOf(lane, nowMs)));
    if (choice === undefined) return undefined;
    const { queue } = this.#lanes.flatMap(({ rings }) => rings).find(({ queue }) => queue?.id === choice.id)!;
    const { label, reactor: from } = queue!;
    return { label, from, to: choice.to, ...await this.move(queue!, choice.to) };
  }

  /**
   * Asks each reactor for a sign of life. Returns for how long, in milliseconds, the most silent one has left an earlier
   * question unanswered; 0 if none has, or a disk holds it up in the kernel.
   */
  silentMs(): number {
    return Math.max(0, ...this.#lanes.map(({ reactor }) => reactor.silentMs()));
  }

  /** Closes all queues and ends the Workers; one that has not started yet serves nothing and is not waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.disposeWithin(Infinity);
  }

  /**
   * The same, but does not wait longer than so for disks that do not complete what is in flight. Returns the labels of
   * the rings that did not close. The threads that serve these rings run on, until the rings close or the process ends.
   */
  async disposeWithin(timeoutMs: number): Promise<string[]> {
    this.#closed = true;
    if (this.#moving !== undefined) await endsWithin(this.#moving.then(() => {}), timeoutMs);
    const lanes = [...this.#lanes.splice(0), ...this.#dead.splice(0)];
    const open = await Promise.all(lanes.map(({ reactor }) => reactor.end(timeoutMs)));
    return open.flat();
  }

  /** A reactor that can be used, with the ring counted among its own. If one cannot be started, the others do. */
  async #enterLane(ring: LaneRing, signal?: AbortSignal): Promise<{ readonly lane: Lane; readonly place: Place }> {
    for (let mayStart = true;; mayStart = false) {
      const lane = this.#choose(ring, mayStart);
      // At once, so that queues that are opened at the same time are spread.
      const place = enter(lane, ring);
      try {
        await unlessAborted(lane.usable, signal);
        return { lane, place };
      } catch (error) {
        place.leave();
        if (signal?.aborted || this.#closed || this.#lanes.length === 0 || !mayStart) throw error;
        this.#options.warn(`a thread for rings could not be started, another one serves them: ${errorText(error)}`);
      }
    }
  }

  /**
   * Of the reactors whose queues wait for the same storage: the one with the fewest queues of the disk, and of those the
   * one with the fewest queues; a new one as long as all have some and there may be more.
   */
  #choose({ disk, storage }: LaneRing, mayStart: boolean): Lane {
    const { workers } = this.#options;
    const alike = this.#lanes.filter((lane) => allWaitFor(lane, storage));
    const more = mayStart && alike.length < workers && this.#lanes.length < workers + MOST_SEPARATE_LANES;
    if (this.#lanes.length === 0 || (more && alike.every(({ rings }) => rings.length > 0))) return this.#startLane();
    const lanes = alike.length > 0 ? alike : this.#lanes;
    const ofDisk = lanes.map(({ rings }) => rings.filter((ring) => ring.disk === disk).length);
    const fewest = Math.min(...ofDisk);
    const loads = lanes.map(({ rings }, lane) => ofDisk[lane] === fewest ? rings.length : Infinity);
    return lanes[loads.indexOf(Math.min(...loads))]!;
  }

  #startLane(): Lane {
    if (this.#closed) throw new XenblkError(CLOSED);
    const { addLane } = this.#options;
    const number = ++this.#lastLane;
    const reactor = new ReactorThread(number, this.#options, () => {
      this.#remove(lane);
      this.#dead.push(lane);
    });
    const usable = Promise.all([reactor.ready, addLane(number, reactor.token)]).then(() => {}, async (error) => {
      // Whatever was missing may be there next time.
      this.#remove(lane);
      await reactor.exit();
      throw error;
    });
    usable.catch(() => {}); // openQueue reports it
    const lane: Lane = { number, reactor, usable, rings: [] };
    this.#lanes.push(lane);
    return lane;
  }

  #remove(lane: Lane): void {
    this.#lanes = this.#lanes.filter((each) => each !== lane);
  }

  /** Between reactors without queues in common storage, a queue would make those of a lane wait for its own. */
  #canMove({ queue, storage }: LaneRing, to: Lane): boolean {
    const from = this.#lanes.find(({ number }) => number === queue?.reactor);
    if (queue === undefined || from === undefined || from === to || !to.reactor.serves) return false;
    if (!allWaitFor(to, storage)) return false;
    return from.reactor.hasUring === to.reactor.hasUring && queue.canMoveTo(to.number);
  }

  #viewOf({ number, reactor, rings }: Lane, nowMs: number): ReactorView {
    const load = reactor.load(nowMs);
    // A thousand idle disks cost nothing each second.
    const queues = (isFull(load) ? rings : []).flatMap((ring) => {
      const { queue } = ring;
      if (queue === undefined) return [];
      const before = ring.work;
      ring.work = workOf(queue.stats);
      const canMoveTo = (lane: number): boolean =>
        this.#lanes.some((to) => to.number === lane && this.#canMove(ring, to));
      return [{ id: queue.id, work: ring.work - before, canMoveTo }];
    });
    return { lane: number, load, queues };
  }
}

/** The ring counts among those of the lane until it leaves. */
function enter({ reactor, rings }: Lane, ring: LaneRing): Place {
  rings.push(ring);
  let left = false;
  const leave = (): void => {
    if (!left) rings.splice(rings.indexOf(ring), 1);
    left = true;
  };
  return { site: reactor, leave };
}

function allWaitFor({ rings }: Lane, storage: string | undefined): boolean {
  return rings.every((ring) => ring.storage === storage);
}
