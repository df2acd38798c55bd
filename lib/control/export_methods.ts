/**
 * The methods of the control socket that export a disk at one instant over NBD, and end that. An export belongs to the
 * connection that has begun it, unless it is to stay.
 */

import { errorText, XenblkError } from "../errors.ts";
import { endsWithin } from "../within.ts";
import { socketPathBelow } from "../socket_path.ts";
import { parseSize } from "../sizes.ts";
import type { Pause } from "../jobs/visits.ts";
import type { Disk, DiskDaemon } from "../storage/disk.ts";
import type { DiskExport, ExportEnd } from "../storage/disk_export.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import type { Call } from "./connection.ts";
import { exportSocket } from "./directory.ts";
import { addressOf, type ControlledProcess, type Handlers } from "./methods.ts";
import { FLAG, object, readParams, TEXT, whole } from "./params.ts";
import type { ExportParams, Methods } from "./protocol.ts";
import type { Relay } from "./relay.ts";
import type { RelayAddress } from "./relay_order.ts";

const DEFAULT_SCRATCH_BYTES = parseSize("10G");
/** An empty image needs almost as much. */
const LEAST_SCRATCH_BYTES = parseSize("1M");
const SCRATCH_DIRECTORY = "/var/tmp";
/** How long an export may take to end after its client has gone. */
const CLOSING_MS = 2_500;

const EXPORT = {
  device: TEXT,
  socket: TEXT,
  listen: object({ hostname: TEXT, port: whole(0, 65_535) }),
  bitmap: TEXT,
  scratchDirectory: TEXT,
  scratchBytes: whole(LEAST_SCRATCH_BYTES, Number.MAX_SAFE_INTEGER),
  limitMs: whole(1, Number.MAX_SAFE_INTEGER),
  stays: FLAG,
} as const;
const DEVICE = { device: TEXT } as const;

/** An export, and where its readers connect. */
interface Exported {
  readonly view: DiskExport;
  readonly uri: string;
  /** Once nobody can connect any more. */
  readonly ended: Promise<ExportEnd>;
  /** See {@linkcode Visit.entered}. */
  readonly entered?: Pause;
}

/** Where the sockets are, and who hears of trouble. */
export interface ExportPlace {
  /** Of the control sockets: for its owner alone. */
  readonly directory: string;
  readonly warn: (line: string) => void;
}

/** The methods by name. */
export function exportMethods(process: ControlledProcess, place: ExportPlace): Handlers {
  const exports = new Exports(process, place);
  return {
    export: async (params, call) => {
      const wanted = readParams("export", EXPORT, params, ["device"]);
      return await exports.begin(wanted as ExportParams, call);
    },
    exportEnded: async (params, { signal }) => {
      const { device } = readParams("exportEnded", DEVICE, params, ["device"]);
      return await exports.ended(device, signal);
    },
    endExport: async (params) => {
      const { device } = readParams("endExport", DEVICE, params, ["device"]);
      await exports.end(device);
      return {};
    },
  };
}

/** The exports of one process. */
class Exports {
  readonly #process: ControlledProcess;
  readonly #place: ExportPlace;
  /** By the device's label; also while they begin. */
  readonly #all = new Map<string, Promise<Exported>>();
  /** How the last one of each device has ended: it may do so before anybody asks. */
  readonly #ends = new Map<string, ExportEnd>();

  constructor(process: ControlledProcess, place: ExportPlace) {
    this.#process = process;
    this.#place = place;
  }

  /** Begins one. */
  async begin(params: ExportParams, { signal }: Call): Promise<Methods["export"]["result"]> {
    const { device, stays = false } = params;
    const address = addressOf(this.#process.service, device);
    const disk = `${formatVdev(address.vdev)} of domain ${address.frontendDomain}`;
    if (this.#all.has(device)) {
      throw new XenblkError(`Cannot export ${disk}: it is exported already`, {
        remedy: "end that first: `xenblk export DOMAIN VDEV --end`",
      });
    }
    const beginning = this.#begin(params, address, disk);
    this.#all.set(device, beginning);
    try {
      const { view, uri, ended, entered } = await beginning;
      this.#ends.delete(device);
      void ended.then((how) => {
        this.#all.delete(device);
        this.#ends.set(device, how);
      });
      const leave = (): void => void view.close({ reason: "who has begun it is gone", failed: true });
      if (!stays && signal.aborted) leave();
      if (!stays) signal.addEventListener("abort", leave, { once: true });
      const pause = entered === undefined ? {} : { entered };
      return { uri, sizeBytes: view.sizeBytes, taken: view.taken.toISOString(), ...pause };
    } catch (error) {
      this.#all.delete(device);
      throw error;
    }
  }

  /** How it has ended, once it has, or how the last one has; the client may go away before. */
  async ended(device: string, signal: AbortSignal): Promise<ExportEnd> {
    const known = this.#all.has(device) ? undefined : this.#ends.get(device);
    if (known !== undefined) return known;
    const { ended } = await this.#present(device);
    const aborted = Promise.withResolvers<void>();
    if (signal.aborted) aborted.resolve();
    else signal.addEventListener("abort", () => aborted.resolve(), { once: true });
    // The end of its connection ends it, too, and that is waited for.
    const late = aborted.promise.then(() => endsWithin(ended, CLOSING_MS));
    if (await Promise.race([ended.then(() => true), late])) return await ended;
    throw signal.reason;
  }

  /** Ends one. */
  async end(device: string): Promise<void> {
    const { view, ended } = await this.#present(device);
    await view.close({ reason: "it was asked to end", failed: false });
    await ended;
  }

  async #present(device: string): Promise<Exported> {
    const found = this.#all.get(device);
    if (found !== undefined) return await found;
    throw new XenblkError(`Cannot find an export of ${device}: there is none`, { kind: "not-found" });
  }

