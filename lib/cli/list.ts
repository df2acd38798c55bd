/**
 * `xenblk list [DOMAIN]`: shows the disks in xenstore, whichever backends serve them.
 */

import { SECTOR_BYTES } from "../units.ts";
import { formatSize } from "../sizes.ts";
import { type DeviceListing, listDevicesUntil, resolveGuest } from "../toolstack/list.ts";
import { flag } from "./options.ts";
import { renderTable } from "./table.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const list = defineVerb({
  name: "list",
  summary: "Show the disks of a guest, or of all guests",
  description: "Shows every disk in xenstore, including disks of other backends.",
  operands: [{ name: "DOMAIN", help: "the guest: a name, UUID or domid; default: all guests", required: false }],
  options: {
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions: "--allow-ffi --allow-env.",
  examples: ["xenblk list", "xenblk list web --json"],
  async run({ host, signals, output }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const domain = operands["domain"];
    const guest = domain === undefined ? undefined : resolveGuest(store, domain).domain;
    const devices = await listDevicesUntil(signals.signal, store, guest);
    if (options.json) output.json(devices);
    else output.data(renderDevices(devices, !options["no-headings"], output.columns));
    return 0;
  },
});

/** The disks as a table; the error of a disk, or a hint, is on its own line below it. */
function renderDevices(devices: readonly DeviceListing[], headings: boolean, terminalColumns: number): string {
  const columns = [
    { heading: "DOMAIN", align: "right" },
    { heading: "NAME", cut: "end" },
    { heading: "VDEV" },
    { heading: "KIND", leaveOut: 2 },
    { heading: "MODE", leaveOut: 1 },
    { heading: "SIZE", align: "right" },
    { heading: "BACKEND" },
    { heading: "FRONTEND", leaveOut: 3 },
    { heading: "IMAGE", cut: "start" },
  ] as const;
  const rows = devices.flatMap((device) => {
    const row = [
      String(device.frontendDomain),
      device.domainName ?? "-",
      device.name,
      device.kind,
      device.readOnly ? "r" : "w",
      device.sectors === undefined ? "-" : formatSize(device.sectors * SECTOR_BYTES),
      device.backendState,
      device.frontendState,
      device.params ?? "-",
    ];
    const note = device.error === undefined ? device.hint && `hint: ${device.hint}` : `error: ${device.error}`;
    return note === undefined ? [row] : [row, [...Array(8).fill(""), note]];
  });
  return renderTable(columns, rows, headings, terminalColumns);
}
