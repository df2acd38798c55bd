/**
 * The bench's statistics: medians, ratios and spreads, with few values and with none.
 */

import { assertEquals } from "@std/assert";
import { median, ratio, spread } from "../../bench/statistics.ts";

Deno.test("the median is the middle value, whatever their order, and leaves them in place", () => {
  const values = [30, 10, 1000];
  assertEquals([median(values), median([4, 1, 2, 3]), median([7])], [30, 2.5, 7]);
  assertEquals(values, [30, 10, 1000]);
  assertEquals(median([]), undefined);
});

Deno.test("a ratio is undefined unless both values are known", () => {
  assertEquals([ratio(6, 3), ratio(0, 3)], [2, 0]);
  assertEquals([ratio(undefined, 3), ratio(6, undefined), ratio(6, 0)], [undefined, undefined, undefined]);
});

Deno.test("the spread is half the distance of the quartiles, as a share of the median", () => {
  assertEquals(spread([100, 100, 100]), 0);
  assertEquals(spread([90, 100, 110]), 0.05);
  assertEquals([spread([5]), spread([]), spread([0])], [0, undefined, undefined]);
});
