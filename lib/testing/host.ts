/**
 * A simulated host for tests: a machine, its xenstore and its guests, on which the real backend serves real images. No
 * Xen is needed, and nothing outside the process is touched but the images.
 */

import { attachOn, type AttachOptions } from "../attach.ts";
import type { AttachedDisk } from "../attached_disk.ts";
import { XenblkError } from "../errors.ts";
import type { HostPlatform } from "../host_platform.ts";
import type { DomId } from "../hypervisor.ts";
import { createMachine } from "../sim/machine.ts";
import { destroyDomain, openSimulatedPlatform } from "../sim/platform.ts";
import { SimulatedStore } from "../sim/xenstore.ts";
import { Guest, type GuestOptions } from "./guest.ts";

const DOM0 = 0 as DomId;

/** A host to be made: how large it is. */
export interface TestHostOptions {
  /** Memory of the machine, in bytes. It costs nothing until it is used. Default 256 MiB. */
  readonly memoryBytes?: number;
  /** Domains, domain 0 among them. Default 8. */
  readonly domains?: number;
  /** Grant references of each domain. Default 16384. */
  readonly grantsPerDomain?: number;
}

/**
 * A simulated host. Disposing it ends what runs on it, guests last, and rejects with what could not be ended in order.
 */
export class TestHost implements AsyncDisposable {
  /** The machine: memory, grants and event channels of all domains. */
  readonly machine: SharedArrayBuffer;
  /** Its domain 0, as a program that serves disks has it. */
  readonly platform: HostPlatform;
  readonly #store = new SimulatedStore();
  readonly #domains: number;
  readonly #guests = new Map<number, Guest>();
  readonly #disks = new Set<AttachedDisk>();

  /** Made by {@linkcode testHost}. */
  constructor(options: TestHostOptions) {
    this.machine = createMachine(options);
    this.#domains = options.domains ?? 8;
    this.platform = Object.assign(openSimulatedPlatform(this.machine, DOM0), {
      openXenstore: () => this.#store.connect(DOM0),
    });
  }

  /** The guests that run. */
  get guests(): readonly Guest[] {
    return [...this.#guests.values()];
  }

  /** Starts a guest, as a toolstack creates a domain. Rejects with {@linkcode XenblkError} if there is no room for it. */
  startGuest(options: GuestOptions = {}): Promise<Guest> {
    const free = Array.from({ length: this.#domains - 1 }, (_, i) => i + 1).find((domid) => !this.#guests.has(domid));
    const domid = options.domid ?? free;
    if (domid === undefined || this.#guests.has(domid) || !(domid > 0 && domid < this.#domains)) {
      const what = domid === undefined ? "another guest" : `domain ${domid}`;
      return Promise.reject(
        new XenblkError(
          `Cannot start ${what}: the host has room for the domains 1 to ${this.#domains - 1}, each once`,
          {
            kind: "usage",
            remedy: "give testHost more domains",
          },
        ),
      );
    }
    this.#store.createGuest(domid as DomId, options.name);
    const guest = new Guest({
      machine: this.machine,
      domid: domid as DomId,
      options,
      connect: () => this.#store.connect(domid as DomId),
      toolstack: () => this.#store.connect(DOM0),
      crashed: () => {
        this.#guests.delete(domid);
        destroyDomain(this.machine, domid as DomId);
        this.#store.releaseDomain(domid as DomId);
      },
    });
    this.#guests.set(domid, guest);
    return Promise.resolve(guest);
  }

  /**
   * Gives a guest a disk and serves it in this process: the library's `attach` on this host, with the same options.
   * Resolves once the guest's driver has connected, so `autoconnect` must not be false, or `connect` be called meanwhile.
   */
  async attach(options: AttachOptions): Promise<AttachedDisk> {
    const disk = await attachOn(this.platform, options);
    this.#disks.add(disk);
    void disk.ended.then(({ reason }) => reason === "closed" ? this.#disks.delete(disk) : false);
    return disk;
  }

  /** Ends what runs on it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await using undo = new AsyncDisposableStack();
    undo.defer(() => this.guests.forEach((guest) => guest.crash()));
    for (const disk of this.#disks) undo.use(disk);
  }
}

/** Makes a simulated host. Rejects with {@linkcode XenblkError} if there is not enough memory. */
export function testHost(options: TestHostOptions = {}): Promise<TestHost> {
  try {
    return Promise.resolve(new TestHost(options));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return Promise.reject(
      new XenblkError("Cannot simulate a host: there is not that much memory", {
        cause: error,
        remedy: "give it a smaller memoryBytes",
      }),
    );
  }
}
