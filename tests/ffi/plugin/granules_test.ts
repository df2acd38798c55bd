/**
 * The data area of a plugin's channel: ranges do not overlap, what is given back is used again, and with nothing taken all
 * of it can be had at once.
 */

import { assert, assertEquals } from "@std/assert";
import { Granules } from "../../../ffi/plugin/granules.ts";
import { DATA_BYTES, GRANULE_BYTES } from "../../../ffi/plugin/layout.ts";
import { Random } from "../../../lib/guest/random.ts";

Deno.test("ranges of the data area are disjoint, and all of it is there once all were given back", () => {
  const granules = new Granules();
  const random = new Random(1);
  const taken: { readonly at: number; readonly lengthBytes: number }[] = [];
  const owner = new Int32Array(DATA_BYTES / GRANULE_BYTES).fill(-1);
  const fill = ({ at, lengthBytes }: typeof taken[number], value: number): void =>
    void owner.fill(value, at / GRANULE_BYTES, Math.ceil((at + lengthBytes) / GRANULE_BYTES));
  let refused = 0;
  for (let step = 0; step < 20_000; step++) {
    const lengthBytes = 512 * (1 + random.below(2048));
    const at = random.chance(0.55) ? granules.take(lengthBytes) : -2;
    if (at === -1) refused++;
    if (at >= 0) {
      const range = { at, lengthBytes };
      const places = owner.subarray(at / GRANULE_BYTES, Math.ceil((at + lengthBytes) / GRANULE_BYTES));
      assert(at + lengthBytes <= DATA_BYTES && places.every((value) => value === -1), `step ${step}: ${at} was free`);
      fill(range, step);
      taken.push(range);
    } else if (taken.length > 0) {
      const [range] = taken.splice(random.below(taken.length), 1);
      fill(range!, -1);
      granules.give(range!.at, range!.lengthBytes);
    }
  }
  assert(refused > 100, "it was full at times");
  for (const { at, lengthBytes } of taken) granules.give(at, lengthBytes);
  assertEquals(granules.take(DATA_BYTES), 0);
  assertEquals(granules.take(512), -1);
});

Deno.test("a place that was given back is the next one to be taken", () => {
  const granules = new Granules();
  const places = Array.from({ length: 4 }, () => granules.take(8192));
  granules.give(places[1]!, 8192);
  assertEquals([granules.take(4096), granules.take(4096), granules.take(4096)], [8192, 12_288, 32_768]);
});
