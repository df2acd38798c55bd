/**
 * A process of ours that dies at a step of a snapshot or a merge, while a guest writes. The arguments: the rig's folder,
 * the image, and the case as JSON. It keeps the number of writes that were answered in the file `answered`.
 */

import { EngineRig } from "./engine_rig.ts";
import { type DeathCase, workUntil, Writer } from "./overlay_rig.ts";

const [folder, image, json] = Deno.args as [string, string, string];
const death: DeathCase = JSON.parse(json);
const rig = new EngineRig(undefined, undefined, folder);
const disk = await rig.open(image);
using answered = Deno.openSync(`${folder}/answered`, { write: true, create: true });
const writer = new Writer(disk, (count) => {
  answered.seekSync(0, Deno.SeekMode.Start);
  answered.writeSync(new Uint8Array(new Uint32Array([count]).buffer));
});
writer.start();
await writer.more(100);
await workUntil(death, disk, async () => {
  if (death.victim === "both") await rig.killDaemon();
  Deno.kill(Deno.pid, "SIGKILL");
  await new Promise(() => {});
});
Deno.exit(1); // it should have died
