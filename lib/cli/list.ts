/**
 * `xenblk list [DOMAIN]`: shows the disks in xenstore, whichever backends serve them.
 */

import { ownDomain } from "../backend/kind.ts";
import type { DiskRates } from "../figures/rates.ts";
import { SECTOR_BYTES } from "../units.ts";
import { formatSize } from "../sizes.ts";
import { type DeviceListing, listDevicesUntil, resolveGuest } from "../toolstack/list.ts";
import { type LiveMember, liveMember } from "./live.ts";
import { measureLive, type RateMembers, rateMembers, unattendedHint } from "./live_rates.ts";
import { flag } from "./options.ts";
import { type Column, renderTable } from "./table.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const list = defineVerb({
  name: "list",
  summary: "Show the disks of a guest, or of all guests",
  description:
    "Shows every disk in xenstore, including disks of other backends; and for those that xenblk serves, what the " +
    "serving process says: its errors, what it waits for, and rates over a short time (see docs/figures.md).",
  operands: [{ name: "DOMAIN", help: "the guest: a name, UUID or domid; default: all guests", required: false }],
  options: {
    "jobs": flag("Show what is done on live disks beside their guests' requests, as `job list` does"),
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions: "--allow-ffi --allow-env; for what serving processes say also --allow-net, and --allow-read and " +
    "--allow-write of /run/xenblk.",
  examples: ["xenblk list", "xenblk list web --json", "xenblk list --jobs"],
  async run(context, options, operands): Promise<number> {
    const { host, signals, output, inform } = context;
    if (options.jobs) {
      const { showJobs } = await import("./job/list.ts");
      return await showJobs(context, options.json, !options["no-headings"]);
    }
    using store = (await host.openNativePlatform()).openXenstore();
    const domain = operands["domain"];
    const guest = domain === undefined ? undefined : resolveGuest(store, domain).domain;
    const measuring = measureLive(signals.signal, inform);
    const listed = await listDevicesUntil(signals.signal, store, guest);
    const measured = await measuring;
    const own = ownDomain(store);
    const devices = listed.map((device) => {
      const served = measured.live.get(device.backendPath);
      return { ...device, ...liveMember(served), ...rateMembers(served), ...unattendedHint(device, measured, own) };
    });
    if (options.json) output.json(devices);
    else output.data(renderDevices(devices, !options["no-headings"], output.columns));
    return 0;
  },
});

/** A disk, and what its process says. */
type LiveListing = DeviceListing & Partial<RateMembers> & { readonly live?: LiveMember };

/** The disks as a table; the error of a disk, what it waits for, or a hint, is on its own line below it. */
function renderDevices(devices: readonly LiveListing[], headings: boolean, terminalColumns: number): string {
  const anyRates = devices.some(({ rates }) => rates !== undefined);
  const columns: Column[] = [
    { heading: "DOMAIN", align: "right" },
    { heading: "NAME", cut: "end" },
    { heading: "VDEV" },
    { heading: "KIND", leaveOut: 2 },
    { heading: "MODE", leaveOut: 1 },
    { heading: "SIZE", align: "right" },
    { heading: "BACKEND" },
    { heading: "FRONTEND", leaveOut: 4 },
    ...(anyRates ? RATE_COLUMNS : []),
    { heading: "IMAGE", cut: "start" },
  ];
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
      ...(anyRates ? rateCells(device.rates) : []),
      device.params ?? "-",
    ];
    const note = noteOf(device);
    return note === undefined ? [row] : [row, [...Array(columns.length - 1).fill(""), note]];
  });
  return renderTable(columns, rows, headings, terminalColumns);
}

const RATE_COLUMNS: readonly Column[] = [
  { heading: "r/s", align: "right", leaveOut: 5 },
  { heading: "w/s", align: "right", leaveOut: 5 },
  { heading: "kB/s", align: "right", leaveOut: 3 },
  { heading: "%util", align: "right", leaveOut: 5 },
];

/** One for each of these columns. */
function rateCells(rates: DiskRates | undefined): string[] {
  if (rates === undefined) return RATE_COLUMNS.map(() => "-");
  return [rates["r/s"], rates["w/s"], rates["rkB/s"] + rates["wkB/s"], rates.util].map((rate) => rate.toFixed(0));
}

function noteOf({ error, hint, live }: LiveListing): string | undefined {
  if (error !== undefined) return `error: ${error}`;
  if (live?.waitsFor !== undefined) return `waits for: ${live.waitsFor.join("; ")}`;
  return hint === undefined ? undefined : `hint: ${hint}`;
}
