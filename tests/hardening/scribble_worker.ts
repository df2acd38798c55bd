/**
 * A thread of a hostile guest: writes plausible and implausible values over the slots of a ring, all the time, until
 * the control word says stop. It must not know what the other side makes of them.
 */

/// <reference lib="deno.worker" />

import { Random } from "../../lib/sim/random.ts";

/** What to write over. */
export interface ScribbleOrder {
  readonly ring: Uint8Array;
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
  const random = new Random(data.seed);
  self.postMessage("started");
  while (Atomics.load(control, 0) === 0) {
    for (let slot = 0; slot < SLOTS; slot++) scribble(view, 64 + slot * data.strideBytes, data, random);
    Atomics.add(control, 1, 1);
  }
  self.postMessage("ended");
};

/** Each field flips between a value that is fine and one that must not get through. */
function scribble(view: DataView, begin: number, order: ScribbleOrder, random: Random): void {
  view.setUint8(begin, random.chance(0.9) ? random.below(4) : random.below(256));
  view.setUint8(begin + 1, random.chance(0.8) ? random.between(0, 11) : random.below(256));
  const sector = begin + order.idBytes + 8;
  view.setUint32(sector, random.chance(0.8) ? random.below(250) : random.next(), true);
  view.setUint32(sector + 4, random.chance(0.9) ? 0 : random.next(), true);
  for (let i = 0; i < 11; i++) {
    const segment = sector + 8 + 8 * i;
    view.setUint32(segment, random.pick(order.grefs), true);
    view.setUint8(segment + 4, random.chance(0.8) ? 0 : random.below(256));
    view.setUint8(segment + 5, random.chance(0.8) ? 7 : random.below(256));
  }
}
