/**
 * A reactor: one thread's share of the data plane. It hosts any number of queues of any guests, visits those that have
 * work, one or two bounded passes each, in the order that fairness.ts gives, and sleeps in one place. It is driven from
 * outside: turn, sleep.
 */

import type { Parker, Platform } from "../hypervisor.ts";
import { errorText } from "../errors.ts";
import { LogLimiter, warningsTo } from "../rate_limit.ts";
import type { BufferOpener, ChannelOpener } from "../storage/disk.ts";
import { openConnection, type OpenRequest } from "./connection.ts";
import { Fairness, FAULT_COST, QueueShare, Weight } from "./fairness.ts";
import type { Guest } from "./guest.ts";
import { Guests } from "./guests.ts";
import { PollTime } from "./poll_time.ts";
import { isActive, isOver, isReady, Served, sooner } from "./served.ts";
import { ServedList } from "./served_list.ts";

/** Turns between two checks of idle queues' events and of due times, while there is always work. */
const TURNS_PER_EVENT_CHECK = 4;
/** Kept mappings and buffers are released after being unused for one to two of these intervals. */
const IDLE_ROUND_MS = 30_000;
/** Turns between two readings of the clock for that, in a reactor that never sleeps. */
const TURNS_PER_CLOCK_CHECK = 1024;
/** Rings that a polling reactor checks between two readings of the clock. */
const LOOKS_PER_CLOCK_CHECK = 8;
/** Below this depth a second pass is made at once; above it more work arrives while we submit. */
const SEVERAL_IN_FLIGHT = 4;
/** A visit that costs no more is light, if the queue then has few requests in flight and on the ring: three small ones. */
const LIGHT_COST = 128 * 1024;
/** Turns for which a light queue's ring is looked at, without an event, after its last request. */
const LOOKS_AT_LIGHT = 64;
/** A polled ring is looked at until so many visits to others had something to do after its last one that had. */
const VISITS_WHILE_POLLED = 512;
/** A turn that has cost so much ends, so that the light queues are visited again: with such queues, and without. */
const COST_PER_TURN = 64 * 1024;
const COST_PER_LONG_TURN = 512 * 1024;
/** A pass takes so many requests, likewise; a queue that is alone takes all. */
const REQUESTS_PER_PASS = 16;
const REQUESTS_PER_LONG_PASS = 64;
const MOST_REQUESTS = 512;

/** How a reactor reaches disks, and how it waits. */
export interface ReactorOptions {
  /** Opens the channels of its queues. */
  readonly openChannel: ChannelOpener;
  /** Opens the memory that their buffers must lie in. Absent: no disk requires any. */
  readonly openMemory?: BufferOpener;
  /**
   * Longest time that an idle reactor looks for requests before it sleeps. It does so only while the guests' requests
   * come about as fast, so that an idle disk costs nothing. Absent: it sleeps at once.
   */
  readonly mostPollMs?: number;
}

/** What a reactor reports to whoever runs it. */
export interface ReactorHost {
  /** The queue is drained and everything it had is released. */
  closed(id: number): void;
  /** The queue was asked to leave: nothing is in flight, and everything it had is released. Absent: none is asked to. */
  released?(id: number): void;
  /** The frontend broke its ring; the queue answers nothing more and waits to be closed. */
  stopped(id: number, reason: string): void;
  /** A flush of the queue's device has failed. Absent: nobody needs to know before the queue is closed. */
  latched?(id: number): void;
  warn(message: string): void;
  /** For lines that only help to find a fault. */
  debug(message: string): void;
}

