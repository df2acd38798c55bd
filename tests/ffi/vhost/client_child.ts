/**
 * A process that is to be killed: connects to the export whose socket its argument names, and writes to it without end.
 * It reports on stdout that it writes.
 */

import { VhostRig } from "./daemon.ts";

using rig = new VhostRig();
await using device = await rig.connect(Deno.args[0]!);
using channel = await rig.channel(device, { depth: 32, bufferBytes: 65_536 });
for (let round = 0;; round++) {
  for (let tag = 0; tag < 32; tag++) channel.write(tag, tag * 65_536, [65_536]);
  channel.finish();
  if (round === 0) await Deno.stdout.write(new TextEncoder().encode("writing\n"));
}
