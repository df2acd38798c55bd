/**
 * A process that opens a plugin's disk, says its process's number, and goes on until it is killed.
 */

import { PluginRig } from "./rig.ts";

await using rig = await PluginRig.start({ disk: "memory_disk.ts" });
await Deno.stdout.write(new TextEncoder().encode(`${rig.disk.pid}\n`));
await new Promise(() => {});
