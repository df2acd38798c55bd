/**
 * A guest's end of one ring and its requests in flight. Checks that each request gets one response, with its id and
 * operation, a correct status and data that the disk may hold, and that no other byte of the ring or of the guest's
 * pages changes.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import {
  type AbiLayout,
  indexDifference,
  OP_DISCARD,
  OP_READ,
  OP_WRITE_BARRIER,
  REQ_PROD_WORD,
  RING_BROKEN,
  RING_HEADER_BYTES,
  RSP_PROD_WORD,
  STATUS_OKAY,
} from "../../lib/blkif/abi.ts";
import {
  DiscardFields,
  FrontRing,
  IndirectFields,
  RequestFields,
  ResponseFields,
  writeSegment,
} from "../../lib/blkif/front_ring.ts";
import type { SharedPages } from "../../lib/hypervisor.ts";
import { describeSector, idOfSector, UNKNOWN_CONTENT } from "./content.ts";
import type { DiskWatch, RingOrder, SentRequest } from "./disk_watch.ts";
import type { GuestPages } from "./guest_pages.ts";
import type { WriteRecord } from "./history.ts";
import { type Descriptors, discardedSectors, type RequestPlan, sectorsOf } from "./requests.ts";
import type { Run } from "./run.ts";

/** A request in flight. */
interface InFlight extends SentRequest {
  readonly plan: RequestPlan;
  /** Number of disturbing faults when it was sent. */
  readonly disturbances: number;
}

/** Parts of a {@linkcode GuestRing}. */
interface GuestRingParts {
  readonly run: Run;
  readonly watch: DiskWatch;
  readonly pages: GuestPages;
  readonly abi: AbiLayout;
  readonly memory: SharedPages;
  readonly notify: () => void;
}

const SECTOR_WORDS = SECTOR_BYTES / 4;
/** End of the shared indices. */
const PRIVATE_HEADER_BYTE = 16;
/** A response fills the first bytes of a slot (id, operation, status) except one. */
const ANSWER_GAP_BYTE = 9;
const ANSWER_BYTES = 12;
/** Makes ids large numbers. */
const ID_STEP = 0x9E3779B1;

/** A guest's end of one ring. */
export class GuestRing implements RingOrder {
  lastExecuted = 0;
  /** The guest has published an impossible index: no further responses come. */
  overrun = false;
  readonly #parts: GuestRingParts;
  readonly #front: FrontRing;
  readonly #header: Int32Array;
  /** By id, in the order of sending. */
  readonly #inFlight = new Map<number, InFlight>();
  readonly #direct = new RequestFields();
  readonly #indirect = new IndirectFields();
  readonly #discard = new DiscardFields();
  readonly #answer = new ResponseFields();
  /** What the guest last wrote into each slot. */
  readonly #slotShadow: Uint8Array;
  #answeredWrites: { readonly sequence: number; readonly write: WriteRecord }[] = [];
  #sent = 0;

  constructor(parts: GuestRingParts) {
    this.#parts = parts;
    this.#front = FrontRing.initialise(parts.memory.view, parts.abi);
    this.#header = new Int32Array(parts.memory.view.buffer, parts.memory.view.byteOffset, 4);
    this.#slotShadow = parts.memory.view.slice();
  }

  get unanswered(): Iterable<SentRequest> {
    return this.#inFlight.values();
  }

  /** Requests without a response. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Free slots. */
  get free(): number {
    return this.#front.free();
  }

