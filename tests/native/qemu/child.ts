/**
 * A process of ours with one disk in a storage daemon: opens it, says so in a line of JSON, and waits for its end. The
 * arguments: the rig's folder, the image, the device's number.
 */

import { errorText } from "../../../lib/errors.ts";
import { DaemonRig } from "./rig.ts";

const [folder, image, vdev] = Deno.args as [string, string, string];
const rig = new DaemonRig(folder);
const line = await rig.daemons().open(rig.request(image, Number(vdev))).then(
  ({ description }) => ({ description, log: rig.log.all }),
  (error) => ({ error: errorText(error), log: rig.log.all }),
);
await Deno.stdout.write(new TextEncoder().encode(`${JSON.stringify(line)}\n`));
if ("error" in line) Deno.exit(1);
await new Promise((resolve) => setTimeout(resolve, 600_000));
