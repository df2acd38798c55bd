/**
 * `xenblk detach DOMAIN VDEV`: detaches a disk from a guest, whichever backend serves it, and removes its nodes.
 */

import { deviceLabel } from "../backend/journals.ts";
import { detachDevice, findDisk } from "../toolstack/detach.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { TIMEOUT } from "./device_options.ts";
import { CALL_SLACK_MS, throughSocket } from "./through_socket.ts";
import { flag } from "./options.ts";
import { namedDisk } from "./disk_result.ts";
import { showWait } from "./progress.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const detach = defineVerb({
  name: "detach",
  summary: "Detach a disk from a guest",
  description: "Asks for the disk's removal, waits until the guest has closed it, and removes its nodes. If the " +
    "guest does not close it in time, the exit status is 4. The request stays in xenstore; run detach again to complete it. " +
    "Nodes that are left of a disk, also of a guest that has ended (give its domid), are removed too.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
  ],
  options: {
    force: flag("After the timeout, remove the nodes even if the guest still uses the disk: its I/O then fails", "f"),
    timeout: TIMEOUT,
    json: flag("Print the disk that was detached as JSON", "J"),
  },
  permissions:
    "--allow-ffi --allow-env; to ask the serving process also --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: ["xenblk detach web xvdb", "xenblk detach 5 xvdb --force --timeout 5"],
  async run({ host, signals, output, quiet, inform }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const { guest, device } = found;
    const timeoutMs = options.timeout * 1000;
    const { force, json } = options;
    const { signal } = signals;
    const name = formatVdev(device.vdev);
    const detaching = throughSocket(
      device,
      async (client) => {
        const params = { device: deviceLabel(device), timeoutMs, force };
        await client.call("detach", params, { timeoutMs: timeoutMs + CALL_SLACK_MS, signal });
      },
      () => detachDevice(store, device, { timeoutMs, force, signal }),
    );
    const what = `waiting for the guest to close ${name}`;
    await showWait({ output, quiet: quiet || json, what, timeoutMs }, detaching);
    if (json) output.json({ ...namedDisk(found), detached: true });
    else inform(`${name} of ${domainLabel(guest)} is detached`);
    return 0;
  },
});
