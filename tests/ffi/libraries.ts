/**
 * Imported for its effect: opens the C libraries that a thread opens at first use and never closes. The leak check of
 * Deno.test would take one that is opened during a test for a forgotten library.
 */

import { libc } from "../../ffi/linux/libc.ts";
import { ringRefusal } from "../../ffi/uring/setup.ts";
import { UringRig } from "../storage/rig.ts";

libc();
if (ringRefusal() === undefined) {
  using rig = new UringRig();
  rig.parker.submit();
}
