/**
 * A thread of a hostile guest (double_fetch_test.ts): keeps overwriting the slots of a ring and the pages of indirect
 * segments with valid and invalid values, until the control word says stop.
 */

/// <reference lib="deno.worker" />

import { Random } from "../../lib/guest/random.ts";

/** What to write over. */
export interface ScribbleOrder {
  readonly ring: Uint8Array;
  /** Pages for the segments of indirect requests. */
  readonly lists: Uint8Array;
  readonly listRefs: readonly number[];
  readonly grefs: readonly number[];
  readonly seed: number;
  readonly strideBytes: number;
  /** Offset of the id in a slot. */
  readonly idBytes: number;
  /** Word 0: stop. Word 1: rounds so far. */
  readonly control: ArrayBufferLike;
}

const SLOTS = 32;

self.onmessage = ({ data }: MessageEvent<ScribbleOrder>): void => {
  const control = new Int32Array(data.control);
  const view = new DataView(data.ring.buffer, data.ring.byteOffset, data.ring.byteLength);
  const lists = new DataView(data.lists.buffer, data.lists.byteOffset, data.lists.byteLength);
  const random = new Random(data.seed);
  self.postMessage("started");
  while (Atomics.load(control, 0) === 0) {
    for (let slot = 0; slot < SLOTS; slot++) {
      scribble(view, 64 + slot * data.strideBytes, data, random);
      for (let i = 0; i < 16; i++) scribbleSegment(lists, random.below(lists.byteLength / 8) * 8, data, random);
    }
    Atomics.add(control, 1, 1);
  }
  self.postMessage("ended");
};

/** Gives each field a valid value or one that must be refused. */
function scribble(view: DataView, begin: number, order: ScribbleOrder, random: Random): void {
  const indirect = random.chance(0.2);
  view.setUint8(begin, indirect ? 6 : random.chance(0.9) ? random.below(6) : random.below(256));
  view.setUint8(begin + 1, random.chance(0.8) ? random.between(0, indirect ? 1 : 11) : random.below(256));
  if (indirect) view.setUint16(begin + 2, random.chance(0.8) ? random.between(1, 40) : random.below(65536), true);
  const sector = begin + order.idBytes + 8;
  view.setUint32(sector, random.chance(0.8) ? random.below(250) : random.next(), true);
  view.setUint32(sector + 4, random.chance(0.9) ? 0 : random.next(), true);
  if (indirect) {
    for (let i = 0; i < 8; i++) view.setUint32(sector + 12 + 4 * i, random.pick(order.listRefs), true);
    return;
  }
  for (let i = 0; i < 11; i++) scribbleSegment(view, sector + 8 + 8 * i, order, random);
}

function scribbleSegment(view: DataView, at: number, order: ScribbleOrder, random: Random): void {
  view.setUint32(at, random.pick(order.grefs), true);
  view.setUint8(at + 4, random.chance(0.8) ? 0 : random.below(256));
  view.setUint8(at + 5, random.chance(0.8) ? 7 : random.below(256));
}