  isAnswered(request: SentRequest): boolean {
    if (!this.#inFlight.has(request.id)) return true;
    const { abi, memory } = this.#parts;
    const words = new Int32Array(memory.view.buffer, memory.view.byteOffset, memory.view.length / 4);
    const end = Atomics.load(this.#header, RSP_PROD_WORD);
    for (let index = this.#front.responseConsumer; indexDifference(end, index) > 0; index++) {
      const begin = RING_HEADER_BYTES + (index & (this.#front.slots - 1)) * abi.requestSizeBytes;
      if (words[begin / 4] === request.id) return true;
    }
    return false;
  }

  takeAnsweredWrites(sequence: number): WriteRecord[] {
    const earlier = this.#answeredWrites.filter((request) => request.sequence < sequence);
    this.#answeredWrites = this.#answeredWrites.filter((request) => request.sequence >= sequence);
    return earlier.map(({ write }) => write);
  }

  /** Puts a request on the ring; the backend sees it after {@linkcode publish}. */
  put(plan: RequestPlan): void {
    const { run, watch, pages } = this.#parts;
    const id = Math.imul(++this.#sent, ID_STEP);
    const published = run.tick();
    const sectors = sectorsOf(plan.segments);
    const first = Number(plan.sector);
    const carries = !plan.refused && sectors > 0;
    const discarded = plan.operation === OP_DISCARD && !plan.refused
      ? discardedSectors(plan, watch.disk.properties)
      : undefined;
    const discard = discarded !== undefined && discarded.count > 0
      ? watch.history.beginWrite(discarded.first, discarded.count, published, true)
      : undefined;
    const request: InFlight = {
      plan,
      operation: plan.operation,
      id,
      sequence: this.#sent,
      published,
      refused: plan.refused,
      ring: this,
      write: carries && plan.operation !== OP_READ ? watch.history.beginWrite(first, sectors, published) : discard,
      read: carries && plan.operation === OP_READ ? watch.history.beginRead(published) : undefined,
      started: 0,
      executed: 0,
      underWay: false,
      disturbances: run.faults.disturbances,
    };
    this.#inFlight.set(id, request);
    watch.sending(request);
    const content = request.write?.id ?? watch.history.foreignId();
    let sector = first;
    for (const { page, first, last } of plan.segments) {
      page.inUse = true;
      for (let at = first; at <= last && at < 8; at++) pages.fill(page, at, sector++, content);
    }
    if (plan.indirect !== undefined) this.#putIndirect(request, plan.indirect);
    else if (plan.operation === OP_DISCARD && plan.segments.length === 0) this.#putDiscard(request);
    else this.#putDirect(request);
    run.note("put", plan.operation, id, first, sectors, plan.refused ? 1 : 0);
  }

  /** Publishes the requests, and notifies the backend if it asked for that. */
  publish(): void {
    this.#parts.run.tick();
    if (this.#front.push()) this.#parts.notify();
  }

  /** Takes all responses; with `sleep` then asks to be notified of the next one, and looks again. */
  takeAnswers(sleep: boolean): void {
    do {
      const count = this.#front.unconsumedResponses();
      if (this.overrun) return;
      this.#parts.run.require(count !== RING_BROKEN, "the ring has more answers than there are requests");
      for (let i = 0; i < count; i++) this.#takeAnswer();
    } while (sleep && this.#front.finalCheck());
  }

  /** Publishes an impossible producer index. */
  runOver(by: number): void {
    this.overrun = true;
    Atomics.add(this.#header, REQ_PROD_WORD, this.#front.slots + by);
    this.#parts.notify();
  }

  /** Nobody serves the ring, or will: unanswered requests have no further effect. */
  abandon(): void {
    const now = this.#parts.run.tick();
    for (const request of this.#inFlight.values()) this.#end(request, false, now);
    this.#inFlight.clear();
  }

  /** Fails if the ring was changed outside of slots and indices. */
  checkMemory(): void {
    const { memory, run, abi } = this.#parts;
    const end = RING_HEADER_BYTES + this.#front.slots * abi.requestSizeBytes;
    for (let at = PRIVATE_HEADER_BYTE; at < memory.view.length; at++) {
      if (at === RING_HEADER_BYTES) at = end;
      if (memory.view[at] !== this.#slotShadow[at]) run.fail(`byte ${at} of the ring, where no slot is, was changed`);
    }
  }

  #putDirect(request: InFlight): void {
    const fields = this.#direct;
    const { plan } = request;
    this.#fill(fields, request);
    fields.operation = plan.operation;
    fields.segmentCount = plan.segmentCount;
    plan.segments.forEach(({ ref, first, last }, i) => {
      fields.grefs[i] = ref;
      fields.firstSectors[i] = first;
      fields.lastSectors[i] = last;
    });
    this.#remember(() => this.#front.putRequest(fields));
  }

  #putIndirect(request: InFlight, { page, ref }: Descriptors): void {
    const fields = this.#indirect;
    const { plan } = request;
    this.#fill(fields, request);
    fields.innerOperation = plan.operation;
    fields.segmentCount = plan.segmentCount;
    fields.grefs.fill(request.sequence); // entries beyond the needed pages are ignored
    fields.grefs[0] = ref;
    page.inUse = true;
    const words = new Uint32Array(page.words.buffer, page.words.byteOffset, page.words.length);
    plan.segments.forEach(({ ref, first, last }, i) => writeSegment(words, 2 * i, ref, first, last));
    page.shadow.set(page.words);
    this.#remember(() => this.#front.putIndirect(fields));
  }

  #putDiscard(request: InFlight): void {
    const fields = this.#discard;
    this.#fill(fields, request);
    fields.flag = request.sequence & 1;
    fields.sectorCountLow = Number(request.plan.discardSectors & 0xFFFFFFFFn);
    fields.sectorCountHigh = Number(request.plan.discardSectors >> 32n);
    this.#remember(() => this.#front.putDiscard(fields));
  }

  /** Fills in the fields that all requests share. */
  #fill(fields: RequestFields | IndirectFields | DiscardFields, { id, sequence, plan }: InFlight): void {
    fields.handle = sequence & 0xFFFF;
    fields.idLow = id;
    fields.idHigh = ~id;
    fields.sectorLow = Number(plan.sector & 0xFFFFFFFFn);
    fields.sectorHigh = Number(plan.sector >> 32n);
  }

  /** Puts a request, and remembers the slot's content. */
  #remember(put: () => void): void {
    const { abi, memory } = this.#parts;
    const begin = RING_HEADER_BYTES + (this.#front.requestProducer & (this.#front.slots - 1)) * abi.requestSizeBytes;
    put();
    this.#slotShadow.set(memory.view.subarray(begin, begin + abi.requestSizeBytes), begin);
  }

  #takeAnswer(): void {
    const { run } = this.#parts;
    const slot = this.#front.responseConsumer & (this.#front.slots - 1);
    this.#front.takeResponse(this.#answer);
    const { idLow, idHigh, operation, status } = this.#answer;
    const id = idLow | 0;
    const request = this.#inFlight.get(id);
    run.note("answer", operation, id, status);
    if (request === undefined) return run.fail(`an answer to request ${id}, which is not in flight`);
    run.require((idHigh | 0) === ~id, `an answer to request ${id} with another upper half of its id`);
    run.require(operation === request.plan.answerOperation, `request ${id} was answered as operation ${operation}`);
    this.#checkSlot(slot, id);
    this.#checkStatus(request, status);
    const now = run.tick();
    if (status === STATUS_OKAY) this.#parts.watch.answeredOkay(request);
    if (status === STATUS_OKAY) this.#checkOrder(request);
    this.#checkPages(request, status === STATUS_OKAY, now);
    this.#inFlight.delete(id);
    this.#end(request, status === STATUS_OKAY, now);
    const { sequence, write } = request;
    if (status === STATUS_OKAY && write !== undefined) this.#answeredWrites.push({ sequence, write });
  }

  #end(request: InFlight, okay: boolean, now: number): void {
    const { watch } = this.#parts;
    if (request.write !== undefined) watch.history.endWrite(request.write, okay, now);
    if (request.read !== undefined) watch.history.endRead(request.read);
    watch.forget(request);
    for (const { page } of request.plan.segments) page.inUse = false;
    if (request.plan.indirect !== undefined) request.plan.indirect.page.inUse = false;
  }

  /** A response changes only id, operation and status of the slot. */
  #checkSlot(slot: number, id: number): void {
    const { abi, memory, run } = this.#parts;
    const begin = RING_HEADER_BYTES + slot * abi.requestSizeBytes;
    for (let at = ANSWER_GAP_BYTE; at < abi.requestSizeBytes; at++) {
      if (at > ANSWER_GAP_BYTE && at < ANSWER_BYTES) continue;
      if (memory.view[begin + at] === this.#slotShadow[begin + at]) continue;
      run.fail(`the answer to request ${id} changed byte ${at} of its slot`);
    }
  }

  #checkStatus({ refused, id, disturbances }: InFlight, status: number): void {
    const { run, watch } = this.#parts;
    if (refused) return run.require(status < STATUS_OKAY, `request ${id} must be refused and was answered ${status}`);
    run.require(status === STATUS_OKAY || status === -1 || status === -2, `request ${id} was answered ${status}`);
    const excused = run.faults.disturbances > disturbances || watch.flushFailed;
    run.require(status === STATUS_OKAY || excused, `request ${id} failed with ${status} though nothing was wrong`);
  }

  /** A write that follows a barrier is answered after it. */
  #checkOrder(request: InFlight): void {
    if (request.write === undefined) return;
    for (const earlier of this.#inFlight.values()) {
      if (earlier.sequence >= request.sequence) return;
      if (earlier.operation !== OP_WRITE_BARRIER || earlier.refused) continue;
      this.#parts.run.fail(`request ${request.id} was answered before the barrier ${earlier.id} ahead of it`);
    }
  }

  #checkPages(request: InFlight, okay: boolean, now: number): void {
    const { pages } = this.#parts;
    const { plan, operation } = request;
    let sector = Number(plan.sector);
    for (const { page, ref, first, last } of plan.segments) {
      for (let at = first; at <= last && at < 8 && operation === OP_READ; at++, sector++) {
        if (request.read !== undefined && okay) this.#checkData(request, page.words, at, sector, now);
        // A failed read may leave anything in its pages.
        if ((request.read !== undefined || plan.badGrant) && page.ref === ref) pages.accept(page, at);
      }
    }
    for (const { page } of plan.segments) pages.check(page);
    if (plan.indirect !== undefined) pages.check(plan.indirect.page);
  }

  #checkData(request: InFlight, words: Int32Array, at: number, sector: number, now: number): void {
    const { run, watch } = this.#parts;
    const id = idOfSector(words, at * SECTOR_WORDS, sector);
    const why = id === UNKNOWN_CONTENT
      ? `it holds ${describeSector(words, at * SECTOR_WORDS)}`
      : watch.history.observe(sector, id, request.published, now);
    if (why !== undefined) run.fail(`request ${request.id} read sector ${sector}: ${why}`);
  }
}
