/**
 * A reactor: one thread's share of the data plane. It hosts any number of queues of any guests, visits those that have
 * work, one or two bounded passes each, so that no guest starves another, and sleeps in one place. It is driven from outside:
 * turn, sleep.
 */

import type { DomId, Parker, Platform } from "../hypervisor.ts";
import { errorText } from "../errors.ts";
import { LogLimiter, warningsTo } from "../rate_limit.ts";
import type { BufferOpener, ChannelOpener } from "../storage/disk.ts";
import { type Connection, openConnection, type OpenRequest } from "./connection.ts";
import { Guest, type GuestTable } from "./guest.ts";
import { PollTime } from "./poll_time.ts";

/** Turns between two checks of idle queues' events and of due times, while there is always work. */
const TURNS_PER_EVENT_CHECK = 4;
/** Kept mappings are released after being unused for one to two of these intervals. */
const IDLE_ROUND_MS = 30_000;
/** Turns between two readings of the clock for that, in a reactor that never sleeps. */
const TURNS_PER_CLOCK_CHECK = 1024;
/** Rings that a polling reactor checks between two readings of the clock. */
const LOOKS_PER_CLOCK_CHECK = 8;
/** Below this depth a second pass is made at once; above it more work arrives while we submit. */
const SEVERAL_IN_FLIGHT = 4;
/** A visit that moves no more is light, if the queue has few requests in flight. */
const LIGHT_BYTES = 32 * 1024;
/** A round of visits that has moved so much ends, so that the light queues are visited again. */
const BYTES_PER_ROUND = 256 * 1024;
/** How much later a queue is due if its channel, once visited, still names a time that has passed. */
const OVERDUE_MS = 1;

/**
 * Turns for which a queue is skipped after a visit that met a bad request or a failure, while there is other work: a
 * guest that sends only bad requests must cost its neighbours little.
 */
const TURNS_AFTER_FAULT = 32;

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

/** A queue that is served here, and whether it has to be visited. */
interface Served {
  readonly id: number;
  readonly connection: Connection;
  readonly guest: Guest<Served>;
  readonly table: GuestTable;
  hasWork: boolean;
  closing: boolean;
  /** It leaves this reactor once nothing is in flight. */
  leaving: boolean;
  reportedBroken: boolean;
  reportedLatched: boolean;
  /** Bad requests and failures so far. */
  readonly faults: { count: number };
  /** Turns for which it is still skipped. */
  skipTurns: number;
  /** Bytes that its last visit moved. */
  movedBytes: number;
  /** It moved many bytes in its last visit, or has many requests in flight. */
  isHeavy: boolean;
  /** The round in which it was last visited before the heavy queues. */
  round: number;
  /** The due time for which the queue was last visited, and the time of that visit. */
  visitedDueMs: number;
  visitedMs: number;
}

/** One thread's queues, and how they are served in turns. */
export class Reactor implements Disposable {
  readonly #platform: Platform;
  readonly #parker: Parker;
  readonly #host: ReactorHost;
  readonly #open: ReactorOptions;
  readonly #poll: PollTime;
  readonly #limiter: LogLimiter;
  readonly #guests = new Map<DomId, Guest<Served>>();
  #guestList: Guest<Served>[] = [];
  readonly #served: Served[] = [];
  /** Those of them with a channel that has a due time. */
  #timed: Served[] = [];
  #turnsSinceEvents = 0;
  /** Events of a guest were left for the next turn: its event queue must be seen empty before the reactor sleeps. */
  #eventsLeft = false;
  #notedUnrestricted = false;
  #round = 0;
  /** The queue that the next round begins with. */
  #next = 0;
  #turns = 0;
  /** Requests in flight in the queues that the last round visited. */
  #inFlight = 0;
  /** When the next round of releasing idle mappings is due; Infinity: no queue keeps any. */
  #idleRoundMs = Infinity;
  /** The queue that the current round has come to. */
  #idleRoundAt = 0;

