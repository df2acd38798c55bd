/**
 * What `attach` reports about a disk that another program serves. The verb as a whole is tested in native_verbs_test.ts
 * and in tests/native/serve/attach_test.ts.
 */

import { assertEquals } from "@std/assert";
import { servedElsewhere } from "../../lib/cli/attach.ts";

Deno.test("a disk that another backend serves is reported with what to do", () => {
  assertEquals(
    servedElsewhere("qdisk"),
    "Another backend of kind qdisk serves the disk, so the options given here have no effect; " +
      "end that backend, or attach with another --kind",
  );
});
