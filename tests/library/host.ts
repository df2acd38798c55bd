/**
 * The testing kit's host as the tests of the library use it: one guest named `web`, whose drives connect when a test says
 * so, and a platform for the library's own `attach`.
 */

import type { AttachOptions } from "../../lib/attach.ts";
import type { LoadOutcome, LoadSpec } from "../../lib/guest/load_types.ts";
import type { HostPlatform } from "../../lib/host_platform.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { SILENT } from "../../lib/log.ts";
import type { ImageLocks } from "../../lib/storage/image/lock.ts";
import { type Drive, type DriveOptions, type Guest as KitGuest, type Holdings, TestHost } from "../../testing.ts";

export const GUEST = 5 as DomId;
/** More than any step takes. */
export const PATIENCE_MS = 60_000;

/** A machine, its xenstore and a guest named `web`. */
export class SimulatedHost implements Disposable {
  readonly platform: HostPlatform;
  readonly #host: TestHost;
  readonly #web: KitGuest;

  /** `imageLocks` stand in for those that keep other processes from images. */
  constructor(imageLocks?: ImageLocks) {
    this.#host = new TestHost(imageLocks === undefined ? {} : { imageLocks });
    void this.#host.startGuest({ domid: GUEST, name: "web", autoconnect: false });
    this.#web = this.#host.guests[0]!;
    this.platform = this.#host.platform;
    // The directory that outlives a disk.
    using store = this.platform.openXenstore();
    store.makeDirectory(`/libxl/${GUEST}/device`);
  }

  /** What attaching needs beside the image: this host, the guest, and no log. */
  options(image: string): AttachOptions & { readonly platform: HostPlatform } {
    return { platform: this.platform, domain: "web", image, timeoutMs: PATIENCE_MS, workers: 1, logger: SILENT };
  }

  /** The guest's use of a disk. */
  guest(vdev: string, options?: DriveOptions): Guest {
    return new Guest(this.#web, vdev, options);
  }

  /** The guest's sudden end. */
  endGuest(): void {
    this.#web.crash();
  }

  /** All that attaching could leave behind: nodes, pages, grants, ports, locks. */
  holdings(): Holdings {
    return this.#host.holdings();
  }

  [Symbol.dispose](): void {
    this.endGuest();
    void this.#host[Symbol.asyncDispose]();
  }
}

/** A guest's use of one disk. */
export class Guest {
  readonly #guest: KitGuest;
  readonly #vdev: string;
  readonly #options: DriveOptions | undefined;
  #drive: Drive | undefined;

  constructor(guest: KitGuest, vdev: string, options?: DriveOptions) {
    this.#guest = guest;
    this.#vdev = vdev;
    this.#options = options;
  }

  /** The disk's size in sectors, as the guest knows it. */
  get sectors(): number {
    return this.#drive!.facts.sectors;
  }

  /** Resolves when the guest has closed the disk because its backend did. */
  get closed(): Promise<void> {
    return this.#drive!.closed;
  }

  /** Waits for the disk's nodes and connects. */
  async connect(): Promise<void> {
    this.#drive = await this.#guest.connect(this.#vdev, this.#options);
  }

  /** Makes requests; `sectors` is the size that the guest takes the disk to have, if not the right one. */
  async load({ readShare, area, ...spec }: Partial<LoadSpec>, sectors?: number): Promise<LoadOutcome> {
    return await this.#drive!.load({
      requests: 200,
      ...spec,
      ...(readShare === undefined ? {} : { mix: readShare }),
      ...(area === undefined ? {} : { area: { offset: area.firstSector * 512, length: area.sectors * 512 } }),
      ...(sectors === undefined ? {} : { sizeBytes: sectors * 512 }),
    });
  }
}
