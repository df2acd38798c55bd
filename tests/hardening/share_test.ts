/**
 * How much of a reactor's time a guest can take from its neighbour by sending nothing but bad requests. The gate counts
 * requests; the long form (XENBLK_SOAK=1) measures CPU time over a million bad requests.
 */

import { assert, assertGreater, assertLess } from "@std/assert";
import { measureShare } from "./share.ts";

Deno.test("beside a ring full of bad requests a busy neighbour gets five times as many requests served", async () => {
  const { good, bad, logged } = await measureShare(3000, 2);
  assertGreater(good, 5 * bad);
  assertGreater(bad, 100, "the bad ones are answered too");
  assertLess(logged, 65_536);
});

if (Deno.env.get("XENBLK_SOAK") === "1") {
  Deno.test("a million bad requests: the neighbour keeps 80 % of its throughput, and little is logged", async () => {
    const { alone, beside, bad, logged } = await measureShare(1_000_000, 10);
    // deno-lint-ignore no-console -- a measurement is to be seen
    console.log(`alone ${alone.toFixed(0)}/s, beside ${bad} bad requests ${beside.toFixed(0)}/s, ${logged} B logged`);
    assertGreater(bad, 1_000_000);
    assert(beside / alone >= 0.8, `${(beside / alone).toFixed(3)} of its throughput`);
    assertLess(logged, 65_536);
  });
}
