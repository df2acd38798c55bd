/**
 * A simulated guest: its domain, its driver that connects to disks as they appear, and the drives that a program uses.
 */

import type { AbiName } from "../blkif/abi.ts";
import { XenblkError } from "../errors.ts";
import type { LoadOutcome } from "../guest/load_types.ts";
import type { DomId, Platform, Xenstore } from "../hypervisor.ts";
import { openSimulatedPlatform } from "../sim/platform.ts";
import { attachDevice } from "../toolstack/attach.ts";
import { detachDevice, type DetachOptions } from "../toolstack/detach.ts";
import { waitFor } from "../toolstack/wait.ts";
import { type DeviceAddress, frontendPath } from "../xenbus/paths.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { Drive, type DriveOptions } from "./drive.ts";
import type { LoadOptions } from "./drive_load.ts";
import type { HostUse } from "./idle_end.ts";

/** Longest wait for a disk's nodes. */
const PATIENCE_MS = 60_000;

/** The guests' ABIs by the names of their machines. */
const ABI_OF: Readonly<Record<GuestAbi, AbiName>> = {
  "x86_64": "x86_64-abi",
  "x86_32": "x86_32-abi",
  "arm": "arm-abi",
};

/** The machine that a guest is. */
export type GuestAbi = "x86_64" | "x86_32" | "arm";

/** A guest to be started. */
export interface GuestOptions {
  /** Decides the layout of its rings. Default `x86_64`. */
  readonly abi?: GuestAbi;
  /** Default `guest-` and the domid. */
  readonly name?: string;
  /** Default the first free one, from 1 on. */
  readonly domid?: number;
  /** Connect to each disk as it appears, as a booted kernel does. Default true; else `connect` does. */
  readonly autoconnect?: boolean;
  /** The rings that its driver asks for where `connect` says nothing else. Default one ring of one page. */
  readonly drive?: DriveOptions;
}

/** A disk for {@linkcode Guest.addDisk}. */
export interface DiskOptions {
  /** The image as the node `params` names it: a path, `format:target` or a URI. */
  readonly image: string;
  /** Default the first free one. */
  readonly vdev?: string;
  /** The guest must not write. Default false. */
  readonly readOnly?: boolean;
  /** Others may write at the same time. Default false. */
  readonly shared?: boolean;
  /** A removable CD-ROM. Default false. */
  readonly cdrom?: boolean;
  /** The kind of backend that is to serve it. Default `vbd3`. */
  readonly kind?: string;
}

/** A disk whose nodes a toolstack wrote. */
export interface ToolstackDisk {
  /** Kind, guest and virtual device number. */
  readonly address: DeviceAddress;
  /** Name of the virtual device, such as `xvda`. */
  readonly vdev: string;
  /** Asks guest and backend to close it, and removes its nodes. Default time limit a minute. */
  detach(options?: Partial<DetachOptions>): Promise<void>;
}

/** What a guest is made of. */
export interface GuestParts {
  /** The simulated machine. */
  readonly machine: SharedArrayBuffer;
  /** Its domain. */
  readonly domid: DomId;
  /** As given to `startGuest`. */
  readonly options: GuestOptions;
  /** A connection of its own; throws while the store is lost. */
  readonly connect: () => Xenstore;
  /** A connection of the toolstack. */
  readonly toolstack: () => Xenstore;
  /** Notes that the host is used. */
  readonly use: Pick<HostUse, "used" | "call">;
  /** A toolstack gives it this image. */
  readonly imageAdded: (image: string) => Promise<void>;
  /** Its domain ends. */
  readonly crashed: () => void;
}

/** A running guest. It ends with its host. */
export class Guest {
  /** Its domain id. */
  readonly domid: number;
  /** Its name. */
  readonly name: string;
  readonly #parts: GuestParts;
  readonly #platform: Platform;
  #store: Xenstore;
  /** By virtual device number. */
  readonly #drives = new Map<number, Drive>();
  readonly #connecting = new Map<number, Promise<Drive>>();
  #over = false;

  /** Started by the host. */
  constructor(parts: GuestParts) {
    this.#parts = parts;
    this.domid = parts.domid;
    this.name = parts.options.name ?? `guest-${parts.domid}`;
    this.#platform = openSimulatedPlatform(parts.machine, parts.domid);
    this.#store = parts.connect();
    this.#followStore();
  }

  /** Whether it has not crashed. */
  get running(): boolean {
    return !this.#over;
  }

