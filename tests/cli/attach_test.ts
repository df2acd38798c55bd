/**
 * What `attach` reports about a disk that another program serves, and when a thread of its own dies. The verb as a whole is tested in native_verbs_test.ts
 * and in tests/native/serve/attach_test.ts.
 */

import { assertEquals } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { died, servedElsewhere } from "../../lib/cli/attach.ts";

Deno.test("a disk that another backend serves is reported with what to do", () => {
  assertEquals(
    servedElsewhere("qdisk"),
    "Another backend of kind qdisk serves the disk, so the options given here have no effect; " +
      "end that backend, or attach with another --kind",
  );
});

Deno.test("after the death of a thread the remedy is the verb that continues with the disk", () => {
  const error = new XenblkError("Cannot go on serving: a reactor died", { remedy: "start it again" });
  assertEquals(
    died(error, "qdisk").line,
    "Cannot go on serving: a reactor died; start `xenblk serve --kind qdisk`, which continues with the disk; " +
      "and report this defect",
  );
});
