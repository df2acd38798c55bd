/**
 * What QEMU says when it cannot open or change an image becomes an error with what to do.
 */

import { assertEquals } from "@std/assert";
import { explainQmpError } from "../../../lib/storage/qemu/explain.ts";
import { QmpError } from "../../../lib/storage/qemu/qmp.ts";

Deno.test("QEMU's reasons get a remedy; a lock that another process holds is never to be switched off", () => {
  const cases: Record<string, string> = {
    'Failed to get "write" lock': "end the other use first: `fuser -v FILE` names it",
    "Failed to lock byte 100: No locks available": "its file system may have no locks: add locking=off by json:",
    "Failed to connect to 'h:10809': Connection refused": "check the server that has it",
    "Invalid password, cannot unlock any keyslot": "name the file that holds the right passphrase",
    "Something new": "try `qemu-img info` on it, which opens it in the same way",
  };
  for (const [description, remedy] of Object.entries(cases)) {
    const error = explainQmpError(
      "image qcow2:/a",
      new QmpError("blockdev-add", "d0-file", "GenericError", description),
    );
    assertEquals(error.line, `Cannot open image qcow2:/a: node d0-file: ${description}; ${remedy}`);
  }
});
