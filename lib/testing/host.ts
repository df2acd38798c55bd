/**
 * A simulated host for tests: a machine, its xenstore and its guests, on which the real backend serves real images. No
 * Xen is needed, and nothing outside the process is touched but the images.
 */

import { attachOn, type AttachOptions } from "../attach.ts";
import type { AttachedDisk } from "../attached_disk.ts";
import type { Clock } from "../clock.ts";
import { XenblkError } from "../errors.ts";
import { mustBeDisposed } from "../forgotten.ts";
import type { HostPlatform } from "../host_platform.ts";
import type { DomId, XenstoreOperations } from "../hypervisor.ts";
import { createMachine, type MachineUsage } from "../sim/machine.ts";
import { destroyDomain, machineUsage } from "../sim/platform.ts";
import { SimulatedStore } from "../sim/xenstore.ts";
import { type ImageLocks, ProcessImageLocks } from "../storage/image/lock.ts";
import { imageName, parseImage } from "../storage/image/spec.ts";
import type { PluginClient } from "../storage/plugin/types.ts";
import { Guest, type GuestOptions } from "./guest.ts";
import { HostUse } from "./idle_end.ts";
import { type FaultName, type FaultOptions, type InjectedFault, InjectedFaults } from "./injected_faults.ts";
import { type ProcessHost, SimulatedProcess } from "./process.ts";
import { TestService, type TestServiceOptions } from "./service.ts";

const DOM0 = 0 as DomId;
const DEFAULT_DOMAINS = 8;
const FORGOTTEN_AFTER_MS = 30_000;

/** A host to be made. */
export interface TestHostOptions {
  /** Memory of the machine, in bytes. It costs nothing until it is used. Default 256 MiB. */
  readonly memoryBytes?: number;
  /** Domains, domain 0 among them. Default 8. */
  readonly domains?: number;
  /** Grant references of each domain. Default 16384. */
  readonly grantsPerDomain?: number;
  /** The time of the backends on the host, such as a `SimulatedClock`. Default the system's. */
  readonly clock?: Clock;
  /** Locks that keep other users from images. Default: only users on this host exclude each other. */
  readonly imageLocks?: ImageLocks;
  /**
   * Runs disks in TypeScript that {@linkcode TestHost.attach} is given: `(await openNativePlatform()).plugins`. Default:
   * they are refused.
   */
  readonly plugins?: PluginClient;
  /**
   * A program whose main module has ended, and that has not used the host for so long, ends with status 1 and names what
   * it forgot to dispose; `deno test` ends by itself. In milliseconds. Default 30 000; Infinity: it runs on.
   */
  readonly forgottenAfterMs?: number;
}

/** The xenstore of a host, as the person who breaks it sees it. */
export interface TestStore {
  /** xenstored ends: all connections are lost, and none can be opened. */
  lose(): void;
  /** xenstored runs again, with the nodes that it had, or empty. */
  restore(options?: { readonly empty?: boolean }): void;
  /** xenstored answers nobody, as after SIGSTOP. */
  freeze(): void;
  /** It goes on with the nodes that it had. */
  thaw(): void;
  /** The value of a node. Throws {@linkcode XenblkError} while the store is lost. */
  read(path: string): string | undefined;
  /** Writes a node as a toolstack. Throws {@linkcode XenblkError} while the store is lost. */
  write(path: string, value: string): void;
}

/** What is in use on a host. */
export interface Holdings {
  /** Of the machine. */
  readonly usage: MachineUsage;
  /** The nodes of xenstore, sorted. */
  readonly nodes: readonly string[];
  /** Names of journals and locks. */
  readonly journals: readonly string[];
}

/** A simulated host. Disposing it ends what runs on it: disks and services first, guests last. */
export class TestHost implements AsyncDisposable {
  /** The machine: memory, grants and event channels of all domains. */
  readonly machine: SharedArrayBuffer;
  /** What this program has of the host, as a process of domain 0 that serves disks. */
  readonly platform: HostPlatform;
  /** Its xenstore. */
  readonly store: TestStore;
  readonly #store = new SimulatedStore();
  readonly #faults = new InjectedFaults();
  readonly #processHost: ProcessHost;
  readonly #domains: number;
  readonly #guests = new Map<number, Guest>();
  readonly #disks = new Set<AttachedDisk>();
  readonly #services = new Set<TestService>();
  readonly #images = new Set<string>();
  readonly #use: HostUse;
  #disposed = false;

