/**
 * What `attach` reports about a disk that another program serves, and when a thread of its own dies; what becomes of a
 * disk that it cannot tell of. The verb as a whole is tested in native_verbs_test.ts and in
 * tests/native/serve/attach_test.ts.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { attachOn } from "../../lib/attach.ts";
import { XenblkError } from "../../lib/errors.ts";
import { died, orClose, servedElsewhere } from "../../lib/cli/attach.ts";
import { PATIENCE_MS, SimulatedHost } from "../library/host.ts";

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

Deno.test("a disk that was connected and cannot be told of is detached: nobody would serve it", async () => {
  using host = new SimulatedHost();
  const guest = host.guest("xvda");
  const before = host.holdings();
  const { platform, ...options } = host.options("memory:1M");
  const [disk] = await Promise.all([attachOn(platform, { ...options, vdev: "xvda" }), guest.connect()]);
  const lost = (): never => {
    throw new XenblkError("Cannot ask xenstore: the connection was lost");
  };
  await assertRejects(
    () => orClose(disk, { leave: "detached", timeoutMs: PATIENCE_MS }, lost),
    XenblkError,
    "was lost",
  );
  assertEquals([(await disk.ended).reason, host.holdings()], ["closed", before]);
});