  /** The disk is in its daemon for as long. */
  async #begin(params: ExportParams, address: DeviceAddress, disk: string): Promise<Exported> {
    await this.#process.visits?.settled(params.device);
    openDisk(this.#process, address, disk);
    const visit = await this.#process.visits?.enter(params.device, `export ${params.device}`);
    try {
      const exported = await this.#open(params, address, disk);
      void exported.ended.finally(() => visit?.[Symbol.dispose]());
      return { ...exported, ...(visit?.entered === undefined ? {} : { entered: visit.entered }) };
    } catch (error) {
      visit?.[Symbol.dispose]();
      throw error;
    }
  }

  async #open(params: ExportParams, address: DeviceAddress, disk: string): Promise<Exported> {
    const { device, bitmap, limitMs } = params;
    const { DiskExport } = await import("../storage/disk_export.ts");
    const { Relay } = await import("./relay.ts");
    const name = formatVdev(address.vdev);
    const view = await DiskExport.open(daemonOf(this.#process, address, disk), {
      disk,
      name,
      scratchDirectory: params.scratchDirectory ?? SCRATCH_DIRECTORY,
      scratchBytes: params.scratchBytes ?? DEFAULT_SCRATCH_BYTES,
      warn: this.#place.warn,
      ...(bitmap === undefined ? {} : { bitmap }),
      ...(limitMs === undefined ? {} : { limitMs }),
    });
    try {
      const order = { listen: this.#addressOf(params, device), target: view.socket };
      const relay = await Relay.start(order, `Cannot export ${disk}`);
      void relay.failed.then((reason) => view.close({ reason, failed: true }));
      const ended = endOf(view, relay);
      return { view, uri: uriOf(relay, name), ended };
    } catch (error) {
      await view.close({ reason: errorText(error), failed: true });
      throw error;
    }
  }

  #addressOf({ socket, listen }: ExportParams, device: string): RelayAddress {
    return listen ?? { path: socket ?? socketPathBelow(exportSocket(this.#place.directory, device)) };
  }
}

/** Readers lose their connections first. */
async function endOf(view: DiskExport, relay: Relay): Promise<ExportEnd> {
  const how = await view.ended;
  await relay[Symbol.asyncDispose]();
  return how;
}

/** See the NBD project's doc/uri.md. */
function uriOf({ address }: Relay, name: string): string {
  if ("path" in address) return `nbd+unix:///${name}?socket=${encodeURI(address.path)}`;
  const { hostname, port } = address;
  return `nbd://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}/${name}`;
}

/** Throws {@linkcode XenblkError} if the disk is not there, or its image has not what the guest sees. */
function openDisk({ service }: ControlledProcess, address: DeviceAddress, name: string): Disk {
  const disk = service.devices.heldBy(address)?.image?.disk;
  if (disk === undefined) {
    throw new XenblkError(`Cannot export ${name}: no image is open`, { remedy: "look at it with `xenblk show`" });
  }
  if (disk.imageReadOnly === true && !disk.properties.readOnly) {
    throw new XenblkError(`Cannot export ${name}: a filter keeps what the guest writes, so the image has none of it`, {
      remedy: "export it in the guest, or attach it without that filter",
    });
  }
  return disk;
}

/** The same; throws also if no storage daemon serves it. */
function daemonOf(process: ControlledProcess, address: DeviceAddress, name: string): DiskDaemon {
  const disk = openDisk(process, address, name);
  if (process.service.devices.find(address)?.isExchanging === true) {
    throw new XenblkError(`Cannot export ${name}: the disk gets another image now`, {
      remedy: "repeat it once that is over, see `xenblk show`",
    });
  }
  if (disk.daemon !== undefined) return disk.daemon;
  throw new XenblkError(`Cannot export ${name}: no storage daemon serves it: ${disk.description}`, {
    remedy: "attach an image file with --engine qemu; of a logical volume, take a snapshot of the volume (lvcreate -s)",
  });
}
