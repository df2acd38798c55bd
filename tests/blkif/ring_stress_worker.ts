/**
 * One end of ring_stress_test.ts: a Worker that is the frontend or the backend of a ring. It puts, takes and answers in
 * random portions, sleeps whenever the ring's rules allow it, and wakes the other end only when they demand it. The
 * content of a request follows from its number, so each end knows what the other must have written.
 */

/// <reference lib="deno.worker" />

import { type AbiName, ABIS, RING_BROKEN } from "../../lib/blkif/abi.ts";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { decodeRequest, RequestSlots, SnapshotMemory } from "../../lib/blkif/request.ts";
import { Random } from "../../lib/guest/random.ts";

/** The Worker's first message. */
export interface StressStart {
  readonly role: "frontend" | "backend";
  readonly abi: AbiName;
  readonly ring: SharedArrayBuffer;
  /** See {@linkcode CONTROL}. */
  readonly control: SharedArrayBuffer;
  readonly seed: number;
  /** The frontend ends after so many requests or `durationMs`, but not before `fewest` requests. */
  readonly requests: number;
  readonly fewest: number;
  readonly durationMs: number;
  /** If a sleep lasts longer, a wake-up was lost. */
  readonly patienceMs: number;
}

/** The Worker's report. */
export interface StressReport {
  readonly role: StressStart["role"];
  /** Requests issued and answered, or taken. */
  readonly requests: number;
  readonly sleeps: number;
  readonly notified: number;
  readonly saved: number;
  readonly failure: string | undefined;
}

/** Int32 words that both ends share: the events raised for each end so far, and 1 when the test is over. */
export const CONTROL = { backendEvents: 0, frontendEvents: 1, over: 2, words: 3 } as const;

const SEGMENTS = 11;
/** How often an end checks for an event before it really sleeps. */
const DOZE_LOOKS = 20_000;
/** The longest random delay is 2 to the power of this many steps: some microseconds. */
const MOST_DAWDLE_BITS = 13;
/** Requests between changes of the delays. */
const PACE_LENGTH = 2000;

/** A hash of a request's number and a field's number. */
function mixed(id: number, field: number): number {
  return Math.imul(Math.imul(id ^ (field << 24), 0x9E3779B1) ^ (id >>> 15), 0x85EBCA77) >>> 0;
}

/** What both ends share: sleeping, waking and checking. */
class End {
  readonly random: Random;
  sleeps = 0;
  notified = 0;
  saved = 0;
  readonly #control: Int32Array;
  readonly #own: number;
  readonly #other: number;

  constructor(readonly start: StressStart) {
    this.random = new Random(start.seed);
    this.#control = new Int32Array(start.control);
    const isBackend = start.role === "backend";
    this.#own = isBackend ? CONTROL.backendEvents : CONTROL.frontendEvents;
    this.#other = isBackend ? CONTROL.frontendEvents : CONTROL.backendEvents;
  }

