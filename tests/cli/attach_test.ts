/**
 * What `attach` says of a disk that somebody else serves. The verb as a whole is in native_verbs_test.ts and
 * tests/native/serve/attach_test.ts.
 */

import { assertEquals } from "@std/assert";
import { servedElsewhere } from "../../lib/cli/attach.ts";

Deno.test("a disk that this process does not serve is told with what to do; one that it serves is no news", () => {
  assertEquals(
    servedElsewhere("qdisk", [{ connected: false }]),
    "Another backend of kind qdisk serves the disk, so the options given here have no effect; " +
      "end that one, or attach with another --kind",
  );
  assertEquals(servedElsewhere("vbd3", [{ connected: true }]), undefined);
});
