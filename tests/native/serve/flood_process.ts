/**
 * A process of a guest that floods xenstore below its own frontend directory: `flood_process.ts
 * flaps|states|events PATH COUNT`. `flaps` writes random states, sometimes with the nodes of a ring that cannot be
 * mapped; `states` writes random states only. `events` writes other nodes. flood_test.ts and the table in isolation/
 * check the effect on the backend.
 */

import { openNativePlatform } from "../../../ffi/platform.ts";
import { Random } from "../../../lib/guest/random.ts";

const [kind, path, count] = Deno.args;
using store = openNativePlatform().openXenstore();
const random = new Random(Number(count));
for (let n = 0; n < Number(count); n++) {
  if (kind === "events") {
    store.write(`${path}/flood-${n % 16}`, String(n));
    continue;
  }
  if (kind === "flaps" && random.chance(0.1)) {
    store.write(`${path}/ring-ref`, String(random.next()));
    store.write(`${path}/event-channel`, String(random.between(1, 500)));
  }
  store.write(`${path}/state`, String(random.between(1, 6)));
}
Deno.exit(0);
