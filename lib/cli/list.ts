/**
 * `xenblk list [DOMAIN]`: shows the disks in xenstore, whichever backends serve them.
 */

import { liveDevices } from "../control/serving.ts";
import { SECTOR_BYTES } from "../units.ts";
import { formatSize } from "../sizes.ts";
import { type DeviceListing, listDevicesUntil, resolveGuest } from "../toolstack/list.ts";
import { type LiveMember, liveMember } from "./live.ts";
import { flag } from "./options.ts";
import { renderTable } from "./table.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const list = defineVerb({
  name: "list",
  summary: "Show the disks of a guest, or of all guests",
  description:
    "Shows every disk in xenstore, including disks of other backends; and for those that xenblk serves, what the " +
    "serving process says: its errors, and what it waits for.",
  operands: [{ name: "DOMAIN", help: "the guest: a name, UUID or domid; default: all guests", required: false }],
  options: {
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions: "--allow-ffi --allow-env; for what serving processes say also --allow-net, and --allow-read and " +
    "--allow-write of /run/xenblk.",
  examples: ["xenblk list", "xenblk list web --json"],
  async run({ host, signals, output }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const domain = operands["domain"];
    const guest = domain === undefined ? undefined : resolveGuest(store, domain).domain;
    const asked = liveDevices();
    const listed = await listDevicesUntil(signals.signal, store, guest);
    const live = await asked;
    const devices = listed.map((device) => ({ ...device, ...liveMember(live.get(device.backendPath)) }));
    if (options.json) output.json(devices);
    else output.data(renderDevices(devices, !options["no-headings"], output.columns));
    return 0;
  },
});

/** A disk, and what its process says. */
type LiveListing = DeviceListing & { readonly live?: LiveMember };

/** The disks as a table; the error of a disk, what it waits for, or a hint, is on its own line below it. */
function renderDevices(devices: readonly LiveListing[], headings: boolean, terminalColumns: number): string {
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
    const note = noteOf(device);
    return note === undefined ? [row] : [row, [...Array(8).fill(""), note]];
  });
  return renderTable(columns, rows, headings, terminalColumns);
}

function noteOf({ error, hint, live }: LiveListing): string | undefined {
  if (error !== undefined) return `error: ${error}`;
  if (live?.waitsFor !== undefined) return `waits for: ${live.waitsFor.join("; ")}`;
  return hint === undefined ? undefined : `hint: ${hint}`;
}