  constructor(platform: Platform, parker: Parker, host: ReactorHost, options: ReactorOptions) {
    this.#platform = platform;
    this.#parker = parker;
    this.#host = host;
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
    const guest = this.#guest(request.guest);
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
      const served = {
        id,
        connection,
        guest,
        table,
        hasWork: true,
        closing: false,
        leaving: false,
        reportedBroken: false,
        reportedLatched: false,
        faults,
        skipTurns: 0,
        movedBytes: 0,
        isHeavy: false,
        round: 0,
        visitedDueMs: -1,
        visitedMs: 0,
      };
      guest.byPort.set(connection.port, served);
      this.#noteUnrestricted(guest);
      this.#served.push(served);
      if (connection.channel.dueMs !== undefined) this.#timed.push(served);
    } finally {
      this.#releaseGuest(guest);
    }
  }

  /** The disk of a queue has become larger. */
  grow(id: number, sectors: number): void {
    this.#served.find((served) => served.id === id)?.connection.queue.grow(sectors);
  }

  /** Drains a queue; {@linkcode ReactorHost.closed} reports its end. */
  close(id: number): void {
    const served = this.#served.find((served) => served.id === id);
    if (served === undefined) return this.#host.closed(id);
    served.closing = true;
    served.hasWork = true;
    served.connection.queue.drain();
  }

  /**
   * Serves a queue no more, once nothing is in flight, and flushes nothing: another reactor goes on with its ring.
   * {@linkcode ReactorHost.released} reports the end. False: it is being closed, or its ring is broken.
   */
  release(id: number): boolean {
    const served = this.#served.find((served) => served.id === id);
    if (served === undefined || served.closing || served.connection.queue.state !== "serving") return false;
    served.leaving = true;
    served.connection.queue.pause();
    return true;
  }

  /** Goes on with a queue that was to leave. False: it has left. */
  keep(id: number): boolean {
    const served = this.#served.find((served) => served.id === id);
    if (served === undefined) return false;
    served.leaving = false;
    served.hasWork = true;
    served.connection.queue.resume();
    return true;
  }

  /** One visit to every queue that has work. True: there may be more at once; false: the reactor may sleep. */
  turn(): boolean {
    if (this.#turnsSinceEvents++ % TURNS_PER_EVENT_CHECK === 0) {
      this.#takeEvents();
      if (this.#timed.length > 0) this.#findDue();
    }
    if (++this.#turns % TURNS_PER_CLOCK_CHECK === 0) this.#releaseIdle();
    return this.#visitAll() || this.#eventsLeft;
  }

  /**
   * One round of visits, beginning where the last one ended. It ends early once it has moved so many bytes that other
   * guests have waited long enough for the queues with little to do, and for their events.
   */
  #visitAll(): boolean {
    this.#round = (this.#round + 1) | 0;
    this.#inFlight = 0;
    let busy = this.#served.some(isHeavyAndReady) && this.#visitLight();
    let movedBytes = 0;
    for (let left = this.#served.length; left > 0; left--) {
      if (this.#next >= this.#served.length) this.#next = 0;
      const served = this.#served[this.#next]!;
      const { queue } = served.connection;
      if (movedBytes >= BYTES_PER_ROUND) {
        busy = true;
        this.#turnsSinceEvents = 0;
        break;
      }
      if (served.round !== this.#round && isReady(served)) {
        if (this.#visitUnlessSkipped(served)) busy = true;
        movedBytes += served.movedBytes;
      }
      this.#inFlight += queue.inFlight;
      if (isOver(served)) this.#finish(this.#next);
      else this.#next++;
    }
    if (busy || this.#eventsLeft) this.#parker.submit?.();
    return busy;
  }

  /**
   * Visits the queues with little to do, and starts their I/O. What is done at once is answered at once: it does not wait
   * for what the other queues start.
   */
  #visitLight(): boolean {
    let busy = false;
    for (let pass = 0; pass < 2; pass++) {
      let started = false;
      for (let i = 0; i < this.#served.length; i++) {
        const served = this.#served[i]!;
        const { queue } = served.connection;
        if (served.isHeavy || (pass === 0 ? !isReady(served) : queue.inFlight === 0)) continue;
        served.round = this.#round;
        if (this.#visitUnlessSkipped(served)) busy = true;
        if (queue.inFlight > 0) started = true;
      }
      if (!started || pass > 0) break;
      this.#parker.submit?.();
    }
    return busy;
  }

  /** True: there may be more to do at once. */
  #visitUnlessSkipped(served: Served): boolean {
    if (served.skipTurns === 0 || served.closing) return this.#visit(served);
    served.skipTurns--;
    served.movedBytes = 0;
    return true;
  }

  /**
   * Sleeps until an event, a completion, a wake, the time at which a queue is due, or the timeout (-1: none). The two
   * sleeps after the last use of kept mappings end early, to release them; from then on nothing disturbs an idle reactor.
   */
  sleep(timeoutMs: number): void {
    const dueMs = this.#timed.length > 0 ? this.#findDue() : -1;
    const idleMs = sooner(this.#releaseIdle(), dueMs);
    this.#turnsSinceEvents = 0;
    if (idleMs === 0) return;
    const idle = this.#poll.mostMs > 0 && this.#inFlight === 0;
    const beganMs = idle ? this.#platform.now() : 0;
    if (this.#poll.nowMs > 0 && ((idle && this.#pollRings(beganMs)) || this.#restAll())) return this.#poll.found();
    this.#parker.park(sooner(timeoutMs, idleMs));
    if (idle) this.#poll.idled(this.#platform.now() - beganMs);
  }

  /** Looks for requests for a while. Not called while I/O is in flight: that takes longer, and its end wakes us. */
  #pollRings(beganMs: number): boolean {
    const endMs = beganMs + this.#poll.nowMs;
    do {
      // Looking at the clock costs more than looking at a ring.
      for (let looks = 0; looks <= LOOKS_PER_CLOCK_CHECK; looks += 1 + this.#served.length) {
        if (this.#visitAll()) return true;
      }
    } while (this.#platform.now() < endMs);
    return false;
  }

  /** Asks the frontends that were polled to notify again. True: one of them has already sent a request. */
  #restAll(): boolean {
    let more = false;
    for (const served of this.#served) {
      if (!served.hasWork) continue;
      const { queue } = served.connection;
      served.hasWork = queue.rest();
      if (served.hasWork) more = true;
      else served.hasWork = queue.state === "draining";
    }
    return more;
  }

  [Symbol.dispose](): void {
    while (this.#served.length > 0) this.#remove(this.#served.length - 1);
  }

  #visit(served: Served): boolean {
    const { queue } = served.connection;
    const faults = served.faults.count;
    const polled = this.#poll.nowMs > 0;
    if (this.#served.length > 1) queue.interrupted();
    let more = queue.step();
    served.movedBytes = queue.movedBytes;
    // With little in flight another pass mostly finds nothing; then parking submits, with the same call.
    const faulty = served.faults.count !== faults;
    if (more && !faulty && queue.inFlight < SEVERAL_IN_FLIGHT) {
      more = queue.step();
      served.movedBytes += queue.movedBytes;
    }
    queue.settle();
    more ||= !polled && queue.rest();
    served.isHeavy = served.movedBytes > LIGHT_BYTES || queue.inFlight >= SEVERAL_IN_FLIGHT;
    if (served.faults.count !== faults) this.#noteFault(served);
    if (this.#idleRoundMs === Infinity && queue.keptGrants !== undefined && queue.keptGrants.count > 0) {
      this.#idleRoundMs = this.#platform.now() + IDLE_ROUND_MS;
    }
    if (queue.broken !== undefined && !served.reportedBroken) {
      served.reportedBroken = true;
      this.#host.stopped(served.id, queue.broken);
    }
    // A drain ends with a flush that does not count as a request in flight: look until it is over.
    served.hasWork = more || polled || queue.state === "draining";
    return more;
  }

  #noteFault(served: Served): void {
    served.skipTurns = TURNS_AFTER_FAULT;
    if (served.reportedLatched || !served.connection.latch.tripped) return;
    served.reportedLatched = true;
    this.#host.latched?.(served.id);
  }

  /** Makes the queues that are due be visited. Milliseconds until the next one is; 0: one is now, -1: none will be. */
  #findDue(): number {
    let dueMs = Infinity;
    for (let i = 0; i < this.#timed.length; i++) {
      dueMs = Math.min(dueMs, this.#timed[i]!.connection.channel.dueMs ?? Infinity);
    }
    if (dueMs === Infinity) return -1; // the clock need not be read
    const now = this.#platform.now();
    return dueMs > now ? dueMs - now : this.#visitDue(now);
  }

  /** The same, if a channel's time has passed, or is not a number. */
  #visitDue(now: number): number {
    let nextMs = -1;
    for (const served of this.#timed) {
      const leftMs = dueTime(served) - now;
      if (leftMs > 0) {
        if (leftMs !== Infinity) nextMs = sooner(nextMs, leftMs);
        continue;
      }
      served.hasWork = true;
      served.visitedDueMs = served.connection.channel.dueMs!;
      served.visitedMs = now;
      nextMs = 0;
    }
    return nextMs;
  }

  /** Continues a round that is due. Milliseconds until there is more to do; -1: nothing to wait for. */
  #releaseIdle(): number {
    if (this.#idleRoundMs === Infinity) return -1;
    const now = this.#platform.now();
    if (now < this.#idleRoundMs) return Math.ceil(this.#idleRoundMs - now);
    for (; this.#idleRoundAt < this.#served.length; this.#idleRoundAt++) {
      if (this.#served[this.#idleRoundAt]!.connection.queue.keptGrants?.releaseIdle()) return 0;
    }
    this.#idleRoundAt = 0;
    const kept = this.#served.some(({ connection }) => (connection.queue.keptGrants?.count ?? 0) > 0);
    this.#idleRoundMs = kept ? now + IDLE_ROUND_MS : Infinity;
    return kept ? IDLE_ROUND_MS : -1;
  }

  /** Reported once: it is the same for all guests, and an operator cannot change it. */
  #noteUnrestricted({ domain, events }: Guest<Served>): void {
    if (events.unrestricted === undefined || this.#notedUnrestricted) return;
    this.#notedUnrestricted = true;
    this.#host.debug(`event channels of domain ${domain} are not restricted to it: ${events.unrestricted}`);
  }

  #takeEvents(): void {
    this.#eventsLeft = false;
    for (const guest of this.#guestList) {
      try {
        if (guest.takeEvents()) this.#eventsLeft = true;
      } catch (error) {
        // Its rings are visited anyway; other guests are not affected.
        this.#limiter.forGuest(guest.domain).warning(errorText(error));
        guest.wakeAll();
      }
    }
  }

  #guest(domain: DomId): Guest<Served> {
    const known = this.#guests.get(domain);
    if (known !== undefined) return known;
    const guest = new Guest<Served>(domain, this.#platform, this.#parker);
    this.#guests.set(domain, guest);
    this.#guestList = [...this.#guests.values()];
    return guest;
  }

  #releaseGuest(guest: Guest<Served>): void {
    if (guest.byPort.size > 0) return;
    this.#guests.delete(guest.domain);
    this.#limiter.forget(guest.domain);
    this.#guestList = [...this.#guests.values()];
    this.#release(guest);
  }

  #finish(index: number): void {
    const { id, leaving } = this.#served[index]!;
    this.#remove(index);
    if (leaving) this.#host.released?.(id);
    else this.#host.closed(id);
  }

  #remove(index: number): void {
    const [served] = this.#served.splice(index, 1);
    this.#timed = this.#timed.filter((timed) => timed !== served);
    served!.guest.byPort.delete(served!.connection.port);
    served!.guest.hasClosed = true;
    this.#release(served!.connection);
    served!.table.rings--;
    this.#releaseGuest(served!.guest);
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

function isReady({ hasWork, connection }: Served): boolean {
  return hasWork || connection.queue.inFlight > 0;
}

/** Nothing is left to do for it here. */
function isOver({ closing, leaving, connection: { queue } }: Served): boolean {
  return closing ? queue.state === "drained" : leaving && queue.inFlight === 0;
}

function isHeavyAndReady(served: Served): boolean {
  return served.isHeavy && isReady(served);
}

/** When a queue is due; Infinity: never. A time that has passed, and for which it was visited, is put off. */
function dueTime({ connection, visitedDueMs, visitedMs }: Served): number {
  const { dueMs } = connection.channel;
  if (dueMs === undefined || Number.isNaN(dueMs)) return Infinity;
  return dueMs === visitedDueMs ? visitedMs + OVERDUE_MS : dueMs;
}

/** The shorter of two timeouts; -1 means no timeout. */
function sooner(oneMs: number, otherMs: number): number {
  return oneMs < 0 || (otherMs >= 0 && otherMs < oneMs) ? otherMs : oneMs;
}