  get over(): boolean {
    return Atomics.load(this.#control, CONTROL.over) !== 0;
  }

  end(): void {
    Atomics.store(this.#control, CONTROL.over, 1);
    this.#raise();
  }

  /** Wakes the other end if push() returned true. */
  pushed(notify: boolean): void {
    if (!notify) this.saved++;
    else {
      this.notified++;
      this.#raise();
    }
  }

  /** Events so far. Read them before the final check that precedes a sleep. */
  get events(): number {
    return Atomics.load(this.#control, this.#own);
  }

  /**
   * Sleeps unless there was an event since. It often polls first: a real sleep takes so long that the other end would
   * rarely write at the moment when this end decides to sleep.
   */
  sleep(seenEvents: number): void {
    this.sleeps++;
    if (this.random.chance(0.9)) {
      for (let i = 0; i < DOZE_LOOKS; i++) if (this.events !== seenEvents) return;
    }
    const result = Atomics.wait(this.#control, this.#own, seenEvents, this.start.patienceMs);
    if (result === "timed-out") throw new Error(`the ${this.start.role} slept on: a wake-up was lost`);
  }

  /** Lets a moment pass, or none, so that the two ends meet in ever other places. */
  dawdle(): void {
    const looks = 1 << this.random.below(MOST_DAWDLE_BITS);
    for (let i = 1; i < looks; i++) Atomics.load(this.#control, this.#own);
  }

  check(what: string, actual: number, expected: number, id: number): void {
    if (actual !== expected) throw new Error(`request ${id}: ${what} is ${actual}, expected ${expected}`);
  }

  #raise(): void {
    Atomics.add(this.#control, this.#other, 1);
    Atomics.notify(this.#control, this.#other);
  }
}

class Frontend {
  requests = 0;
  readonly #end: End;
  readonly #ring: FrontRing;
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  /** By request: 1 in flight, 2 answered. */
  readonly #states: Uint8Array;
  #inFlight = 0;
  #depth = 1;

  constructor(end: End) {
    this.#end = end;
    this.#ring = new FrontRing(new Uint8Array(end.start.ring), ABIS[end.start.abi]);
    this.#states = new Uint8Array(end.start.requests);
  }

  run(): void {
    const { requests, fewest, durationMs } = this.#end.start;
    const endMs = performance.now() + durationMs;
    let mayIssue = true;
    while (mayIssue || this.#inFlight > 0) {
      mayIssue &&= this.requests < requests && (this.requests < fewest || performance.now() < endMs);
      if (this.#end.over) throw new Error("the backend gave up");
      const events = this.#end.events;
      const answered = this.#takeAll();
      const issued = mayIssue ? this.#issue() : 0;
      if (this.#depth < 4) this.#end.dawdle();
      if (answered + issued === 0 && this.#inFlight > 0 && !this.#ring.finalCheck()) this.#end.sleep(events);
    }
  }

  #issue(): number {
    const { random } = this.#end;
    if (this.requests % PACE_LENGTH < this.#ring.slots) {
      this.#depth = random.chance(0.5) ? 1 : 1 + random.below(this.#ring.slots);
    }
    const room = Math.min(this.#ring.free(), this.#depth - this.#inFlight, this.#end.start.requests - this.requests);
    if (room <= 0) return 0;
    const count = 1 + random.below(room);
    for (let i = 0; i < count; i++) {
      this.#put(this.requests++);
      if (random.chance(0.1)) this.#end.pushed(this.#ring.push());
    }
    this.#end.pushed(this.#ring.push());
    return count;
  }

  #put(id: number): void {
    const fields = this.#fields;
    fields.operation = mixed(id, 1) & 1;
    fields.idLow = id;
    fields.idHigh = mixed(id, 2);
    fields.sectorLow = mixed(id, 3);
    fields.sectorHigh = mixed(id, 4);
    fields.handle = mixed(id, 5) & 0xffff;
    fields.segmentCount = SEGMENTS;
    for (let i = 0; i < SEGMENTS; i++) {
      fields.grefs[i] = mixed(id, 16 + i);
      fields.lastSectors[i] = mixed(id, 32 + i) & 0xff;
    }
    this.#ring.putRequest(fields);
    this.#states[id] = 1;
    this.#inFlight++;
  }

  #takeAll(): number {
    const count = this.#ring.unconsumedResponses();
    if (count === RING_BROKEN) throw new Error("there are more responses than requests");
    const { check } = this.#end;
    const response = this.#response;
    for (let i = 0; i < count; i++) {
      this.#ring.takeResponse(response);
      const id = response.idLow;
      check("its state (1 is in flight)", this.#states[id] ?? 0, 1, id);
      check("the answer's upper id", response.idHigh, mixed(id, 2), id);
      check("the answer's operation", response.operation, mixed(id, 1) & 1, id);
      check("the answer's status", response.status, -(mixed(id, 6) & 1), id);
      this.#states[id] = 2;
    }
    this.#inFlight -= count;
    return count;
  }
}

class Backend {
  requests = 0;
  readonly #end: End;
  readonly #ring: BackRing;
  readonly #snapshot = new SnapshotMemory(new Uint8Array(112));
  readonly #slots: RequestSlots;
  /** Slots taken and not answered; the rest of the array holds the free ones. */
  readonly #taken: Uint16Array;
  #takenCount = 0;

  constructor(end: End) {
    this.#end = end;
    this.#ring = new BackRing(new Uint8Array(end.start.ring), ABIS[end.start.abi]);
    this.#slots = new RequestSlots(this.#ring.slots, SEGMENTS);
    this.#taken = Uint16Array.from({ length: this.#ring.slots }, (_, slot) => slot);
  }

  run(): void {
    const { random } = this.#end;
    while (!this.#end.over) {
      const events = this.#end.events;
      const count = this.#ring.unconsumed();
      if (count === RING_BROKEN) throw new Error("req_prod is impossible");
      for (let i = random.below(count + 1); i > 0; i--) this.#take();
      // All of them at times: only then may it sleep.
      const answers = random.chance(0.5) ? this.#takenCount : random.below(this.#takenCount + 1);
      for (let i = 0; i < answers; i++) this.#answer();
      if (answers > 0) this.#end.pushed(this.#ring.push());
      if (this.#takenCount === 0) this.#end.dawdle();
      if (this.#takenCount === 0 && !this.#ring.finalCheck() && !this.#end.over) this.#end.sleep(events);
    }
  }

  #take(): void {
    const slot = this.#taken[this.#takenCount++]!;
    this.#ring.take(this.#snapshot.u32, 0);
    const abi = ABIS[this.#end.start.abi];
    decodeRequest(this.#snapshot, 0, abi, this.#slots, slot);
    this.requests++;
    const slots = this.#slots;
    const { check } = this.#end;
    const id = slots.idLow[slot]!;
    check("its number of order", id, this.requests - 1, id);
    check("its operation", slots.operation[slot]!, mixed(id, 1) & 1, id);
    check("its upper id", slots.idHigh[slot]!, mixed(id, 2), id);
    check("its sector", slots.sectorLow[slot]!, mixed(id, 3), id);
    check("its upper sector", slots.sectorHigh[slot]!, mixed(id, 4), id);
    check("its handle", this.#snapshot.u16[abi.handleOffset >>> 1]!, mixed(id, 5) & 0xffff, id);
    for (let i = 0; i < SEGMENTS; i++) {
      check("a grant reference", slots.grefs[slots.firstSegment[slot]! + i]!, mixed(id, 16 + i), id);
      check("a last sector", slots.lastSector[slots.firstSegment[slot]! + i]!, mixed(id, 32 + i) & 0xff, id);
    }
  }

  /** Answers any of the requests taken. */
  #answer(): void {
    const at = this.#end.random.below(this.#takenCount);
    const slot = this.#taken[at]!;
    this.#taken[at] = this.#taken[--this.#takenCount]!;
    this.#taken[this.#takenCount] = slot;
    const { idLow, idHigh, responseOperation } = this.#slots;
    const id = idLow[slot]!;
    this.#ring.putResponse(id, idHigh[slot]!, responseOperation[slot]!, -(mixed(id, 6) & 1));
  }
}

self.onmessage = ({ data }: MessageEvent<StressStart>): void => {
  const end = new End(data);
  const side = data.role === "frontend" ? new Frontend(end) : new Backend(end);
  let failure: string | undefined;
  try {
    side.run();
  } catch (error) {
    failure = error instanceof Error ? error.message : String(error);
  }
  end.end();
  const { requests } = side;
  const { sleeps, notified, saved } = end;
  self.postMessage({ role: data.role, requests, sleeps, notified, saved, failure } satisfies StressReport);
};
