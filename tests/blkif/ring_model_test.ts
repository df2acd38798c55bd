/**
 * Drives a front and a back ring against each other and against a model with unbounded indices, in random steps that
 * begin shortly before the indices wrap: every count, every notification and every value that crosses must be right.
 */

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { AbiLayout } from "../../lib/blkif/abi.ts";
import { ResponseFields } from "../../lib/blkif/front_ring.ts";
import { decodeRequest } from "../../lib/blkif/request.ts";
import { fieldsOf, LAYOUTS, privateSlots, ringAt, type RingPair, WRAP } from "./rings.ts";

/** A step: the method, how often it is called, and a number for its choices. */
type Step = readonly [name: keyof Model, times: number, choice: number];

/** One end's indices, without wrapping: the private producer, the published one, and the event index. */
interface Producer {
  produced: number;
  published: number;
  event: number;
}

/** A model of both ends, next to the real rings. Its methods are the steps. */
class Model {
  readonly #ring: RingPair;
  readonly #abi: AbiLayout;
  readonly #requests: Producer;
  readonly #responses: Producer;
  readonly #private = privateSlots(1);
  readonly #response = new ResponseFields();
  /** Ids of requests in the ring, of requests that were taken, and of responses that the frontend has not seen yet. */
  readonly #waiting: number[] = [];
  readonly #taken: number[] = [];
  readonly #answered: { readonly id: number; readonly status: number }[] = [];
  #nextId = 1;

  constructor(start: number, abi: AbiLayout, pages: number) {
    this.#ring = ringAt(start, abi, pages);
    this.#abi = abi;
    this.#requests = { produced: start, published: start, event: start + 1 };
    this.#responses = { produced: start, published: start, event: start + 1 };
  }

  #publish(producer: Producer): boolean {
    const passed = producer.published < producer.event && producer.event <= producer.produced;
    producer.published = producer.produced;
    return passed;
  }

  #unseenRequests(): number {
    return this.#waiting.length - (this.#requests.produced - this.#requests.published);
  }

  #unseenResponses(): number {
    return this.#answered.length - (this.#responses.produced - this.#responses.published);
  }

  put(): void {
    const inRing = this.#waiting.length + this.#taken.length + this.#answered.length;
    assertEquals(this.#ring.front.free(), this.#ring.front.slots - inRing);
    if (inRing === this.#ring.front.slots) return;
    const id = this.#nextId++;
    const segments = [{ gref: id * 3, first: id % 8, last: 7 }];
    this.#ring.front.putRequest(fieldsOf({ operation: id % 4, id: BigInt(id) << 20n, sector: BigInt(id), segments }));
    this.#waiting.push(id);
    this.#requests.produced++;
  }

  pushRequests(): void {
    assertEquals(this.#ring.front.push(), this.#publish(this.#requests), "notify the backend");
  }

  take(): void {
    const unseen = this.#unseenRequests();
    assertEquals(this.#ring.back.unconsumed(), unseen);
    assertEquals(this.#ring.back.outstanding(), this.#taken.length);
    if (unseen === 0) return;
    const { snapshot, slots } = this.#private;
    this.#ring.back.take(snapshot.u32, 0);
    decodeRequest(snapshot, 0, this.#abi, slots, 0);
    const id = this.#waiting.shift()!;
    assertEquals(slots.idHigh[0]! * 2 ** 12 + slots.idLow[0]! / 2 ** 20, id);
    assertEquals([slots.operation[0], slots.sectorLow[0], slots.grefs[0]], [id % 4, id, id * 3]);
    this.#taken.push(id);
  }

  /** Answers any of the requests in flight: not in the order they came. */
  answer(choice: number): void {
    if (this.#taken.length === 0) return;
    const [id] = this.#taken.splice(choice % this.#taken.length, 1) as [number];
    const status = -(id % 3);
    this.#ring.back.putResponse(id, choice, id % 4, status);
    this.#answered.push({ id, status });
    this.#responses.produced++;
  }

  pushResponses(): void {
    assertEquals(this.#ring.back.push(), this.#publish(this.#responses), "notify the frontend");
  }

  see(): void {
    const unseen = this.#unseenResponses();
    assertEquals(this.#ring.front.unconsumedResponses(), unseen);
    if (unseen === 0) return;
    this.#ring.front.takeResponse(this.#response);
    const { id, status } = this.#answered.shift()!;
    assertEquals([this.#response.idLow, this.#response.operation, this.#response.status], [id, id % 4, status]);
  }

  finalCheckBack(): void {
    const work = this.#unseenRequests() > 0;
    if (!work) this.#requests.event = this.#requests.published + 1;
    assertEquals(this.#ring.back.finalCheck(), work);
  }

  finalCheckFront(): void {
    const work = this.#unseenResponses() > 0;
    if (!work) this.#responses.event = this.#responses.published + 1;
    assertEquals(this.#ring.front.finalCheck(), work);
  }

  /** Takes and answers everything that was put. */
  answerAll(): void {
    this.pushRequests();
    while (this.#waiting.length > 0) this.take();
    while (this.#taken.length > 0) this.answer(1);
    this.pushResponses();
    while (this.#answered.length > 0) this.see();
    this.take();
    this.see();
  }
}

const step: fc.Arbitrary<Step> = fc.tuple(
  fc.constantFrom(
    "put" as const,
    "pushRequests" as const,
    "take" as const,
    "answer" as const,
    "pushResponses" as const,
    "see" as const,
    "finalCheckBack" as const,
    "finalCheckFront" as const,
  ),
  fc.integer({ min: 1, max: 40 }),
  fc.nat({ max: 1000 }),
);

for (const abi of LAYOUTS) {
  for (const pages of [1, 4]) {
    Deno.test(`${abi.name}, ${pages} pages: both ends agree with a model in any interleaving around the wrap`, () => {
      fc.assert(fc.property(
        fc.integer({ min: 0, max: 300 }),
        fc.array(step, { maxLength: 120 }),
        (before, steps) => {
          const model = new Model(WRAP - before - 1, abi, pages);
          for (const [name, times, choice] of steps) {
            for (let i = 0; i < times; i++) model[name](choice);
          }
          model.answerAll();
        },
      ));
    });
  }
}