  /** Made by {@linkcode testHost}. */
  constructor({ clock, imageLocks, plugins, forgottenAfterMs = FORGOTTEN_AFTER_MS, ...size }: TestHostOptions) {
    this.machine = createMachine({ domains: DEFAULT_DOMAINS, ...size });
    this.#domains = size.domains ?? DEFAULT_DOMAINS;
    this.#processHost = {
      machine: this.machine,
      store: this.#store,
      faults: this.#faults,
      imageLocks: new ProcessImageLocks(imageLocks, () => {}),
      clock,
    };
    const { platform } = new SimulatedProcess(this.#processHost);
    this.platform = plugins === undefined ? platform : Object.assign(platform, { plugins });
    this.store = this.#storeControls();
    this.#makeDirectories();
    const isBusy = (): boolean => this.guests.some(({ drives }) => drives.some(({ busy }) => busy));
    this.#use = new HostUse(isBusy, forgottenAfterMs);
    mustBeDisposed(() => this.#disposed ? undefined : this.#forgottenText());
  }

  /** The guests that run. */
  get guests(): readonly Guest[] {
    return [...this.#guests.values()];
  }

  /** Image files that were attached or added here, also if they are no longer. */
  get images(): readonly string[] {
    return [...this.#images];
  }

  /** Starts a guest, as a toolstack creates a domain. Rejects with {@linkcode XenblkError} if there is no room for it. */
  startGuest(options: GuestOptions = {}): Promise<Guest> {
    const free = Array.from({ length: this.#domains - 1 }, (_, i) => i + 1).find((domid) => !this.#guests.has(domid));
    const number = options.domid ?? free;
    if (number === undefined || this.#guests.has(number) || !(number > 0 && number < this.#domains)) {
      return Promise.reject(noRoom(number, this.#domains));
    }
    const domid = number as DomId;
    this.#store.createGuest(domid, options.name);
    const guest = new Guest({
      machine: this.machine,
      domid,
      options,
      connect: () => this.#store.connect(domid),
      toolstack: () => this.#store.connect(DOM0),
      use: this.#use,
      imageAdded: (image) => this.#imageAdded(image),
      crashed: () => {
        this.#guests.delete(domid);
        destroyDomain(this.machine, domid);
        this.#store.releaseDomain(domid);
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
    using _call = this.#use.call();
    const { clock } = this.#processHost;
    await this.#imageAdded(options.image);
    const disk = await attachOn(this.platform, { ...(clock === undefined ? {} : { clock }), ...options });
    this.#disks.add(disk);
    void disk.ended.then(({ reason }) => reason === "closed" ? this.#disks.delete(disk) : false);
    return disk;
  }

  /** Starts a service in a process of its own: it serves the disks that toolstacks add. */
  async serve(options: TestServiceOptions = {}): Promise<TestService> {
    using _call = this.#use.call();
    const service = await TestService.start(this.#processHost, options);
    this.#services.add(service);
    return service;
  }

  /** Makes calls of the backends to the hypervisor fail until it is disposed. Throws {@linkcode XenblkError} (`usage`). */
  inject(name: FaultName, options?: FaultOptions): InjectedFault {
    return this.#faults.inject(name, options);
  }

  /** What is in use: equal before and after something, and it left nothing behind. */
  holdings(): Holdings {
    using store = this.#store.connect(DOM0);
    return {
      usage: machineUsage(this.machine),
      nodes: nodesBelow(store, "/"),
      journals: this.platform.journals.names().toSorted(),
    };
  }

  /** Ends what runs on it. Rejects with what could not be ended in order. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await using undo = new AsyncDisposableStack();
    undo.use(this.#use);
    undo.defer(() => this.guests.forEach((guest) => guest.crash()));
    for (const service of this.#services) if (service.running) undo.use(service);
    for (const disk of this.#disks) undo.use(disk);
  }

  /** What has not ended, in words: drives, disks and services. */
  get unended(): readonly string[] {
    return [
      ...this.guests.flatMap(({ name, drives }) => drives.map(({ vdev }) => `drive ${vdev} of ${name}`)),
      ...[...this.#disks].map(({ vdev, guest }) => `disk ${vdev} of domain ${guest.domain}`),
      ...[...this.#services].filter(({ running }) => running).map(() => "a service"),
    ];
  }

  #forgottenText(): string {
    const what = [...this.guests.map(({ name }) => `guest ${name}`), ...this.unended];
    const parts = what.length === 0 ? "" : ` (with ${what.join(", ")})`;
    return `a test host was not disposed${parts}: declare it with \`await using host = await testHost()\``;
  }

  async #imageAdded(image: string): Promise<void> {
    const { format, target } = imageName(await parseImage(image));
    if (format === "raw") this.#images.add(target);
  }

  /** Directories that outlive a disk, so that they are no difference between before and after. */
  #makeDirectories(): void {
    using store = this.#store.connect(DOM0);
    store.makeDirectory("/local/domain/0/backend");
    store.makeDirectory("/libxl");
  }

  #storeControls(): TestStore {
    const store = this.#store;
    return {
      lose: () => store.stop(),
      restore: (options) => {
        store.start(options);
        for (const guest of this.guests) guest.storeRestored();
      },
      freeze: () => store.freeze(),
      thaw: () => store.thaw(),
      read: (path) => {
        using connection = store.connect(DOM0);
        return connection.read(path);
      },
      write: (path, value) => {
        using connection = store.connect(DOM0);
        connection.write(path, value);
      },
    };
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

function noRoom(domid: number | undefined, domains: number): XenblkError {
  const what = domid === undefined ? "another guest" : `a guest as domain ${domid}`;
  return new XenblkError(`Cannot start ${what}: the host has room for the domains 1 to ${domains - 1}, each once`, {
    kind: "usage",
    remedy: "give testHost more domains",
  });
}

function nodesBelow(store: XenstoreOperations, path: string): string[] {
  const below = (store.list(path) ?? []).toSorted().flatMap((name) =>
    nodesBelow(store, path === "/" ? `/${name}` : `${path}/${name}`)
  );
  return [path, ...below];
}