  /** The disks that are connected. */
  get drives(): readonly Drive[] {
    return [...this.#drives.values()];
  }

  /** Writes the nodes of a disk as libxl does; a service of its kind serves it. */
  addDisk({ image, readOnly = false, cdrom = false, kind = "vbd3", ...rest }: DiskOptions): ToolstackDisk {
    using store = this.#parts.toolstack();
    const { domid: domain, toolstack } = this.#parts;
    void this.#parts.imageAdded(image).catch(() => {}); // the backend says what is wrong with it
    const request = { domain, backendDomain: 0 as DomId, kind, params: image, readOnly, cdrom, ...rest };
    const address = attachDevice(store, request);
    return {
      address,
      vdev: formatVdev(address.vdev),
      detach: async (options = {}) => {
        using store = toolstack();
        await detachDevice(store, address, { timeoutMs: PATIENCE_MS, ...options });
      },
    };
  }

  /**
   * The drive of a disk: waits for the disk's nodes, and until its driver has connected. Without a `vdev`, the guest's
   * only disk. Rejects with {@linkcode XenblkError}: `timeout`, `failed`, or `usage` for `options` where the driver has
   * connected by itself.
   */
  async connect(vdev?: string, options?: DriveOptions): Promise<Drive> {
    using _call = this.#parts.use.call();
    const number = vdev === undefined ? await this.#onlyDisk() : parseVdev(vdev);
    const known = this.#drives.get(number) ?? this.#connecting.get(number);
    if (known === undefined) return await this.#open(number, options);
    if (options === undefined) return await known;
    throw new XenblkError(`Cannot choose the rings of ${formatVdev(number)}: the driver of ${this.name} has them`, {
      kind: "usage",
      remedy: "give them to startGuest, or start the guest with autoconnect: false",
    });
  }

  /** The same as the load of the drive of `vdev`, or of the guest's only disk. */
  async load(options: LoadOptions & { readonly vdev?: string } = {}): Promise<LoadOutcome> {
    const { vdev, ...load } = options;
    return await (await this.connect(vdev)).load(load);
  }

  /** xenstore is there again after it was lost: the guest goes on with a new connection. */
  storeRestored(): void {
    if (this.#over) return;
    this.#store = this.#parts.connect();
    for (const drive of this.drives) drive.useStore(this.#store);
    this.#followStore();
  }

  /** The guest's sudden end: nothing is closed, and what is in flight is never answered. */
  crash(): void {
    if (this.#over) return;
    this.#over = true;
    for (const drive of this.drives) drive.drop();
    this.#store[Symbol.dispose]();
    this.#parts.crashed();
  }

  #followStore(): void {
    if (this.#parts.options.autoconnect ?? true) void this.#connectAll();
  }

  async #onlyDisk(): Promise<number> {
    const path = "device/vbd";
    const look = (): string[] | undefined => {
      const disks = this.#store.list(path) ?? [];
      return disks.length > 0 ? disks : undefined;
    };
    const disks = await waitFor(this.#store, [path], look, { timeoutMs: PATIENCE_MS });
    if (disks?.length === 1) return Number(disks[0]);
    const why = disks === undefined ? "it has no disk" : `it has ${disks.length}: ${disks.map(Number).map(formatVdev)}`;
    throw new XenblkError(`Cannot find the one disk of ${this.name}: ${why}`, { remedy: "name the disk" });
  }

  #open(vdev: number, options?: DriveOptions): Promise<Drive> {
    const opening = this.#connectTo(vdev, options).finally(() => this.#connecting.delete(vdev));
    opening.catch(() => {});
    this.#connecting.set(vdev, opening);
    return opening;
  }

  async #connectTo(vdev: number, options = this.#parts.options.drive ?? {}): Promise<Drive> {
    const { machine, domid: frontendDomain } = this.#parts;
    const path = frontendPath({ frontendDomain, vdev });
    const node = `${path}/backend`;
    const found = await waitFor(this.#store, [node], () => this.#store.read(node), { timeoutMs: PATIENCE_MS });
    if (found === undefined) {
      throw new XenblkError(`Cannot connect ${formatVdev(vdev)}: ${this.name} has no such disk`, {
        kind: "timeout",
        remedy: "attach one with host.attach, or add its nodes with guest.addDisk",
      });
    }
    const drive = await Drive.connect({
      machine,
      platform: this.#platform,
      store: this.#store,
      path,
      vdev: formatVdev(vdev),
      abi: ABI_OF[this.#parts.options.abi ?? "x86_64"],
      options,
      used: () => this.#parts.use.used(),
      ended: (drive) => {
        if (this.#drives.get(vdev) === drive) this.#drives.delete(vdev);
      },
    });
    this.#drives.set(vdev, drive);
    return drive;
  }

  /** Connects to disks as their nodes appear; each once, as long as they stay. */
  async #connectAll(): Promise<void> {
    const seen = new Set<number>();
    using watch = this.#store.watch("device/vbd");
    for await (const _path of watch) {
      if (this.#over) return;
      const there = (this.#store.list("device/vbd") ?? []).map(Number);
      for (const vdev of seen) if (!there.includes(vdev)) seen.delete(vdev);
      for (const vdev of there) {
        if (seen.has(vdev) || this.#connecting.has(vdev) || this.#drives.has(vdev)) continue;
        seen.add(vdev);
        void this.#open(vdev);
      }
    }
  }
}