/** One thread's queues, and how they are served in turns. */
export class Reactor implements Disposable {
  readonly #platform: Platform;
  readonly #parker: Parker;
  readonly #host: ReactorHost;
  readonly #open: ReactorOptions;
  readonly #poll: PollTime;
  readonly #limiter: LogLimiter;
  readonly #guests: Guests;
  readonly #rings = new ServedList();
  readonly #served = this.#rings.all;
  #turnsSinceEvents = 0;
  /** Events of a guest were left for the next turn: its event queue must be seen empty before the reactor sleeps. */
  #eventsLeft = false;
  #notedUnrestricted = false;
  readonly #fairness = new Fairness();
  /** Counts the rounds of visits. */
  #round = 0;
  /** The queue that the next round begins with, apart from light ones. */
  #next = 0;
  #turns = 0;
  /** See {@linkcode waited}; since the last visit. */
  #hasWaited = false;
  /** Light queues had requests a short time ago: turns and passes are short. */
  #hasLight = false;
  /** Requests in flight in the queues that the last round visited. */
  #inFlight = 0;
  /** Counts the visits that cost something, beside other queues. */
  #charged = 0;
  /** When the next round of releasing idle mappings is due; Infinity: no queue keeps any. */
  #idleRoundMs = Infinity;
  /** The queue that the current round has come to. */
  #idleRoundAt = 0;

  constructor(platform: Platform, parker: Parker, host: ReactorHost, options: ReactorOptions) {
    this.#platform = platform;
    this.#parker = parker;
    this.#host = host;
    this.#guests = new Guests(platform, parker);
    this.#open = options;
    this.#poll = new PollTime(options.mostPollMs ?? 0);
    this.#limiter = new LogLimiter(warningsTo(host.warn), () => platform.now());
  }

  /** Queues that are served or being drained. */
  get queues(): number {
    return this.#served.length;
  }

