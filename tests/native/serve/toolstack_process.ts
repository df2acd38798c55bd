/**
 * The toolstack's actions in a process of domain 0 with the real xenstored: `attach` and `detach`, each with one JSON
 * argument. `attach` prints the device as JSON. backend.ts starts it.
 */

import { openNativePlatform } from "../../../ffi/platform.ts";
import { attachDevice } from "../../../lib/toolstack/attach.ts";
import { detachDevice } from "../../../lib/toolstack/detach.ts";

const [act, argument] = Deno.args;
using store = openNativePlatform().openXenstore();
const parsed = JSON.parse(argument!);
if (act === "attach") {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(attachDevice(store, parsed)));
} else {
  await detachDevice(store, parsed, { timeoutMs: 60_000 });
}
Deno.exit(0);
