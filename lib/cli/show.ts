/**
 * `xenblk show DOMAIN VDEV`: shows one disk in detail, whichever backend serves it.
 */

import { ownDomain } from "../backend/kind.ts";
import { percentileNs } from "../figures/latency.ts";
import type { LatencyHistogram } from "../figures/figures.ts";
import { SECTOR_BYTES } from "../units.ts";
import { formatSize } from "../sizes.ts";
import { findDisk } from "../toolstack/detach.ts";
import { type DeviceDetails, showDevice } from "../toolstack/show.ts";
import { backendPath } from "../xenbus/paths.ts";
import { parseVdev } from "../xenbus/vdev.ts";
import { retryConflicts } from "../xenstore.ts";
import { limitTexts, type LiveMember, liveMember } from "./live.ts";
import { measureLive, type RateMembers, rateMembers, unattendedHint } from "./live_rates.ts";
import { flag } from "./options.ts";
import { renderFields } from "./table.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const show = defineVerb({
  name: "show",
  summary: "Show one disk in detail",
  description:
    "Shows what xenstore holds about the disk: what the toolstack asked for, what the backend offers, and which rings " +
    "the guest has set up. It works for disks of other backends too. If a process of xenblk serves the disk, it also shows " +
    "what that process says: its errors, what it waits for, what the disk did since the process began, and rates over a " +
    "short time. docs/figures.md names them all.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
  ],
  options: { "json": flag("Print JSON", "J") },
  permissions: "--allow-ffi --allow-env; for what the serving process says also --allow-net, and --allow-read and " +
    "--allow-write of /run/xenblk.",
  examples: ["xenblk show web xvda", "xenblk show 5 51712 --json"],
  async run({ host, signals, output, inform }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const { device } = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const shown = await retryConflicts(() => showDevice(store, device), { signal: signals.signal });
    const measured = await measureLive(signals.signal, inform);
    const served = measured.live.get(backendPath(device));
    const hint = unattendedHint(shown, measured, ownDomain(store));
    const details: LiveDetails = { ...shown, ...liveMember(served), ...rateMembers(served), ...hint };
    if (options.json) output.json(details);
    else output.data(renderDetails(details, output.columns));
    return 0;
  },
});

/** A disk in detail, and what its process says. */
type LiveDetails = DeviceDetails & Partial<RateMembers> & { readonly live?: LiveMember };

/** The disk as lines of names and values. A missing value has no line. */
export function renderDetails(disk: LiveDetails, terminalColumns = Infinity): string {
  const { error, hint, frontendError, offer, live } = disk;
  const fields: [string, string | undefined][] = [
    ["disk", `${disk.name} (${disk.vdev})`],
    ["guest", `${disk.domainName === undefined ? "" : `${disk.domainName}, `}domain ${disk.frontendDomain}`],
    ["image", disk.params],
    ["access", `${disk.readOnly ? "read-only" : "read and write"}${disk.cdrom ? ", CD-ROM" : ""}`],
    ["size", sizeText(disk)],
    ["backend", `${disk.backendState}${disk.online ? "" : ", to be removed"}: ${disk.backendPath}`],
    ["served by", live && `process ${live.pid} (xenblk ${live.verb}, version ${live.version})`],
    ["weight", live && String(live.weight)],
    ["iops limit", live?.limits && limitTexts(live.limits).iops],
    ["bytes limit", live?.limits && limitTexts(live.limits).bytes],
    ["waits for", live?.waitsFor?.join("; ")],
    ["error", error ?? live?.error],
    ["writes", live?.latched ? "refused: a flush has failed; attach the disk again" : undefined],
    ["hint", hint],
    ["frontend", `${disk.frontendState}: ${disk.frontendPath}`],
    ["protocol", disk.protocol],
    ["rings", ringsText(disk)],
    ["reactors", live?.reactors?.join(", ")],
    ["ring error", frontendError],
    ["offered", offer === undefined ? undefined : offerText(disk, offer)],
    ...figureFields(disk),
  ];
  const known = fields.flatMap(([name, value]) => value === undefined ? [] : [[name, value] as const]);
  return renderFields(known, terminalColumns);
}