  /** Serves a ring from now on; its first pass does not wait for an event. Throws if it cannot be opened. */
  open(id: number, request: OpenRequest): void {
    const guest = this.#guests.open(request.guest);
    const log = this.#limiter.forGuest(request.guest);
    const faults = { count: 0 };
    const complain = (line: string): void => {
      faults.count++;
      log.warning(`${request.label}: ${line}`);
    };
    try {
      const table = guest.table();
      const { grants } = table;
      const handles = { grants, events: guest.events };
      const { openChannel, openMemory } = this.#open;
      const connection = openConnection(request, this.#platform, handles, openChannel, complain, openMemory);
      table.rings++;
      const share = new QueueShare(guest.share, request.weight ?? new Weight().memory, request.busyQueues ?? 1);
      const served = new Served({ id, connection, guest, table, faults, share }, this.#rings.active, this.#rings.timed);
      served.chargedAt = this.#charged;
      if (request.held === true) connection.queue.pause();
      guest.byPort.set(connection.port, served);
      this.#noteUnrestricted(guest);
      this.#rings.add(served);
    } finally {
      this.#releaseGuest(guest);
    }
  }

  /** The disk of a queue has become larger. */
  grow(id: number, sectors: number): void {
    this.#rings.find(id)?.connection.queue.grow(sectors);
  }

  /** Drains a queue; {@linkcode ReactorHost.closed} reports its end. */
  close(id: number): void {
    const served = this.#rings.find(id);
    if (served === undefined) return this.#host.closed(id);
    served.closing = true;
    served.wake();
    served.connection.limiter.hurries = true;
    served.connection.queue.drain();
  }

  /**
   * Serves a queue no more, once nothing is in flight: another reactor, or another disk, goes on with its ring. What was
   * answered is flushed before if `flush`. {@linkcode ReactorHost.released} reports the end. False: it is being closed, or
   * its ring is broken.
   */
  release(id: number, flush = false): boolean {
    const served = this.#rings.find(id);
    if (served === undefined || served.closing || served.connection.queue.state !== "serving") return false;
    served.leaving = true;
    served.wake();
    served.connection.limiter.hurries = true;
    served.connection.queue.pause(flush);
    return true;
  }

  /** Goes on with a queue that was to leave, or begins with one that was opened `held`. False: it has left. */
  keep(id: number): boolean {
    const served = this.#rings.find(id);
    if (served === undefined) return false;
    served.leaving = false;
    served.wake();
    served.connection.limiter.hurries = false;
    served.connection.queue.resume();
    return true;
  }

  /** Something else than turns has taken time. */
  waited(): void {
    this.#hasWaited = true;
  }

  /** One visit to every queue that has work. True: there may be more at once; false: the reactor may sleep. */
  turn(): boolean {
    if (this.#turnsSinceEvents++ % TURNS_PER_EVENT_CHECK === 0) {
      this.#eventsLeft = this.#guests.takeEvents(this.#failed);
      this.#rings.makeDueReady(this.#platform);
    }
    if (++this.#turns % TURNS_PER_CLOCK_CHECK === 0) this.#releaseIdle();
    return this.#visitAll() || this.#eventsLeft;
  }

  /**
   * Visits queues that are due, beginning where the last turn ended. It ends early once that has cost so much that other
   * guests have waited long enough for the queues with little to do, and for their events.
   */
  #visitAll(): boolean {
    this.#inFlight = 0;
    const busy = this.#served.length === 1 ? this.#visitOnly(this.#served[0]!) : this.#visitInTurn();
    if (busy || this.#eventsLeft) this.#parker.submit?.();
    return busy;
  }

  /** There is nobody to be fair to. */
  #visitOnly(served: Served): boolean {
    const { queue } = served.connection;
    const busy = isReady(served) && this.#visit(served, MOST_REQUESTS);
    this.#inFlight = queue.inFlight;
    if (isOver(served)) this.#finish(0);
    return busy;
  }

  #visitInTurn(): boolean {
    const fairness = this.#fairness;
    this.#round = (this.#round + 1) | 0;
    fairness.beginLook();
    let busy = this.#rings.hasHeavy && this.#visitLight();
    const most = this.#hasLight ? REQUESTS_PER_PASS : REQUESTS_PER_LONG_PASS;
    const mostCost = this.#hasLight ? COST_PER_TURN : COST_PER_LONG_TURN;
    let cost = 0;
    for (let left = this.#skipIdle(this.#served.length); left > 0; left = this.#skipIdle(left - 1)) {
      const served = this.#served[this.#next]!;
      const { queue } = served.connection;
      const isDone = served.round === this.#round || !isReady(served);
      if (!isDone && this.#mustWait(served)) fairness.waits(served.share);
      else if (!isDone) {
        if (this.#visit(served, most)) busy = true;
        cost += served.cost;
      }
      this.#inFlight += queue.inFlight;
      fairness.count(served.share, queue.inFlight > 0);
      if (isOver(served)) this.#finish(this.#next);
      else {
        if (!isActive(served)) served.rest();
        this.#next++;
      }
      if (cost < mostCost || left === 1) continue;
      if (this.#next >= this.#served.length) this.#endRound();
      busy = true;
      break;
    }
    if (cost >= COST_PER_TURN) this.#turnsSinceEvents = 0;
    return fairness.endLook() || busy;
  }

  /** Goes on to the next queue that is looked at, of the `left` ones that come next. How many are left then; 0: none is. */
  #skipIdle(left: number): number {
    while (left > 0) {
      if (this.#next >= this.#served.length) this.#endRound();
      const next = this.#rings.active.from(this.#next);
      const skipped = Math.min(next - this.#next, left);
      this.#next += skipped;
      left -= skipped;
      if (this.#next === next && next < this.#served.length) break;
    }
    return left;
  }

  #endRound(): void {
    this.#next = 0;
    this.#fairness.endRound();
  }

  /** Others come first. A queue that has nothing to do is visited, which costs nothing: then it may sleep. */
  #mustWait({ share, closing, leaving, connection: { queue } }: Served): boolean {
    return !closing && !leaving && !this.#fairness.isDue(share) && (queue.inFlight > 0 || queue.hasRequest);
  }

  /**
   * Visits the queues with little to do, and starts their I/O. What is done at once is answered at once: it does not wait
   * for what the other queues start.
   */
  #visitLight(): boolean {
    let busy = false;
    this.#hasLight = false;
    for (let pass = 0; pass < 2; pass++) {
      let started = false;
      for (let i = this.#rings.lightFrom(0); i < this.#served.length; i = this.#rings.lightFrom(i + 1)) {
        const served = this.#served[i]!;
        const { queue } = served.connection;
        if (served.isHeavy || (pass === 0 ? !isReady(served) && !this.#looksAt(served) : queue.inFlight === 0)) {
          continue;
        }
        this.#hasLight = true;
        if (this.#mustWait(served)) continue;
        served.round = this.#round;
        if (this.#visit(served, REQUESTS_PER_PASS)) busy = true;
        if (queue.inFlight > 0) started = true;
      }
      if (!started || pass > 0) break;
      this.#parker.submit?.();
    }
    return busy;
  }

  /** True: there is a request on the ring of a queue that has had some a short time ago. */
  #looksAt(served: Served): boolean {
    if (served.looks === 0) return false;
    this.#hasLight = true;
    this.#rings.setLooks(served, served.looks - 1);
    if (!served.connection.queue.hasRequest) return false;
    served.wake();
    return true;
  }

  /**
   * Sleeps until an event, a completion, a wake, the time at which a queue is due, or the timeout (-1: none). The two
   * sleeps after the last use of kept mappings end early, to release them; from then on nothing disturbs an idle reactor.
   */
  sleep(timeoutMs: number): void {
    const dueMs = this.#rings.makeDueReady(this.#platform);
    const idleMs = sooner(this.#releaseIdle(), dueMs);
    this.#turnsSinceEvents = 0;
    if (idleMs === 0) return;
    const idle = this.#poll.mostMs > 0 && this.#inFlight === 0;
    const beganMs = idle ? this.#platform.now() : 0;
    if (this.#poll.nowMs > 0 && ((idle && this.#pollRings(beganMs)) || this.#restAll())) return this.#poll.found();
    this.waited();
    this.#parker.park(sooner(timeoutMs, idleMs));
    if (idle) this.#poll.idled(this.#platform.now() - beganMs);
  }

  /** Looks for requests for a while. Not called while I/O is in flight: that takes longer, and its end wakes us. */
  #pollRings(beganMs: number): boolean {
    const endMs = beganMs + this.#poll.nowMs;
    do {
      // Looking at the clock costs more than looking at a ring.
      for (let looks = 0; looks <= LOOKS_PER_CLOCK_CHECK; looks += 1 + this.#served.length) {
        this.waited();
        if (this.#visitAll()) return true;
      }
    } while (this.#platform.now() < endMs);
    return false;
  }

  /** Asks the frontends that were polled to notify again. True: one of them has already sent a request. */
  #restAll(): boolean {
    let more = false;
    const { active } = this.#rings;
    for (let i = active.from(0); i < this.#served.length; i = active.from(i + 1)) {
      const served = this.#served[i]!;
      if (!served.hasWork) continue;
      const { queue } = served.connection;
      served.hasWork = queue.rest();
      if (served.hasWork) more = true;
      else served.hasWork = queue.isEnding;
    }
    return more;
  }

  [Symbol.dispose](): void {
    while (this.#served.length > 0) this.#remove(this.#served.length - 1);
  }

  /** True: there may be more to do at once. */
  #visit(served: Served, most: number): boolean {
    const { queue, limiter } = served.connection;
    if (limiter.isStale) this.#limit(served);
    const faults = served.faults.count;
    const alone = this.#served.length === 1;
    const polled = this.#poll.nowMs > 0 && (alone || ((this.#charged - served.chargedAt) >>> 0) < VISITS_WHILE_POLLED);
    if (!alone || this.#hasWaited) queue.interrupted();
    this.#hasWaited = false;
    let more = queue.step(most);
    let { cost } = queue;
    // With little in flight another pass mostly finds nothing; then parking submits, with the same call.
    const faulty = served.faults.count !== faults;
    const short = alone || cost <= LIGHT_COST;
    if (more && !faulty && short && queue.inFlight < SEVERAL_IN_FLIGHT) {
      more = queue.step(most);
      cost += queue.cost;
    }
    queue.settle();
    more ||= !polled && queue.rest();
    if (served.faults.count !== faults) {
      this.#noteLatch(served);
      cost += (served.faults.count - faults) * FAULT_COST;
    }
    served.cost = cost;
    if (cost > 0 && !alone) {
      served.isHeavy = cost > LIGHT_COST || queue.unanswered >= SEVERAL_IN_FLIGHT;
      this.#rings.setLooks(served, LOOKS_AT_LIGHT);
      served.chargedAt = this.#charged = (this.#charged + 1) | 0;
      this.#fairness.charge(served.share, cost);
    }
    if (this.#idleRoundMs === Infinity && queue.keepsMemory) this.#idleRoundMs = this.#platform.now() + IDLE_ROUND_MS;
    if (queue.broken !== undefined && !served.reportedBroken) {
      served.reportedBroken = true;
      this.#host.stopped(served.id, queue.broken);
    }
    // A drain ends with a flush that does not count as a request in flight: look until it is over.
    served.hasWork = more || polled || queue.isEnding;
    return more;
  }

  /** The disk's limits have changed. */
  #limit(served: Served): void {
    const { queue, limiter } = served.connection;
    limiter.adapt();
    queue.way = limiter;
    this.#rings.setTimed(served);
  }

  #noteLatch(served: Served): void {
    if (served.reportedLatched || !served.connection.latch.tripped) return;
    served.reportedLatched = true;
    this.#host.latched?.(served.id);
  }

  /** Continues a round that is due. Milliseconds until there is more to do; -1: nothing to wait for. */
  #releaseIdle(): number {
    if (this.#idleRoundMs === Infinity) return -1;
    const now = this.#platform.now();
    if (now < this.#idleRoundMs) return Math.ceil(this.#idleRoundMs - now);
    for (; this.#idleRoundAt < this.#served.length; this.#idleRoundAt++) {
      if (this.#served[this.#idleRoundAt]!.connection.queue.releaseIdle()) return 0;
    }
    this.#idleRoundAt = 0;
    const kept = this.#served.some(({ connection }) => connection.queue.keepsMemory);
    this.#idleRoundMs = kept ? now + IDLE_ROUND_MS : Infinity;
    return kept ? IDLE_ROUND_MS : -1;
  }

  /** Reported once: it is the same for all guests, and an operator cannot change it. */
  #noteUnrestricted({ domain, events }: Guest<Served>): void {
    if (events.unrestricted === undefined || this.#notedUnrestricted) return;
    this.#notedUnrestricted = true;
    this.#host.debug(`event channels of domain ${domain} are not restricted to it: ${events.unrestricted}`);
  }

  /** A guest's events cannot be taken: its rings are visited anyway, and other guests are not affected. */
  readonly #failed = (guest: Guest<Served>, error: unknown): void => {
    this.#limiter.forGuest(guest.domain).warning(errorText(error));
    guest.wakeAll();
  };

  #releaseGuest(guest: Guest<Served>): void {
    if (!this.#guests.leaves(guest)) return;
    this.#limiter.forget(guest.domain);
    this.#release(guest);
  }

  #finish(index: number): void {
    const { id, leaving } = this.#served[index]!;
    this.#remove(index);
    if (leaving) this.#host.released?.(id);
    else this.#host.closed(id);
  }

  #remove(index: number): void {
    const { guest, connection, table } = this.#rings.remove(index);
    guest.byPort.delete(connection.port);
    guest.hasClosed = true;
    this.#release(connection);
    table.rings--;
    this.#releaseGuest(guest);
  }

  /** Reports a failed release: that resource is lost, and the other queues continue. */
  #release(owned: Disposable): void {
    try {
      owned[Symbol.dispose]();
    } catch (error) {
      this.#host.warn(errorText(error));
    }
  }
}
