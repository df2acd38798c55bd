/**
 * The histogram's percentiles are right to 3 % over nine decades, and it can be shared and added.
 */

import { assert, assertEquals } from "@std/assert";
import { Histogram, HISTOGRAM_BYTES } from "../lib/histogram.ts";

Deno.test("percentiles are within 3 % of the exact ones, at every scale", () => {
  for (const unit of [1, 10, 1000, 1e6, 1e9]) {
    const histogram = new Histogram();
    for (let i = 1; i <= 10_000; i++) histogram.record(i * unit);
    for (const share of [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1]) {
      const exact = share * 10_000 * unit;
      const found = histogram.percentile(share);
      assert(found >= exact && found <= exact * 1.0313 + 1, `${share} of ${unit}: ${found} for ${exact}`);
    }
    const { count, meanNs, minNs, maxNs } = histogram.summary();
    assertEquals([count, meanNs, minNs, maxNs], [10_000, 5000.5 * unit, unit, 10_000 * unit]);
  }
});

Deno.test("nothing recorded is all zeroes; a negative, a huge and a fractional duration are taken", () => {
  const histogram = new Histogram();
  assertEquals(Object.values(histogram.summary()), [0, 0, 0, 0, 0, 0, 0, 0]);
  for (const value of [-5, 0.5, 1e300]) histogram.record(value);
  assertEquals([histogram.count, histogram.percentile(0.3), histogram.summary().maxNs], [3, 1, 1e300]);
});

Deno.test("another view of the same memory sees what was recorded; histograms add up", () => {
  const buffer = new SharedArrayBuffer(HISTOGRAM_BYTES + 64);
  const [first, second] = [new Histogram(buffer, 64), new Histogram()];
  for (let i = 1; i <= 100; i++) first.record(i * 1000);
  for (let i = 101; i <= 200; i++) second.record(i * 1000);
  const seen = new Histogram(buffer, 64);
  assertEquals(seen.summary(), first.summary());
  seen.add(new Histogram());
  seen.add(second);
  assertEquals([seen.count, seen.summary().minNs, seen.summary().maxNs], [200, 1000, 200_000]);
  assert(Math.abs(seen.percentile(0.5) - 100_000) < 3200);
});