/** What the disk did since its process began, and does now. */
function figureFields({ stats, rates }: Partial<RateMembers>): [string, string | undefined][] {
  if (stats === undefined) return [];
  const { latency } = stats;
  const operation = (count: number, bytes: number, perSecond: number, kb: number, times: LatencyHistogram): string =>
    `${count}, ${formatAmount(bytes)}; now ${perSecond.toFixed(1)}/s, ${kb.toFixed(1)} kB/s${timesText(times)}`;
  return [
    ["reads", operation(stats.rd_req, stats.rd_bytes, rates?.["r/s"] ?? 0, rates?.["rkB/s"] ?? 0, latency.read)],
    ["writes", operation(stats.wr_req, stats.wr_bytes, rates?.["w/s"] ?? 0, rates?.["wkB/s"] ?? 0, latency.write)],
    ["flushes", `${stats.f_req}${timesText(latency.flush)}`],
    ["discards", stats.ds_req === 0 ? undefined : `${stats.ds_req}${timesText(latency.discard)}`],
    [
      "in flight",
      `${stats.in_flight}; now ${(rates?.["aqu-sz"] ?? 0).toFixed(2)} on average, ${
        (rates?.util ?? 0).toFixed(0)
      } % of the time`,
    ],
    ["failed", stats.errs === 0 ? undefined : `${stats.errs} requests`],
  ];
}

function timesText(times: LatencyHistogram): string {
  if (times.count === 0) return "";
  const [p50, p99] = [0.5, 0.99].map((share) => (percentileNs(times, share) / 1e6).toFixed(3));
  return `; took ${p50} ms (p50), ${p99} ms (p99), ${(times.max_ns / 1e6).toFixed(3)} ms at most`;
}

function formatAmount(bytes: number): string {
  return bytes < 2 ** 20 ? `${(bytes / 2 ** 10).toFixed(0)} KiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}

function sizeText({ sectors, logicalSectorBytes, physicalSectorBytes }: DeviceDetails): string | undefined {
  if (sectors === undefined) return undefined;
  const size = `${formatSize(sectors * SECTOR_BYTES)}, ${sectors} sectors`;
  if (logicalSectorBytes === undefined) return size;
  const physical = physicalSectorBytes === undefined ? "" : ` (physical ${physicalSectorBytes})`;
  return `${size}; logical sectors of ${logicalSectorBytes} bytes${physical}`;
}

function ringsText({ rings, offer, frontendPersistent }: DeviceDetails): string | undefined {
  if (rings === undefined) return undefined;
  const pages = rings[0]?.ringRefs.length ?? 0;
  const ports = rings.map(({ eventChannel }) => eventChannel).join(", ");
  const grants = offer?.persistent && frontendPersistent ? ", grants reused" : "";
  return `${rings.length} of ${pages} page${pages === 1 ? "" : "s"}, event channel ${ports}${grants}`;
}

function offerText({ directIoSafe }: DeviceDetails, offer: Offer): string {
  const { maxQueues, maxRingPageOrder, maxIndirectSegments, discard } = offer;
  const features = [
    `${maxQueues} ring${maxQueues === 1 ? "" : "s"} of up to ${2 ** maxRingPageOrder} pages`,
    maxIndirectSegments > 0 ? `indirect requests of ${maxIndirectSegments} segments` : "",
    offer.flushCache ? "flushes" : "",
    offer.barrier ? "barriers" : "",
    discard === undefined ? "" : `discards of ${discard.granularityBytes} bytes${discard.secure ? ", secure" : ""}`,
    offer.persistent ? "persistent grants" : "",
    directIoSafe ? "direct I/O safe" : "",
  ];
  return features.filter((feature) => feature !== "").join(", ");
}

type Offer = NonNullable<DeviceDetails["offer"]>;
